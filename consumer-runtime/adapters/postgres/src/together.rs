//! Requests that go to the server together: those that come while others are on their way wait, and go as one.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Semaphore, oneshot};

/// Requests of one kind. As many as there are callers wait, and those the engine bounds.
pub(crate) struct Together<Q, A> {
    waiting: Mutex<VecDeque<(Q, oneshot::Sender<A>)>>,
    /// One for each batch that may be on its way.
    turns: Semaphore,
    /// Requests of one batch.
    most: usize,
}

impl<Q, A> Together<Q, A> {
    /// At most `batches` are on their way at once, each of at most `most` requests.
    pub(crate) fn new(batches: usize, most: usize) -> Self {
        Self { waiting: Mutex::default(), turns: Semaphore::new(batches), most }
    }

    /// The answer to a request. Whoever has the turn sends what waits, with `send`, which gives an answer to each request in
    /// their order. Nothing where the one who sent this request was cut.
    pub(crate) async fn ask<F: Future<Output = Vec<A>>>(&self, request: Q, send: impl Fn(Vec<Q>) -> F) -> Option<A> {
        let (sender, mut answer) = oneshot::channel();
        self.waiting().push_back((request, sender));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.ok(),
                turn = self.turns.acquire() => {
                    let (requests, senders) = self.take();
                    if requests.is_empty() {
                        // Ours is on its way with somebody else's.
                        drop(turn);
                        return answer.await.ok();
                    }
                    let answers = send(requests).await;
                    drop(turn);
                    for (sender, answer) in senders.into_iter().zip(answers) {
                        // Who waits no longer asks again.
                        drop(sender.send(answer));
                    }
                }
            }
        }
    }

    fn take(&self) -> (Vec<Q>, Vec<oneshot::Sender<A>>) {
        let mut waiting = self.waiting();
        let count = waiting.len().min(self.most);
        waiting.drain(..count).filter(|(_, sender)| !sender.is_closed()).unzip()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Q, oneshot::Sender<A>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
