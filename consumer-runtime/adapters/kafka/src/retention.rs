//! How long topics keep their events.

use std::{sync::Arc, time::Duration};

use millrace_core::kept::Kept;
use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier},
    config::FromClientConfigAndContext as _,
};

use crate::{check::Context, start::KafkaOptions, trouble::LastFailure};

/// How long each topic keeps an event, or why that is not known: this side may not be allowed to ask.
///
/// A broker deletes whole segments, so an event may stay for a segment's time longer.
pub async fn kept(options: &KafkaOptions) -> Vec<(String, Result<Kept, String>)> {
    let client = match client(options) {
        Ok(client) => client,
        Err(problem) => return options.topics.iter().map(|topic| (topic.clone(), Err(problem.clone()))).collect(),
    };
    let mut topics = Vec::with_capacity(options.topics.len());
    for topic in &options.topics {
        topics.push((topic.clone(), described(&client, topic, options.timing.request).await));
    }
    // Its end waits for a thread: not where other tasks run.
    drop(tokio::task::spawn_blocking(move || drop(client)));
    topics
}

fn client(options: &KafkaOptions) -> Result<AdminClient<Context>, String> {
    let config = options.connection.client_config().map_err(|trouble| trouble.message)?;
    let context = Context(Arc::new(LastFailure::default()));
    AdminClient::from_config_and_context(&config, context).map_err(|error| error.to_string())
}

async fn described(client: &AdminClient<Context>, topic: &str, limit: Duration) -> Result<Kept, String> {
    let limits = AdminOptions::new().request_timeout(Some(limit));
    let described = client.describe_configs(&[ResourceSpecifier::Topic(topic)], &limits).await;
    match described.map_err(|error| error.to_string())?.pop() {
        Some(Ok(settings)) => by_settings(&settings),
        Some(Err(code)) => Err(code.to_string()),
        None => Err("the broker does not answer the question".to_owned()),
    }
}

fn by_settings(topic: &ConfigResource) -> Result<Kept, String> {
    let setting = |name| topic.get(name).and_then(|entry| entry.value.as_deref());
    kept_by(setting("cleanup.policy"), setting("retention.ms"))
}

fn kept_by(cleanup_policy: Option<&str>, retention_ms: Option<&str>) -> Result<Kept, String> {
    let deletes = cleanup_policy.is_none_or(|policy| policy.split(',').any(|policy| policy.trim() == "delete"));
    if !deletes {
        // A compacted topic keeps the last event of each key, whatever its age.
        return Ok(Kept::Forever);
    }
    let milliseconds: Option<i64> = retention_ms.and_then(|milliseconds| milliseconds.trim().parse().ok());
    // The library keeps the broker's reason to itself, and shows no settings.
    let milliseconds = milliseconds
        .ok_or_else(|| "the broker does not tell retention.ms; grant DescribeConfigs on the topic".to_owned())?;
    Ok(u64::try_from(milliseconds).map_or(Kept::Forever, |milliseconds| Kept::For(Duration::from_millis(milliseconds))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_events_as_its_settings_say() {
        let week = Kept::For(Duration::from_hours(168));
        for (policy, retention, kept) in [
            (Some("delete"), Some("604800000"), week),
            (Some("compact, delete"), Some("604800000"), week),
            (Some("delete"), Some("-1"), Kept::Forever),
            (Some("compact"), Some("604800000"), Kept::Forever),
        ] {
            assert_eq!(kept_by(policy, retention), Ok(kept), "{policy:?} {retention:?}");
        }
        assert!(kept_by(Some("delete"), None).is_err());
    }
}
