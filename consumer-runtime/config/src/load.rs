//! Reading a configuration: text in, a valid configuration or all its problems out.

use crate::{Problem, RuntimeConfig, problem};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not YAML, or a field has the wrong type or is missing.
    #[error("failed to read the configuration: {0}")]
    Syntax(#[from] serde_yaml::Error),
    /// It can be read, and breaks rules.
    #[error("the configuration has {} problem(s): {}", .0.len(), problem::list(.0))]
    Problems(Vec<Problem>),
}

/// Reads a configuration and checks all of it.
///
/// # Errors
/// Names every rule that is broken, and every field that is not known, at once.
pub fn load(yaml: &str) -> Result<RuntimeConfig, LoadError> {
    let mut problems = Vec::new();
    let config: RuntimeConfig = serde_ignored::deserialize(serde_yaml::Deserializer::from_str(yaml), |path| {
        problems.push(Problem::new(path.to_string(), "unknown field; remove it or correct its name"));
    })?;
    problems.extend(config.problems());
    if problems.is_empty() { Ok(config) } else { Err(LoadError::Problems(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
consumer: {namespace: shop, name: order-emails}
broker: {jetStream: {servers: ['nats://127.0.0.1:4222']}}
subjects: [orders.placed]
handler: {log: {}}
delivery: {deadLetter: {subject: dlq.order-emails}}
";

    #[test]
    fn a_minimal_configuration_gets_the_documented_defaults() {
        let config = load(MINIMAL).unwrap();

        assert_eq!(config.queue_group(), "shop-order-emails");
        assert_eq!(config.workers, 16);
        assert_eq!(config.delivery.max_attempts, 5);
        assert_eq!(config.store().unwrap().jet_stream_kv.unwrap().bucket, "millrace-idempotency");
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = load(
            "
consumer: {namespace: shop, name: order-emails}
broker: {}
subjects: ['orders..placed']
wrokers: 3
workers: 0
handler: {log: {}, analytics: {}}
delivery: {attemptTimeoutSeconds: 60}
",
        )
        .unwrap_err();

        let LoadError::Problems(problems) = error else { panic!("{error}") };
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        let expected = [
            "wrokers",
            "broker",
            "subjects[0]",
            "workers",
            "handler",
            "delivery.attemptTimeoutSeconds",
            "delivery.deadLetter",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn kafka_takes_topics_and_asks_for_a_named_store() {
        let kafka = MINIMAL.replace(
            "{jetStream: {servers: ['nats://127.0.0.1:4222']}}",
            "{kafka: {bootstrapServers: ['[::1]:9092']}}",
        );
        let named = format!("{kafka}idempotency: {{store: {{memory: {{}}}}}}\n");
        assert_eq!(load(&named).unwrap().broker.servers(), ["[::1]:9092"]);

        let wrong = kafka
            .replace("[orders.placed]", "['orders.*']")
            .replace("[::1]:9092", "kafka://x")
            .replace("dlq.order-emails", "dlq/x");
        let LoadError::Problems(problems) = load(&wrong).unwrap_err() else { panic!() };
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(
            fields,
            ["broker.kafka.bootstrapServers[0]", "subjects[0]", "idempotency.store", "delivery.deadLetter.subject"]
        );
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let config = load(MINIMAL).unwrap();

        assert_eq!(load(&serde_yaml::to_string(&config).unwrap()).unwrap(), config);
    }
}
