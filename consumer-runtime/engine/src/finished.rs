//! Deliveries that were carried through, until they are settled. Handlers that wait are woken many at a time: what ends
//! together is settled together, whoever carried it, so that the locks and the word to the broker are paid once.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::settle::Carried;

/// What is to be settled.
#[derive(Default)]
pub(crate) struct Finished(Mutex<Batch>);

/// What is settled together.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) carried: Vec<Carried>,
    /// How long the attempts took.
    pub(crate) attempts: Vec<Duration>,
}

impl Finished {
    /// Adds some. Whether they are the first: then the caller is the one to take and settle whatever is there by then.
    pub(crate) fn add(&self, carried: Vec<Carried>, attempts: &mut Vec<Duration>) -> bool {
        let mut batch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batch.attempts.append(attempts);
        let is_first = batch.carried.is_empty() && !carried.is_empty();
        if is_first {
            batch.carried = carried;
        } else {
            batch.carried.extend(carried);
        }
        is_first
    }

    /// Takes all that are there.
    pub(crate) fn take(&self) -> Batch {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::deliveries;

    fn carried(position: u64) -> Vec<Carried> {
        let deliveries = deliveries(position..position + 1).into_iter();
        deliveries.map(|delivery| Carried { delivery, settlement: None }).collect()
    }

    #[test]
    fn the_first_takes_what_others_add_and_after_that_another_is_the_first() {
        let (finished, attempt) = (Finished::default(), Duration::from_millis(1));
        let add = |position| finished.add(carried(position), &mut vec![attempt]);
        let take = || {
            let Batch { carried, attempts } = finished.take();
            (carried.iter().map(|one| one.delivery.position.0).collect::<Vec<_>>(), attempts.len())
        };

        assert_eq!([add(1), add(2), add(3)], [true, false, false]);
        assert_eq!(take(), (vec![1, 2, 3], 3));
        assert_eq!((add(4), take()), (true, (vec![4], 1)));
        assert_eq!(take(), (Vec::new(), 0));
    }
}
