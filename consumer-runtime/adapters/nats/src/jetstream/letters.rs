//! The dead letters of a consumer in their stream: reading them, putting them back, taking them out.

use async_nats::jetstream::{
    self,
    context::GetStreamByNameErrorKind,
    message::StreamMessage,
    stream::{RawMessageErrorKind, Stream},
};
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    health::{Trouble, TroubleReason},
    letters::{LetterKeeper, LetterPlace, LetterReader, LettersError, StoredLetter},
};
use millrace_events::{DeadLetter, Origin};

use crate::{
    connection::Connection,
    convert::{headers_from, headers_to},
};

/// The dead letters of a consumer in their stream.
#[derive(Clone, Debug)]
pub struct DeadLetterStream {
    context: jetstream::Context,
    stream: Stream,
    subject: String,
    /// The last message when it was opened. Later ones are left for another time.
    last: u64,
}

/// Reads the dead letters of a stream, in the order in which they were written.
#[derive(Debug)]
pub struct StreamLetterReader {
    letters: DeadLetterStream,
    behind: u64,
}

impl DeadLetterStream {
    /// Finds the stream that covers `subject`.
    ///
    /// # Errors
    /// `DeadLetterStreamNotFound` or `Failing`, with what to do.
    pub async fn open(connection: &Connection, subject: &str) -> Result<Self, Trouble> {
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(connection.request_timeout);
        let failing = |error: &dyn std::fmt::Display| {
            let message = format!("failed to look up the dead-letter stream: {error}");
            connection.trouble_or(Trouble::new(TroubleReason::Failing, message))
        };
        let name = context.stream_by_subject(subject).await.map_err(|error| match error.kind() {
            GetStreamByNameErrorKind::NotFound => {
                let message = format!("no stream covers the dead-letter subject {subject:?}");
                Trouble::new(TroubleReason::DeadLetterStreamNotFound, message)
            }
            _ => failing(&error),
        })?;
        let stream = context.get_stream(&name).await.map_err(|error| failing(&error))?;
        let last = stream.cached_info().state.last_sequence;
        Ok(Self { context, stream, subject: subject.to_owned(), last })
    }

    /// Reads them from the first on.
    pub fn reader(&self) -> StreamLetterReader {
        StreamLetterReader { letters: self.clone(), behind: 0 }
    }

    /// The first message behind a place; nothing when there is none that was there when the stream was opened.
    async fn message_behind(&self, behind: u64) -> Result<Option<StreamMessage>, LettersError> {
        let from = behind.saturating_add(1);
        match self.stream.get_first_raw_message_by_subject(&self.subject, from).await {
            Ok(message) if message.sequence <= self.last => Ok(Some(message)),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(LettersError::Read(error.to_string())),
        }
    }

    /// The dead letter that a message is, with its payload, wherever that is.
    async fn letter(&self, message: StreamMessage) -> Result<DeadLetter, String> {
        let headers = headers_from(Some(&message.headers));
        let letter =
            DeadLetter::decode(&headers, None, message.payload).map_err(|error| format!("no dead letter: {error}"))?;
        let Some((_, sha256)) = DeadLetter::left_behind(&headers) else { return Ok(letter) };
        let payload = self.payload_at(&letter.origin).await?;
        letter.with_payload(payload, &sha256).ok_or_else(|| "what is at its origin now is another message".to_owned())
    }

    async fn payload_at(&self, origin: &Origin) -> Result<Bytes, String> {
        let (Some(stream), Some(sequence)) = (&origin.stream, origin.sequence) else {
            return Err("its payload was left at its origin, which keeps nothing".to_owned());
        };
        let gone = |error: &dyn std::fmt::Display| format!("its payload cannot be read at its origin: {error}");
        let stream = self.context.get_stream(stream).await.map_err(|error| gone(&error))?;
        stream.get_raw_message(sequence).await.map(|message| message.payload).map_err(|error| gone(&error))
    }
}

#[async_trait]
impl LetterReader for StreamLetterReader {
    async fn next(&mut self) -> Result<Option<StoredLetter>, LettersError> {
        let Some(message) = self.letters.message_behind(self.behind).await? else { return Ok(None) };
        let sequence = message.sequence;
        let letter = self.letters.letter(message).await;
        // Only now: until then the call may be dropped.
        self.behind = sequence;
        Ok(Some(StoredLetter { place: LetterPlace { partition: None, sequence }, letter }))
    }
}

#[async_trait]
impl LetterKeeper for DeadLetterStream {
    async fn put_back(&self, letter: &DeadLetter) -> Result<(), LettersError> {
        let headers = headers_to(&letter.replay_headers());
        let subject = letter.origin.subject.to_string();
        let failed = |error: &dyn std::fmt::Display| LettersError::PutBack(error.to_string());
        let sent = self.context.publish_with_headers(subject, headers, letter.payload.clone()).await;
        let confirmed = sent.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
        if confirmed.duplicate {
            return Err(failed(
                &"the broker still remembers the message and dropped its copy: try again after the stream's duplicate window",
            ));
        }
        Ok(())
    }

    /// Deletes it. One that is not there any more is out.
    async fn take_out(&self, place: LetterPlace, _letter_id: &str) -> Result<(), LettersError> {
        match self.stream.delete_message(place.sequence).await {
            Ok(_) => Ok(()),
            Err(error) => match self.stream.get_raw_message(place.sequence).await {
                Err(gone) if matches!(gone.kind(), RawMessageErrorKind::NoMessageFound) => Ok(()),
                _ => Err(LettersError::TakeOut(error.to_string())),
            },
        }
    }
}
