//! The dead letters of a consumer as a source: a letter that is done leaves its stream, any other stays there.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    ports::{ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::Clock,
    window::Budget,
};
use millrace_events::DeadLetter;
use tokio::sync::watch;

use crate::jetstream::letters::{DeadLetterStream, StoredLetter};

/// Decides about each letter that the reader comes to.
pub trait Selection: Send {
    /// The letter, if it is to be delivered; nothing to leave it where it is.
    fn take(&mut self, stored: StoredLetter) -> Option<DeadLetter>;
    /// Whether no more are to be taken.
    fn is_complete(&self) -> bool;
}

/// Reads the selected letters, once, in the order in which they were written.
pub struct LetterReader<S> {
    letters: DeadLetterStream,
    selection: S,
    clock: Arc<dyn Clock>,
    behind: u64,
    ended: watch::Sender<bool>,
}

/// Takes the letters that are done out of their stream.
#[derive(Clone, Debug)]
pub struct LetterSettler(DeadLetterStream);

impl<S: Selection> LetterReader<S> {
    /// A reader and its settler. The last value turns true when there is nothing more to read.
    pub fn new(
        letters: DeadLetterStream,
        selection: S,
        clock: Arc<dyn Clock>,
    ) -> (Self, LetterSettler, watch::Receiver<bool>) {
        let (ended, has_ended) = watch::channel(false);
        let settler = LetterSettler(letters.clone());
        (Self { letters, selection, clock, behind: 0, ended }, settler, has_ended)
    }
}

#[async_trait]
impl<S: Selection> Reader for LetterReader<S> {
    async fn next_batch(&mut self, _budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        while !self.selection.is_complete() {
            let found = self.letters.next(self.behind).await.map_err(|error| ReadError::ForNow(error.to_string()))?;
            let Some(stored) = found else { break };
            self.behind = stored.sequence;
            if let Some(letter) = self.selection.take(stored) {
                return Ok(vec![delivery(self.behind, &letter, self.clock.as_ref())]);
            }
        }
        self.ended.send_replace(true);
        std::future::pending().await
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        None
    }
}

#[async_trait]
impl Settler for LetterSettler {
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError> {
        match (receipt, settlement) {
            (Receipt::Place(Place { offset, .. }), Settlement::Done) => {
                let sequence = u64::try_from(*offset).map_err(|error| SettleError(error.to_string()))?;
                self.0.remove(sequence).await.map_err(|error| SettleError(error.to_string()))
            }
            (_, Settlement::Done | Settlement::RetryAfter(_) | Settlement::Extend) => Ok(()),
        }
    }

    async fn flush(&self) -> Result<(), SettleError> {
        Ok(())
    }

    fn redelivery(&self) -> Redelivery {
        Redelivery::ToTheNextReader
    }
}

fn delivery(sequence: u64, letter: &DeadLetter, clock: &dyn Clock) -> Delivery {
    Delivery {
        position: Position(sequence),
        delivered_count: 1,
        receipt: Receipt::Place(Place { lane: 0, epoch: 0, offset: i64::try_from(sequence).unwrap_or(i64::MAX) }),
        lane: 0,
        origin: letter.origin.clone(),
        headers: letter.replay_headers(),
        payload: letter.payload.clone(),
        key: letter.key.clone(),
        // Its age is no reason to give it up again.
        published_at: None,
        received_at: clock.monotonic(),
    }
}
