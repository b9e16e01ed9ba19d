//! Reading the dead letters of a topic: partition by partition, first the marks and then the letters that none is for.
//!
//! A thread reads, and is never further ahead than the channel is long. It belongs to no group and commits nothing.

use std::{collections::HashMap, sync::Arc, thread};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    health::{Trouble, TroubleReason},
    letters::{LetterPlace, LetterReader, LettersError, StoredLetter},
};
use millrace_events::{DeadLetter, Headers, Origin, taken_out};
use rdkafka::{Message as _, message::BorrowedMessage};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::{
    convert::headers_from,
    log::{Log, Seen, Span},
    start::KafkaOptions,
};

/// Letters that are read ahead. Each may be as large as the topic takes.
const AHEAD_MAX: usize = 8;

/// Marks of one partition that are kept at a time: about 50 MB.
const MARKS_MAX: usize = 1_000_000;

/// What the thread says: a letter, that there are no more, or what is wrong.
type Word = Result<Option<StoredLetter>, LettersError>;

/// The offset of the last mark for each id, by a digest of the id.
type Marks = HashMap<[u8; 16], i64>;

/// Reads the dead letters of a topic.
#[derive(Debug)]
pub struct KafkaLetterReader {
    words: mpsc::Receiver<Word>,
    ended: bool,
}

/// What is to be read.
pub(crate) struct Scan {
    topic: String,
    partitions: usize,
    log: Log,
    origins: Origins,
}

/// Reads payloads that were left at their origin.
struct Origins {
    options: Arc<KafkaOptions>,
    /// Made when it is first needed.
    log: Option<Log>,
}

/// Why a scan ends early.
enum Stop {
    /// Nobody wants letters any more.
    NotWanted,
    /// There are more marks than are kept.
    TooManyMarks,
}

impl KafkaLetterReader {
    /// Notes where each partition ends now, and starts to read.
    pub(crate) async fn start(scan: Scan) -> Result<Self, Trouble> {
        let (sender, words) = mpsc::channel(AHEAD_MAX);
        let (opened, is_open) = oneshot::channel();
        let failing = |error: &dyn std::fmt::Display| {
            Trouble::new(TroubleReason::Failing, format!("failed to start to read dead letters: {error}"))
        };
        let started =
            thread::Builder::new().name("kafka letters".to_owned()).spawn(move || scan.serve(opened, &sender));
        started.map_err(|error| failing(&error))?;
        is_open.await.map_err(|error| failing(&error))??;
        Ok(Self { words, ended: false })
    }
}

#[async_trait]
impl LetterReader for KafkaLetterReader {
    async fn next(&mut self) -> Result<Option<StoredLetter>, LettersError> {
        if self.ended {
            return Ok(None);
        }
        let ended_early = || LettersError::Unreadable("the reading thread has ended".to_owned());
        let word = self.words.recv().await.unwrap_or_else(|| Err(ended_early()))?;
        self.ended = word.is_none();
        Ok(word)
    }
}

impl Scan {
    pub(crate) fn new(options: &Arc<KafkaOptions>, topic: String, partitions: usize) -> Result<Self, Trouble> {
        let origins = Origins { options: Arc::clone(options), log: None };
        Ok(Self { topic, partitions, log: Log::new(options)?, origins })
    }

    fn serve(mut self, opened: oneshot::Sender<Result<(), Trouble>>, words: &mpsc::Sender<Word>) {
        match self.log.spans(&self.topic, self.partitions) {
            Ok(spans) => {
                // Nobody may be waiting any more; then nobody wants letters either.
                drop(opened.send(Ok(())));
                self.run(&spans, words);
            }
            Err(trouble) => drop(opened.send(Err(trouble))),
        }
        self.log.close();
        if let Some(log) = self.origins.log {
            log.close();
        }
    }

    fn run(&mut self, spans: &[Span], words: &mpsc::Sender<Word>) {
        let last_word = match spans.iter().try_for_each(|span| self.read(*span, words)) {
            Ok(()) => Ok(None),
            Err(Stop::NotWanted) => return,
            Err(Stop::TooManyMarks) => Err(LettersError::Unreadable(format!(
                "a partition of topic {:?} holds marks of more than {MARKS_MAX} letters that were taken out; cut off its oldest \
                 records with kafka-delete-records, or have the topic keep records for a shorter time",
                self.topic
            ))),
        };
        // Nobody may be waiting any more.
        drop(words.blocking_send(last_word));
    }

