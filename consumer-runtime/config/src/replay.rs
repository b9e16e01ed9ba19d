//! What a redrive says of itself, and the words that it is asked in: the contract with `DeadLetterReplay`.

use serde::{Deserialize, Serialize};

/// What a redrive has come to. It is written as JSON where `--report` says, which is the termination message of a pod.
///
/// Each letter is in one of the counts, also over runs that were killed and went on from a journal.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayReport {
    /// Letters that the filter is for, those that earlier runs have taken out included.
    pub matched: u64,
    /// Taken out because their event was handled, or is back at its source.
    pub succeeded: u64,
    /// To the handler: taken out, and a new dead letter is there, because their event failed again. To the source: not put
    /// back, and left where they are.
    pub failed: u64,
    /// Left where they are because they were put back too often.
    pub parked: u64,
    /// Left where they are because they cannot be read. They are in no other count.
    pub unreadable: u64,
    /// Whether it came to its end: nothing is in hand, and there is nothing more to be put back.
    pub ended: bool,
    /// Whether this process does nothing more: it was told to stop, or it came to its end.
    pub stopped: bool,
    /// The first letters of a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<ReplayLetter>,
}

/// A letter of a dry run.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayLetter {
    /// The id of its event; absent where the event cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// Where it came from.
    pub origin: String,
    /// How often it was put back.
    pub replays: u32,
}

/// Most letters of a dry run in a report, and most bytes of them: the kubelet takes 4 KiB of a termination message.
pub const REPLAY_LETTERS_MAX: usize = 20;

/// The bytes that these letters may take as JSON.
pub const REPLAY_LETTERS_MAX_BYTES: usize = 3584;
