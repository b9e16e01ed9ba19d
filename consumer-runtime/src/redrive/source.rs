//! Dead letters as a source: a letter that is done is taken out, any other stays where it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    letters::{LetterKeeper, LetterPlace, LetterReader, LettersError},
    ports::{DeadLetterError, DeadLetters, ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::Clock,
    window::Budget,
};
use millrace_events::DeadLetter;
use tokio::sync::watch;

use crate::redrive::progress::Progress;

/// Reads the letters that a filter takes, once.
pub(super) struct LetterSource {
    letters: Box<dyn LetterReader>,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    taken: Arc<Taken>,
    /// Letters taken so far: the number of the last.
    number: u32,
    ended: watch::Sender<bool>,
}

/// Takes out the letters that are done.
pub(super) struct LetterSettler {
    keeper: Arc<dyn LetterKeeper>,
    progress: Arc<Progress>,
    taken: Arc<Taken>,
}

/// Where the dead letters of events go that fail again.
pub(super) struct AnnouncedLetters {
    letters: Arc<dyn DeadLetters>,
    progress: Arc<Progress>,
    taken: Arc<Taken>,
}

/// The letters at work, by the number of their delivery. The window bounds them.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<HashMap<i64, Letter>>);

/// What takes a letter out.
#[derive(Clone, Debug)]
struct Letter {
    place: LetterPlace,
    id: String,
    /// The id that its new dead letter would have.
    again: String,
}

impl LetterSource {
    /// A source, and what is taken from it. The last value turns true when there is nothing more to read.
    pub(super) fn new(
        letters: Box<dyn LetterReader>,
        progress: Arc<Progress>,
        clock: Arc<dyn Clock>,
    ) -> (Self, Arc<Taken>, watch::Receiver<bool>) {
        let (ended, has_ended) = watch::channel(false);
        let taken = Arc::<Taken>::default();
        (Self { letters, progress, clock, taken: Arc::clone(&taken), number: 0, ended }, taken, has_ended)
    }

    fn delivery(&mut self, place: LetterPlace, letter: DeadLetter) -> Delivery {
        self.number = self.number.saturating_add(1);
        let offset = i64::from(self.number);
        let lane = place.partition.unwrap_or_default();
        let headers = letter.replay_headers();
        let again = letter.replays.saturating_add(1);
        let again = DeadLetter::id_for(&letter.consumer, &letter.origin, &letter.payload, again);
        self.taken.lock().insert(offset, Letter { place, id: letter.id, again });
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
        while !self.progress.filter.is_complete() {
            let Some(stored) = self.letters.next().await.map_err(read_error)? else { break };
            let place = stored.place;
            if let Some(letter) = self.progress.filter.take(stored) {
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

impl LetterSettler {
    pub(super) fn new(keeper: Arc<dyn LetterKeeper>, progress: Arc<Progress>, taken: Arc<Taken>) -> Self {
        Self { keeper, progress, taken }
    }
}

#[async_trait]
impl Settler for LetterSettler {
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError> {
        let (Receipt::Place(Place { offset, .. }), Settlement::Done) = (receipt, settlement) else { return Ok(()) };
        let letter = self.taken.lock().get(offset).cloned();
        let Some(Letter { place, id, .. }) = letter else { return Ok(()) };
        take_out(&self.progress, self.keeper.as_ref(), place, &id).await.map_err(SettleError)?;
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

impl AnnouncedLetters {
    pub(super) fn new(letters: Arc<dyn DeadLetters>, progress: Arc<Progress>, taken: Arc<Taken>) -> Self {
        Self { letters, progress, taken }
    }
}

#[async_trait]
impl DeadLetters for AnnouncedLetters {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let letter = self.taken.lock().values().find(|letter| letter.again == dead_letter.id).cloned();
        let Some(Letter { place, id, again }) = letter else { return self.letters.publish(dead_letter).await };
        let journal = &self.progress.journal;
        journal.announce(place, &id, &again).map_err(|error| DeadLetterError(error.to_string()))?;
        self.letters.publish(dead_letter).await?;
        journal.published(place);
        Ok(())
    }
}

/// Takes out a letter whose event has ended. Repeating it is safe.
pub(super) async fn take_out(
    progress: &Progress,
    keeper: &dyn LetterKeeper,
    place: LetterPlace,
    id: &str,
) -> Result<(), String> {
    progress.journal.ended(place, id).map_err(|error| format!("failed to write the journal: {error}"))?;
    keeper.take_out(place, id).await.map_err(|error| error.to_string())?;
    progress.journal.out(place).map_err(|error| format!("failed to write the journal: {error}"))
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
    /// Whether no letter is in hand.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Letter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
