//! One thing that is wrong with a configuration.

use std::fmt;

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
