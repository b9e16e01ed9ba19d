//! Dead letters as a source: a letter that is done is taken out, any other stays where it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    letters::{LetterKeeper, LetterPlace, LetterReader, LettersError},
    ports::{ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::Clock,
    window::Budget,
};
use millrace_events::DeadLetter;
use tokio::sync::watch;

use crate::redrive::select::Filter;

/// Reads the letters that a filter takes, once.
pub(super) struct LetterSource {
    letters: Box<dyn LetterReader>,
    filter: Filter,
    clock: Arc<dyn Clock>,
    taken: Arc<Taken>,
    /// Letters taken so far: the number of the last.
    number: u32,
    ended: watch::Sender<bool>,
}

/// Takes out the letters that are done.
pub(super) struct LetterSettler {
    keeper: Arc<dyn LetterKeeper>,
    taken: Arc<Taken>,
}

/// The letters at work, by the number of their delivery. The window bounds them.
#[derive(Debug, Default)]
struct Taken(Mutex<HashMap<i64, Letter>>);

/// What takes a letter out.
#[derive(Clone, Debug)]
struct Letter {
    place: LetterPlace,
    id: String,
}

impl LetterSource {
    /// A source and its settler. The last value turns true when there is nothing more to read.
    pub(super) fn new(
        letters: Box<dyn LetterReader>,
        keeper: Arc<dyn LetterKeeper>,
        filter: Filter,
        clock: Arc<dyn Clock>,
    ) -> (Self, LetterSettler, watch::Receiver<bool>) {
        let (ended, has_ended) = watch::channel(false);
        let taken = Arc::<Taken>::default();
        let settler = LetterSettler { keeper, taken: Arc::clone(&taken) };
        (Self { letters, filter, clock, taken, number: 0, ended }, settler, has_ended)
    }

    fn delivery(&mut self, place: LetterPlace, letter: DeadLetter) -> Delivery {
        self.number = self.number.saturating_add(1);
        let offset = i64::from(self.number);
        let lane = place.partition.unwrap_or_default();
        let headers = letter.replay_headers();
        self.taken.lock().insert(offset, Letter { place, id: letter.id });
        Delivery {
            position: Position(self.number.into()),
            delivered_count: 1,
            receipt: Receipt::Place(Place { lane, epoch: 0, offset }),
            lane,
            origin: letter.origin,
            headers,
            payload: letter.payload,
            key: letter.key,
            // Its age is no reason to give it up again.
            published_at: None,
            received_at: self.clock.monotonic(),
        }
    }
}

#[async_trait]
impl Reader for LetterSource {
    async fn next_batch(&mut self, _budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        while !self.filter.is_complete() {
            let Some(stored) = self.letters.next().await.map_err(read_error)? else { break };
            let place = stored.place;
            if let Some(letter) = self.filter.take(stored) {
                return Ok(vec![self.delivery(place, letter)]);
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
        let (Receipt::Place(Place { offset, .. }), Settlement::Done) = (receipt, settlement) else { return Ok(()) };
        let letter = self.taken.lock().get(offset).cloned();
        let Some(Letter { place, id }) = letter else { return Ok(()) };
        self.keeper.take_out(place, &id).await.map_err(|error| SettleError(error.to_string()))?;
        self.taken.lock().remove(offset);
        Ok(())
    }

    async fn flush(&self) -> Result<(), SettleError> {
        Ok(())
    }

    fn redelivery(&self) -> Redelivery {
        Redelivery::ToTheNextReader
    }
}

fn read_error(error: LettersError) -> ReadError {
    match error {
        LettersError::Unreadable(problem) => ReadError::Fatal(problem),
        LettersError::Read(_) | LettersError::PutBack(_) | LettersError::TakeOut(_) => {
            ReadError::ForNow(error.to_string())
        }
    }
}

impl Taken {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Letter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
