//! What is ready for the workers. The window bounds it.
//!
//! A worker takes several deliveries at once while none of them waits for anything: what the engine does around a handler
//! is then paid once for all of them. As soon as one waits, the others go back, so that no delivery stands behind a slow
//! one while a worker is idle.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_core::delivery::Delivery;
use tokio::sync::Notify;

/// Most deliveries that a worker takes at once: enough for what is paid once not to show, and few enough for the ack of the
/// first not to wait long for the last.
const STRIDE_MAX: usize = 32;

/// A worker that was busy for longer than this with what it took takes less: others could have helped it.
const STRIDE_TIME: Duration = Duration::from_millis(1);

/// What is ready for the workers.
#[derive(Debug, Default)]
pub(crate) struct Work {
    queue: Mutex<Queue>,
    added: Notify,
    /// How many the next worker takes.
    stride: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Delivery>,
    closed: bool,
}

impl Work {
    /// Puts deliveries behind those that are ready. Once it is closed they come back.
    pub(crate) fn put<D>(&self, deliveries: D) -> D
    where
        D: IntoIterator<Item = Delivery> + Default,
    {
        let mut queue = self.queue();
        if queue.closed {
            return deliveries;
        }
        queue.ready.extend(deliveries);
        drop(queue);
        self.added.notify_one();
        D::default()
    }

    /// Waits for deliveries, and takes as many as are worth taking at once; none when it is closed and empty.
    pub(crate) async fn take(&self) -> Option<VecDeque<Delivery>> {
        loop {
            let added = self.added.notified();
            {
                let mut queue = self.queue();
                let most = self.stride.load(Ordering::Relaxed).max(1).min(queue.ready.len());
                if most > 0 {
                    let taken = queue.ready.drain(..most).collect();
                    let is_empty = queue.ready.is_empty();
                    drop(queue);
                    // One wakes the next, so that a few that are done at once wake nobody.
                    if !is_empty {
                        self.added.notify_one();
                    }
                    return Some(taken);
                }
                if queue.closed {
                    return None;
                }
            }
            added.await;
        }
    }

    /// One of those that a worker took waits: the others go back in front, to whoever is free. Once it is closed they come
    /// back.
    pub(crate) fn one_waits(&self, mut others: VecDeque<Delivery>) -> VecDeque<Delivery> {
        self.stride.store(1, Ordering::Relaxed);
        if others.is_empty() {
            return others;
        }
        let mut queue = self.queue();
        if queue.closed {
            return others;
        }
        others.append(&mut queue.ready);
        queue.ready = others;
        drop(queue);
        self.added.notify_one();
        VecDeque::new()
    }

    /// None of those that a worker took waited, and it took so long.
    pub(crate) fn none_waited(&self, taken: usize, time: Duration) {
        let stride = if time > STRIDE_TIME { taken / 2 } else { taken.saturating_mul(2).min(STRIDE_MAX) };
        self.stride.store(stride, Ordering::Relaxed);
    }

    /// Takes everything that is ready.
    pub(crate) fn take_all(&self) -> VecDeque<Delivery> {
        std::mem::take(&mut self.queue().ready)
    }

    /// Nothing is put any more. The workers end when it is empty.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.added.notify_waiters();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::samples::deliveries;

    const SHORT: Duration = Duration::from_micros(10);

    fn take(work: &Work) -> Option<VecDeque<Delivery>> {
        work.take().now_or_never().flatten()
    }

    fn positions(taken: Option<VecDeque<Delivery>>) -> Vec<u64> {
        taken.unwrap_or_default().iter().map(|delivery| delivery.position.0).collect()
    }

    #[test]
    fn a_worker_takes_more_while_none_waits_and_less_when_it_was_busy_for_long() {
        let work = Work::default();
        assert_eq!(work.put(deliveries(0..1000)).len(), 0);

        let mut counts = Vec::new();
        for _ in 0..8 {
            let taken = take(&work).unwrap().len();
            work.none_waited(taken, SHORT);
            counts.push(taken);
        }
        work.none_waited(STRIDE_MAX, STRIDE_TIME * 2);
        counts.push(take(&work).unwrap().len());

        assert_eq!(counts, [1, 2, 4, 8, 16, 32, 32, 32, 16]);
    }

    #[test]
    fn what_stands_behind_a_delivery_that_waits_goes_to_the_next_worker_in_its_order() {
        let work = Work::default();
        work.none_waited(STRIDE_MAX, SHORT);
        work.put(deliveries(0..40));
        let mut taken = take(&work).unwrap();
        taken.pop_front();

        assert_eq!(work.one_waits(taken).len(), 0);

        assert_eq!((positions(take(&work)), positions(take(&work))), (vec![1], vec![2]));
        work.none_waited(STRIDE_MAX, SHORT);
        assert_eq!(positions(take(&work)), (3..35).collect::<Vec<_>>());
    }

    #[test]
    fn once_it_is_closed_nothing_is_put_and_workers_end_after_what_is_ready() {
        let work = Work::default();
        work.put(deliveries(0..2));
        let waiting = take(&work).unwrap();
        work.close();

        assert_eq!(work.put(deliveries(2..3)).len(), 1);
        assert_eq!(work.one_waits(waiting).len(), 1);
        assert_eq!(positions(work.take().now_or_never().unwrap()), [1]);
        assert_eq!(work.take().now_or_never().unwrap().map(|taken| taken.len()), None);
    }

    #[tokio::test]
    async fn one_put_wakes_as_many_workers_as_there_is_work_for() {
        let work = Work::default();
        let workers = futures::future::join_all((0..3).map(|_| work.take()));
        let (taken, _) = tokio::join!(workers, async { work.put(deliveries(0..3)).len() });

        let taken: Vec<u64> = taken.into_iter().flat_map(positions).collect();
        assert_eq!(taken, [0, 1, 2]);
    }
}
