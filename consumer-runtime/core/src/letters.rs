//! Dead letters where they are kept: what a redrive needs of a broker.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use millrace_events::DeadLetter;

/// Where a dead letter is kept. Shown as `42`, or as `3#42` where the broker has partitions.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LetterPlace {
    /// The partition, on brokers that have partitions.
    pub partition: Option<u32>,
    /// The place in the stream or partition.
    pub sequence: u64,
}

/// A dead letter that is kept.
#[derive(Clone, Debug)]
pub struct StoredLetter {
    /// Where.
    pub place: LetterPlace,
    /// The dead letter, or why it cannot be read.
    pub letter: Result<DeadLetter, String>,
}

/// A dead letter that could not be read, put back or taken out.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// They cannot be read, for now.
    #[error("failed to read the dead letters: {0}")]
    Read(String),
    /// They cannot be read, and asking again does not help.
    #[error("the dead letters cannot be read: {0}")]
    Unreadable(String),
    /// The broker has not confirmed the message, or has dropped it.
    #[error("failed to put a dead letter back: {0}")]
    PutBack(String),
    /// It still counts as waiting.
    #[error("failed to take out a dead letter: {0}")]
    TakeOut(String),
}

/// Reads the dead letters that are not taken out, once, each lane in the order in which it was written, up to those that
/// were the last when the reader was made. Later ones are left for another time.
#[async_trait]
pub trait LetterReader: Send {
    /// The next one; nothing when there are no more. Cancel safe. After `Read` it may be asked again.
    async fn next(&mut self) -> Result<Option<StoredLetter>, LettersError>;
}

/// Puts dead letters back and takes them out.
#[async_trait]
pub trait LetterKeeper: Send + Sync {
    /// Publishes the original message again, where it came from, and returns when the broker has it.
    async fn put_back(&self, letter: &DeadLetter) -> Result<(), LettersError>;

    /// From now on a letter is not read any more. Returns when the broker has confirmed that. Repeating it is safe.
    async fn take_out(&self, place: LetterPlace, letter_id: &str) -> Result<(), LettersError>;
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(partition) = self.partition {
            write!(formatter, "{partition}#")?;
        }
        write!(formatter, "{}", self.sequence)
    }
}

/// A text that is no place.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the place of a dead letter; expected 42 or 3#42")]
pub struct InvalidPlace;

impl FromStr for LetterPlace {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (partition, sequence) = match text.split_once('#') {
            Some((partition, sequence)) => (Some(partition.parse().map_err(|_| InvalidPlace)?), sequence),
            None => (None, text),
        };
        Ok(Self { partition, sequence: sequence.parse().map_err(|_| InvalidPlace)? })
    }
}
