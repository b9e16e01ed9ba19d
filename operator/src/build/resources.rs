//! The resources of a pod: what was asked for, and defaults that fit it.

use std::{cmp::Ordering, collections::BTreeMap};

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use millrace_operator_api::Resources;

const REQUESTS: [(&str, &str); 2] = [("cpu", "25m"), ("memory", "32Mi")];
const LIMITS: [(&str, &str); 1] = [("memory", "256Mi")];

/// A default gives way to what was asked for: Kubernetes refuses a request above its limit.
pub(super) fn build(wanted: &Resources) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(with_defaults(&wanted.requests, &REQUESTS, &wanted.limits, Ordering::Less)),
        limits: Some(with_defaults(&wanted.limits, &LIMITS, &wanted.requests, Ordering::Greater)),
        ..ResourceRequirements::default()
    }
}

/// What is `wanted`, and `defaults` beside it. In place of a default stands what the `others` say, where that is less, or
/// greater.
fn with_defaults(
    wanted: &BTreeMap<String, String>,
    defaults: &[(&str, &str)],
    others: &BTreeMap<String, String>,
    where_it_is: Ordering,
) -> BTreeMap<String, Quantity> {
    let fitting = |name: &str, default: &str| {
        let other = others.get(name).filter(|other| amount(other).total_cmp(&amount(default)) == where_it_is);
        other.map_or(default, String::as_str).to_owned()
    };
    let defaults = defaults.iter().map(|(name, default)| ((*name).to_owned(), fitting(name, default)));
    let wanted = wanted.iter().map(|(name, quantity)| (name.clone(), quantity.clone()));
    defaults.chain(wanted).map(|(name, quantity)| (name, Quantity(quantity))).collect()
}

/// The number that a quantity stands for. Its form is checked at admission.
fn amount(quantity: &str) -> f64 {
    let number = quantity.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor = match quantity.strip_prefix(number).unwrap_or_default() {
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2_f64.powi(10),
        "Mi" => 2_f64.powi(20),
        "Gi" => 2_f64.powi(30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        _ => 1.0,
    };
    number.parse().unwrap_or(0.0) * factor
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn built(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Value {
        let map = |all: &[(&str, &str)]| {
            all.iter().map(|(name, quantity)| ((*name).to_owned(), (*quantity).to_owned())).collect::<BTreeMap<_, _>>()
        };
        serde_json::to_value(build(&Resources { requests: map(requests), limits: map(limits) })).unwrap()
    }

    #[test]
    fn a_default_never_contradicts_what_was_asked_for() {
        let plain = json!({"requests": {"cpu": "25m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
        assert_eq!(built(&[], &[]), plain);

        let small = json!({"requests": {"cpu": "0.01", "memory": "16M"}, "limits": {"cpu": "0.01", "memory": "16M"}});
        assert_eq!(built(&[], &[("cpu", "0.01"), ("memory", "16M")]), small);

        let large = json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "1Gi"}});
        assert_eq!(built(&[("cpu", "2"), ("memory", "1Gi")], &[]), large);

        let between = json!({"requests": {"cpu": "25m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
        assert_eq!(built(&[("memory", "64Mi")], &[]), between);
    }
}
