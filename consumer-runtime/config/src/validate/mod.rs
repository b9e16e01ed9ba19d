//! The rules of a configuration. Pure: the operator applies them to what it renders, the runtime to what it reads.

mod broker;
mod delivery;
mod handler;
mod idempotency;
mod ordering;
mod subject;

use crate::{
    Problem, RuntimeConfig,
    validate::subject::{is_subject_filter, is_topic},
};

impl RuntimeConfig {
    /// Every rule that this configuration breaks.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        broker::check(&self.broker, &mut problems);
        self.check_subjects(&mut problems);
        check_range("workers", self.workers, 1, 4096, &mut problems);
        self.check_queue_group(&mut problems);
        ordering::check(self, &mut problems);
        idempotency::check(self, &mut problems);
        handler::check(&self.handler, &self.consumer.namespace, &mut problems);
        delivery::check(self, &mut problems);
        problems
    }

    fn check_subjects(&self, problems: &mut Vec<Problem>) {
        if self.subjects.is_empty() {
            problems.push(Problem::new("subjects", "name at least one subject"));
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            if self.broker.kafka.is_some() {
                if !is_topic(subject) {
                    problems.push(Problem::new(
                        format!("subjects[{index}]"),
                        format!("{subject:?} is not a topic: use letters, digits, '.', '_' and '-', and no wildcards"),
                    ));
                }
            } else if !is_subject_filter(subject) {
                problems.push(Problem::new(
                    format!("subjects[{index}]"),
                    format!(
                        "{subject:?} is not a subject: use tokens joined by '.', '*' for one token, '>' only at the end"
                    ),
                ));
            }
        }
    }

    fn check_queue_group(&self, problems: &mut Vec<Problem>) {
        let queue_group = self.queue_group();
        if queue_group.is_empty() || queue_group.len() > 128 || !queue_group.bytes().all(is_name_byte) {
            problems.push(Problem::new(
                "queueGroup",
                format!("{queue_group:?} is not a queue group: use 1 to 128 letters, digits, '-' and '_'"),
            ));
        }
    }
}

fn check_range(field: &str, value: u32, min: u32, max: u32, problems: &mut Vec<Problem>) {
    if !(min..=max).contains(&value) {
        problems.push(Problem::new(field, format!("{value} is out of range: use {min} to {max}")));
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