    /// The letters of a partition that are not taken out.
    fn read(&mut self, span: Span, words: &mpsc::Sender<Word>) -> Result<(), Stop> {
        let Self { topic, log, origins, .. } = self;
        let mut marks = Marks::new();
        log.read(topic, span, |seen| {
            let Some(record) = record(seen, words)? else { return Ok(()) };
            if let Some(id) = taken_out(&headers(record)) {
                marks.insert(digest(id), record.offset());
            }
            if marks.len() > MARKS_MAX { Err(Stop::TooManyMarks) } else { Ok(()) }
        })?;
        log.read(topic, span, |seen| {
            let Some(record) = record(seen, words)? else { return Ok(()) };
            let headers = headers(record);
            let is_out =
                |letter: &DeadLetter| marks.get(&digest(&letter.id)).is_some_and(|mark| *mark > record.offset());
            let letter = letter(&headers, record);
            if taken_out(&headers).is_some() || letter.as_ref().is_ok_and(is_out) {
                return Ok(());
            }
            let letter = letter.and_then(|letter| origins.complete(letter, &headers));
            let place = LetterPlace {
                partition: u32::try_from(span.partition).ok(),
                sequence: u64::try_from(record.offset()).unwrap_or_default(),
            };
            tell(words, Ok(Some(StoredLetter { place, letter })))
        })
    }
}

impl Origins {
    /// The letter with its payload, wherever that is.
    fn complete(&mut self, letter: DeadLetter, headers: &Headers) -> Result<DeadLetter, String> {
        let Some((_, sha256)) = DeadLetter::left_behind(headers) else { return Ok(letter) };
        let payload = self.payload_at(&letter.origin);
        let payload = payload.map_err(|error| format!("its payload cannot be read at its origin: {error}"))?;
        let payload = payload.ok_or_else(|| "its payload is not at its origin any more".to_owned())?;
        letter.with_payload(payload, &sha256).ok_or_else(|| "what is at its origin now is another message".to_owned())
    }

    fn payload_at(&mut self, origin: &Origin) -> Result<Option<Bytes>, String> {
        let partition = origin.partition.and_then(|partition| i32::try_from(partition).ok());
        let offset = origin.sequence.and_then(|offset| i64::try_from(offset).ok());
        let (Some(partition), Some(offset)) = (partition, offset) else { return Ok(None) };
        let log = match self.log.take() {
            Some(log) => log,
            None => Log::new(&self.options).map_err(|trouble| trouble.message)?,
        };
        self.log.insert(log).payload_at(&origin.subject, partition, offset)
    }
}

/// The record that is seen, if it is one. What else is seen is told.
fn record<'a>(seen: Seen<'a>, words: &mpsc::Sender<Word>) -> Result<Option<&'a BorrowedMessage<'a>>, Stop> {
    match seen {
        Seen::Record(record) => Ok(Some(record)),
        Seen::Nothing if words.is_closed() => Err(Stop::NotWanted),
        Seen::Nothing => Ok(None),
        Seen::Trouble(problem) => tell(words, Err(LettersError::Read(problem))).map(|()| None),
    }
}

fn letter(headers: &Headers, record: &BorrowedMessage<'_>) -> Result<DeadLetter, String> {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let payload = record.payload().map(copy).unwrap_or_default();
    DeadLetter::decode(headers, record.key().map(copy), payload).map_err(|error| format!("no dead letter: {error}"))
}

fn headers(record: &BorrowedMessage<'_>) -> Headers {
    record.headers().map(headers_from).unwrap_or_default()
}

fn digest(id: &str) -> [u8; 16] {
    Sha256::digest(id.as_bytes()).first_chunk().copied().unwrap_or_default()
}

fn tell(words: &mpsc::Sender<Word>, word: Word) -> Result<(), Stop> {
    words.blocking_send(word).map_err(|_| Stop::NotWanted)
}
