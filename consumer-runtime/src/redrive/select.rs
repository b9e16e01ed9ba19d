//! Which dead letters are put back. Pure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_core::letters::StoredLetter;
use millrace_events::{DeadLetter, Event};

use crate::redrive::args::RedriveArgs;

/// What became of the letters so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Letters that the filter is for, those of earlier runs included.
    pub(super) matched: u64,
    /// Of those, left where they are because they were put back too often.
    pub(super) parked: u64,
    /// Of those, left where they are because they cannot be read.
    pub(super) unreadable: u64,
    /// Taken to be put back, by earlier runs too.
    pub(super) taken: u64,
}

/// Selects letters by the command line, and counts.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    args: RedriveArgs,
    consumer: String,
    counts: Arc<Mutex<Counts>>,
}

impl Filter {
    pub(super) fn new(args: RedriveArgs, consumer: String) -> Self {
        Self { args, consumer, counts: Arc::default() }
    }

    /// Earlier runs have taken so many. They count.
    pub(super) fn after(&self, earlier: u64) {
        let mut counts = self.lock();
        (counts.matched, counts.taken) = (earlier, earlier);
    }

    pub(super) fn counts(&self) -> Counts {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        let RedriveArgs { reasons, subjects, from, until, event_ids, .. } = &self.args;
        letter.consumer == self.consumer
            && (reasons.is_empty() || reasons.contains(&letter.reason))
            && (subjects.is_empty() || subjects.iter().any(|subject| **subject == *letter.origin.subject))
            && from.is_none_or(|from| letter.last_failure >= from)
            && until.is_none_or(|until| letter.last_failure < until)
            && (event_ids.is_empty() || event_id(letter).is_some_and(|id| event_ids.contains(&id)))
    }

    /// The letter, if it is to be put back; nothing to leave it where it is.
    pub(super) fn take(&self, stored: StoredLetter) -> Option<DeadLetter> {
        let mut counts = self.lock();
        let letter = match stored.letter {
            Ok(letter) if self.matches(&letter) => letter,
            Ok(_) => return None,
            Err(problem) => {
                tracing::warn!(place = %stored.place, problem, "a dead letter cannot be read; it stays where it is");
                counts.unreadable = counts.unreadable.saturating_add(1);
                return None;
            }
        };
        counts.matched = counts.matched.saturating_add(1);
        if letter.replays >= self.args.max_replays {
            counts.parked = counts.parked.saturating_add(1);
            return None;
        }
        counts.taken = counts.taken.saturating_add(1);
        Some(letter)
    }

    /// Whether no more are to be taken.
    pub(super) fn is_complete(&self) -> bool {
        self.counts().taken >= u64::from(self.args.max_messages)
    }
}

/// The id of the event, where the letter is of one that can be read.
pub(super) fn event_id(letter: &DeadLetter) -> Option<String> {
    let event = Event::decode(&letter.headers, &letter.payload, &letter.origin).ok()?;
    Some(event.id.to_string())
}
