//! NATS subjects and Kafka topics.

/// Whether `topic` is the name of a Kafka topic.
pub(super) fn is_topic(topic: &str) -> bool {
    (1..=249).contains(&topic.len())
        && !matches!(topic, "." | "..")
        && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether `subject` is a NATS subject, wildcards allowed.
pub(super) fn is_subject_filter(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        let valid = match token {
            "" => false,
            ">" => tokens.peek().is_none(),
            "*" => true,
            _ => {
                !token.contains(['*', '>'])
                    && !token.chars().any(|character| character.is_whitespace() || character.is_control())
            }
        };
        if !valid {
            return false;
        }
    }
    subject.len() <= 255
}

/// Whether the NATS subject filter `filter` matches `subject`.
pub(super) fn subject_matches(filter: &str, subject: &str) -> bool {
    let mut subject_tokens = subject.split('.');
    for token in filter.split('.') {
        match (token, subject_tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    subject_tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_filters_match_as_the_nats_server_matches_them() {
        for (filter, subject, expected) in [
            ("orders.placed", "orders.placed", true),
            ("orders.*", "orders.placed", true),
            ("orders.*", "orders.placed.eu", false),
            ("orders.>", "orders.placed.eu", true),
            ("orders.>", "orders", false),
            (">", "dlq.orders", true),
            ("orders", "orders.placed", false),
        ] {
            assert_eq!(subject_matches(filter, subject), expected, "{filter} {subject}");
        }
    }

    #[test]
    fn topics_are_names_that_kafka_takes() {
        for (topic, expected) in
            [("orders.placed", true), ("a_b-C.1", true), ("", false), ("..", false), ("orders.*", false)]
        {
            assert_eq!(is_topic(topic), expected, "{topic:?}");
        }
        assert!(!is_topic(&"x".repeat(250)));
    }

    #[test]
    fn malformed_subjects_are_refused() {
        for subject in ["", ".", "a..b", "a.>.b", "a b", "a.b*", "a\n"] {
            assert!(!is_subject_filter(subject), "{subject:?}");
        }
    }
}
