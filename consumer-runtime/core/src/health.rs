//! What keeps this process from handling events.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A part that a consumer needs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Part {
    /// Where the events come from and dead letters go.
    Broker,
    /// Where claims are kept.
    Store,
    /// What is done with an event.
    Handler,
    /// The circuit breaker before the handler.
    Circuit,
    /// Taking events at all.
    Intake,
}

/// Why a part does not work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TroubleReason {
    /// The connection is being made for the first time.
    Connecting,
    /// No server answers at the given address.
    Unreachable,
    /// The server refuses the credentials, or they do not allow what is asked.
    Unauthorized,
    /// A Secret does not exist, or lacks a key.
    SecretMissing,
    /// A Secret is there, and what it holds cannot be used.
    SecretInvalid,
    /// The two sides do not trust each other's certificates.
    TlsFailed,
    /// The handler may not call the address that it is given.
    AddressNotAllowed,
    /// The stream does not exist.
    StreamNotFound,
    /// A topic does not exist.
    TopicNotFound,
    /// No stream covers the dead-letter subject.
    DeadLetterStreamNotFound,
    /// The durable exists with settings that cannot be changed, or was deleted.
    DurableConflict,
    /// The bucket exists with settings that do not fit.
    BucketConflict,
    /// The server lacks something that is asked of it.
    Unsupported,
    /// Tables of the database are not what this release knows.
    SchemaConflict,
    /// The store forgets claims in its everyday work.
    StoreUnsafe,
    /// The server answers with an error.
    Failing,
    /// The handler fails for every event.
    CircuitOpen,
    /// An event was given up, and nothing is taken until somebody has looked.
    Paused,
}

/// One thing that keeps a part from working.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// Its stable name.
    pub reason: TroubleReason,
    /// What is wrong and what to do, for a person. No secret.
    pub message: String,
}

impl Trouble {
    /// A trouble with its message.
    pub fn new(reason: TroubleReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What weakens the promise of a consumer while all its parts work.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum NoteReason {
    /// Done events are forgotten while the broker may still deliver them.
    RetentionTooShort,
    /// The store may lose what it has confirmed.
    StoreNotDurable,
}

/// The health of all parts. Every part is in trouble until it has been seen to work.
#[derive(Debug)]
pub struct Health {
    troubles: Mutex<BTreeMap<Part, Trouble>>,
    notes: Mutex<BTreeMap<NoteReason, String>>,
}

impl Health {
    /// The health of a process that has just started and needs `parts`.
    pub fn starting(parts: impl IntoIterator<Item = Part>) -> Self {
        let starting = |part| (part, Trouble::new(TroubleReason::Connecting, "connecting"));
        Self { troubles: Mutex::new(parts.into_iter().map(starting).collect()), notes: Mutex::default() }
    }

    /// A part works. Whether that is news.
    pub fn works(&self, part: Part) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).remove(&part).is_some()
    }

    /// A part does not work. Whether that is news.
    pub fn fails(&self, part: Part, trouble: Trouble) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(part, trouble.clone()) != Some(trouble)
    }

    /// Everything that does not work now.
    pub fn troubles(&self) -> Vec<(Part, Trouble)> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(part, trouble)| (*part, trouble.clone())).collect()
    }

    /// Takes note of what weakens the promise, for a person, or that it does so no longer. It keeps nothing from working.
    pub fn note(&self, reason: NoteReason, message: Option<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(message) => drop(notes.insert(reason, message)),
            None => drop(notes.remove(&reason)),
        }
    }

    /// Everything that weakens the promise now.
    pub fn notes(&self) -> Vec<(NoteReason, String)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(reason, message)| (*reason, message.clone())).collect()
    }

    /// Whether every part works.
    pub fn is_ready(&self) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
