//! The dead letters of a consumer in their topic: putting them back, and taking them out.
//!
//! Nothing can be deleted from the middle of a topic. A letter is taken out by a mark: a small record in the same partition
//! behind it, which names its id. A mark lives as long as its letter: what ages or is cut off goes from the start of a
//! partition, and the letter stands before its mark. A group's committed offset could not say the same: it names one
//! position while filters leave letters anywhere, and brokers forget the offsets of a group that is idle for a week. A second
//! copy of a letter, from a crash in the middle of giving an event up, has the same id and goes with it.
//!
//! The marks of a partition are read before its letters are (`letters_reader.rs`).

use std::sync::Arc;

use async_trait::async_trait;
use millrace_core::{
    health::{Trouble, TroubleReason},
    letters::{LetterKeeper, LetterPlace, LettersError},
};
use millrace_events::{DeadLetter, taken_out_mark};
use rdkafka::error::RDKafkaErrorCode;

use crate::{
    check,
    convert::headers_to,
    letters_reader::{KafkaLetterReader, Scan},
    producer::{Producer, Record},
    start::KafkaOptions,
};

/// Largest record that may be put back: what a topic takes is for its broker to say.
const RECORD_BYTES_MAX: usize = 1_000_000_000;

/// What a mark says to a person. Not empty, so that compaction does not take it for a deletion.
const MARK: &[u8] = b"taken out";

/// Puts dead letters back, and takes them out of their topic.
pub struct KafkaLetterKeeper {
    producer: Producer,
    topic: String,
}

/// Checks that the topic of dead letters is there, notes where each of its partitions ends, and starts to read it.
///
/// # Errors
/// `Unreachable`, `Unauthorized`, `TlsFailed`, `TopicNotFound`, `SecretMissing`, `SecretInvalid` or `Failing`, with what to
/// do.
pub async fn open_letters(options: &KafkaOptions) -> Result<(KafkaLetterReader, KafkaLetterKeeper), Trouble> {
    let topic = options.dead_letter_topic.clone().unwrap_or_default();
    let options = Arc::new(KafkaOptions { topics: Vec::new(), ..options.clone() });
    let partitions = check::check(&options).await?.dead_letters;
    let failing = |error: &dyn std::fmt::Display| {
        Trouble::new(TroubleReason::Failing, format!("failed to open the dead letters of topic {topic:?}: {error}"))
    };
    let config = options.connection.client_config()?;
    let producer = Producer::new(config, options.timing.request, RECORD_BYTES_MAX).map_err(|error| failing(&error))?;
    let scan = Scan::new(&options, topic.clone(), partitions)?;
    let reader = KafkaLetterReader::start(scan).await?;
    Ok((reader, KafkaLetterKeeper { producer, topic }))
}

#[async_trait]
impl LetterKeeper for KafkaLetterKeeper {
    /// Publishes the original record in its own partition; by its key where that partition does not exist any more.
    async fn put_back(&self, letter: &DeadLetter) -> Result<(), LettersError> {
        let headers = headers_to(&letter.replay_headers());
        let record = |partition| Record {
            topic: &letter.origin.subject,
            partition,
            key: letter.key.as_deref(),
            headers: headers.clone(),
            payload: &letter.payload,
        };
        let partition = letter.origin.partition.and_then(|partition| i32::try_from(partition).ok());
        let sent = match self.producer.send(record(partition)).await {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) => {
                self.producer.send(record(None)).await
            }
            sent => sent,
        };
        sent.map_err(|error| LettersError::PutBack(format!("{}: {error}", letter.origin.subject)))
    }

    /// Publishes its mark. Its key is its own: were the topic compacted, it would take nothing else with it.
    async fn take_out(&self, place: LetterPlace, letter_id: &str) -> Result<(), LettersError> {
        let key = format!("millrace-taken-out/{letter_id}");
        let record = Record {
            topic: &self.topic,
            partition: place.partition.and_then(|partition| i32::try_from(partition).ok()),
            key: Some(key.as_bytes()),
            headers: headers_to(&taken_out_mark(letter_id)),
            payload: MARK,
        };
        let sent = self.producer.send(record).await;
        sent.map_err(|error| LettersError::TakeOut(format!("{}: {error}", self.topic)))
    }
}
