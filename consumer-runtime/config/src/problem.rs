//! One thing that is wrong with a configuration.

use std::fmt::{self, Write as _};

/// One thing that is wrong with a configuration: where, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Path of the field, for example `delivery.attemptTimeoutSeconds`.
    pub field: String,
    /// The rule that is broken, as an instruction.
    pub message: String,
}

impl Problem {
    /// A problem of one field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// All problems in one line, separated by semicolons.
pub fn list(problems: &[Problem]) -> String {
    let mut text = String::new();
    for (index, problem) in problems.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        write!(text, "{separator}{problem}").expect("writing to a String cannot fail");
    }
    text
}
