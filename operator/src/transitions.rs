//! Which changes of a status are worth a Kubernetes Event: transitions, and nothing else. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use millrace_operator_api::EventConsumerStatus;

/// Conditions whose turn to `True` is bad news, and whose return is good news. `Ready` has its own rules.
const ABNORMAL: [&str; 3] = ["CircuitOpen", "DurabilityDegraded", "DeadLetterBacklog"];

/// The Events that the change from `old` to `new` is worth.
pub fn events(old: Option<&EventConsumerStatus>, new: &EventConsumerStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in &new.conditions {
        let before = old.and_then(|old| old.conditions.iter().find(|before| before.type_ == condition.type_));
        let warns = if condition.type_ == "Ready" {
            turned_ready(before, condition)
        } else if ABNORMAL.contains(&condition.type_.as_str()) {
            turned_abnormal(before, condition)
        } else {
            None
        };
        if let Some(warns) = warns {
            events.push(Event {
                type_: if warns { EventType::Warning } else { EventType::Normal },
                reason: condition.reason.clone(),
                // The API server takes 1 kB.
                note: Some(condition.message.chars().take(256).collect()),
                action: condition.type_.clone(),
                secondary: None,
            });
        }
    }
    events
}

/// Whether the Event warns; nothing when there is none. Being on the way is no news.
fn turned_ready(before: Option<&Condition>, now: &Condition) -> Option<bool> {
    let same = before.is_some_and(|before| before.status == now.status && before.reason == now.reason);
    if same || now.status == "Unknown" || (now.status == "False" && now.reason == "Progressing") {
        return None;
    }
    Some(now.status == "False")
}

fn turned_abnormal(before: Option<&Condition>, now: &Condition) -> Option<bool> {
    let was = before.is_some_and(|before| before.status == "True");
    match (was, now.status.as_str()) {
        (false, "True") => Some(true),
        (true, "False") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> EventConsumerStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, reason)| {
                json!({"type": type_, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({"conditions": conditions})).unwrap()
    }

    fn told(old: Option<&EventConsumerStatus>, new: &EventConsumerStatus) -> Vec<(bool, String)> {
        let events = events(old, new);
        events.into_iter().map(|event| (matches!(event.type_, EventType::Warning), event.reason)).collect()
    }

    #[test]
    fn only_what_turned_is_told() {
        let fresh = status(&[("Ready", "False", "Progressing"), ("DeadLetterBacklog", "Unknown", "NotReported")]);
        assert_eq!(told(None, &fresh), []);
        let ready = status(&[("Ready", "True", "AllReplicasReady"), ("DeadLetterBacklog", "False", "NoneWaiting")]);
        assert_eq!(told(Some(&fresh), &ready), [(false, "AllReplicasReady".to_owned())]);
        assert_eq!(told(Some(&ready), &ready), []);
        let bad = status(&[("Ready", "False", "Unreachable"), ("DeadLetterBacklog", "True", "LettersWaiting")]);
        let both = [(true, "Unreachable".to_owned()), (true, "LettersWaiting".to_owned())];
        assert_eq!(told(Some(&ready), &bad), both);
        assert_eq!(told(Some(&bad), &ready).len(), 2);
    }
}
