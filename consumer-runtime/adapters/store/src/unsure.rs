//! Claims of unknown fate, for the stores behind a network.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use millrace_core::{
    claim::{Record, State},
    key::Key,
    ports::StoreError,
};

/// Claims of unknown fate that are remembered. As many as can be in flight when a server dies.
const UNSURE_MAX: usize = 8192;

/// Claims that were sent and never confirmed, so that they are recognised as our own when they come to light.
#[derive(Debug, Default)]
pub(crate) struct Unsure(Mutex<HashMap<Key, Record>>);

impl Unsure {
    /// Takes note of how the writing of a claim ended.
    pub(crate) fn note<T>(&self, key: &Key, record: &Record, written: &Result<T, StoreError>) {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_err() && unsure.len() < UNSURE_MAX {
            unsure.insert(*key, *record);
        } else if !unsure.is_empty() {
            unsure.remove(key);
        }
    }

    /// What a record says to this process. A claim that this process asked for and heard no answer to is its own: no
    /// attempt has started on it.
    pub(crate) fn without_own_claim(&self, key: &Key, record: Record) -> Record {
        let unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unsure.get(key) == Some(&record) {
            return Record { state: State::Released, ..record.unspent() };
        }
        record
    }
}
