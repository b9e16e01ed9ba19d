//! What the API server was asked to write, by its own count.

use std::collections::BTreeMap;

use millrace_operator_testkit::ApiServer;

/// Verbs that write, as the API server names them in its figures: `APPLY` is a server-side apply.
const WRITES: [&str; 6] = ["APPLY", "DELETE", "DELETECOLLECTION", "PATCH", "POST", "PUT"];

/// Written by the API server itself, without being asked.
const ITS_OWN: [&str; 8] = [
    "apiservices",
    "clusterrolebindings",
    "clusterroles",
    "flowschemas",
    "leases",
    "namespaces",
    "prioritylevelconfigurations",
    "services",
];

/// Writes so far, by verb and resource.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Writes(pub BTreeMap<String, u64>);

impl Writes {
    /// All that were asked for so far.
    pub async fn so_far(server: &ApiServer) -> Self {
        let mut writes = Self::default();
        for line in server.metrics().await.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|line| line.split_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let found = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""));
                found.map(|value| value.trim_end_matches('"')).unwrap_or_default()
            };
            let (verb, resource) = (label("verb"), label("resource"));
            if WRITES.contains(&verb) && !ITS_OWN.contains(&resource) {
                let name = [verb, resource, label("subresource")].join(" ").trim_end().to_owned();
                // A count is a float in this format, and whole.
                let value: f64 = value.parse().unwrap();
                *writes.0.entry(name).or_default() += format!("{value:.0}").parse::<u64>().unwrap();
            }
        }
        writes
    }

    /// Those since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let difference = |(name, count): (&String, &u64)| {
            let more = count - before.0.get(name).copied().unwrap_or_default();
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(difference).collect())
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
