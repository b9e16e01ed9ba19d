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

/// Claims of one event that are remembered: of several that were sent in vain, one may have been written.
const CLAIMS_MAX: usize = 8;

/// Claims that were sent and never confirmed, so that they are recognised as our own when they come to light.
#[derive(Debug, Default)]
pub(crate) struct Unsure(Mutex<HashMap<Key, Vec<Record>>>);

impl Unsure {
    /// Takes note of how the writing of a claim ended: whether it was written, or something else stood there, where that is
    /// known.
    pub(crate) fn note(&self, key: &Key, record: &Record, written: Result<bool, &StoreError>) {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Err(_) if unsure.len() < UNSURE_MAX || unsure.contains_key(key) => {
                let claims = unsure.entry(*key).or_default();
                claims.truncate(CLAIMS_MAX - 1);
                claims.push(*record);
            }
            // Those before it were on condition of what stood there then, and can be written no more.
            Ok(true) if !unsure.is_empty() => drop(unsure.remove(key)),
            // What stands there may be one of them.
            Ok(_) | Err(_) => {}
        }
    }

    /// What a record says to this process. A claim that this process asked for and heard no answer to is its own: no
    /// attempt has started on it.
    pub(crate) fn without_own_claim(&self, key: &Key, record: Record) -> Record {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claims) = unsure.get(key) else { return record };
        if claims.contains(&record) {
            return Record { state: State::Released, ..record.unspent() };
        }
        unsure.remove(key);
        record
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use millrace_core::{
        claim::{Verdict, Wish, judge},
        key::{ConsumerName, Fingerprint},
    };

    use super::*;

    fn claim(second: i64) -> Record {
        let wish = Wish { fingerprint: Fingerprint::OF_ANYTHING, lease: Duration::from_secs(40) };
        let verdict = judge(None, &wish, Timestamp::from_second(second).unwrap());
        let Verdict::Claim(record) = verdict else { panic!("{verdict:?}") };
        record
    }

    #[test]
    fn a_claim_of_unknown_fate_is_our_own_when_it_comes_to_light_whatever_was_tried_after_it() {
        let consumer = ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() };
        let key = Key::of_value(&consumer, b"1");
        let (unsure, unheard) = (Unsure::default(), StoreError::Unavailable(String::new()));
        unsure.note(&key, &claim(1), Err(&unheard));
        unsure.note(&key, &claim(2), Err(&unheard));
        // A third one finds that something stands there by now.
        unsure.note(&key, &claim(3), Ok(false));

        let seen = unsure.without_own_claim(&key, claim(1));
        assert_eq!((seen.state, seen.attempts), (State::Released, 0));

        let of_somebody_else = claim(4);
        assert_eq!(unsure.without_own_claim(&key, of_somebody_else), of_somebody_else);
        assert_eq!(unsure.without_own_claim(&key, claim(2)), claim(2), "it can have been written no more");
    }
}
