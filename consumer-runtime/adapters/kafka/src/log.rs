//! Reading a log from a place on, as a client of no group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_core::health::{Trouble, TroubleReason};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use crate::{
    check::{Context, destroy},
    start::KafkaOptions,
    trouble::LastFailure,
};

/// The time that one poll waits.
const POLL: Duration = Duration::from_millis(100);

/// Bytes that are fetched ahead.
const FETCH_AHEAD_KBYTES: u32 = 4_096;

/// A client that reads logs.
pub(crate) struct Log {
    client: BaseConsumer<Context>,
    options: Arc<KafkaOptions>,
    failure: Arc<LastFailure>,
}

/// A part of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) partition: i32,
    /// Its first offset.
    pub(crate) first: i64,
    /// The offset behind its last.
    pub(crate) end: i64,
}

/// What is seen while a log is read.
pub(crate) enum Seen<'a> {
    Record(&'a BorrowedMessage<'a>),
    /// Nothing came for a moment.
    Nothing,
    /// It cannot be read for now. Reading goes on by itself.
    Trouble(String),
}

impl Log {
    pub(crate) fn new(options: &Arc<KafkaOptions>) -> Result<Self, Trouble> {
        let failure = Arc::new(LastFailure::default());
        // The library asks for a group. It is never joined.
        let mut config = options.connection.reader_config(&options.group)?;
        config
            // The longest that the library takes: nothing is polled while what was read waits.
            .set("max.poll.interval.ms", "86400000")
            .set("queued.max.messages.kbytes", FETCH_AHEAD_KBYTES.to_string());
        let client = BaseConsumer::from_config_and_context(&config, Context(Arc::clone(&failure)))
            .map_err(|error| Trouble::new(TroubleReason::Failing, format!("failed to make a client: {error}")))?;
        Ok(Self { client, options: Arc::clone(options), failure })
    }

    /// What the partitions of a topic hold now.
    pub(crate) fn spans(&self, topic: &str, partitions: usize) -> Result<Vec<Span>, Trouble> {
        let limit = self.options.timing.request;
        let span = |partition| {
            let (first, end) = self.client.fetch_watermarks(topic, partition, limit)?;
            Ok(Span { partition, first, end })
        };
        let spans: KafkaResult<Vec<_>> = (0..i32::try_from(partitions).unwrap_or(i32::MAX)).map(span).collect();
        spans.map_err(|error| self.failure.trouble(&self.options.connection, &error))
    }

    /// Shows what is seen of a span, in order, until its end or until `see` says stop.
    pub(crate) fn read<Stop>(
        &self,
        topic: &str,
        span: Span,
        mut see: impl FnMut(Seen<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if span.first >= span.end {
            return Ok(());
        }
        while let Err(error) = self.start_at(topic, span.partition, span.first) {
            see(Seen::Trouble(error.to_string()))?;
            std::thread::sleep(self.options.timing.look);
        }
        let mut heard = Instant::now();
        loop {
            match self.client.poll(POLL) {
                None if heard.elapsed() < self.options.timing.stall => {
                    see(Seen::Nothing)?;
                    continue;
                }
                None => {
                    let silence = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    see(Seen::Trouble(self.trouble(&silence)))?;
                }
                Some(Ok(message)) => {
                    if message.offset() < span.end {
                        see(Seen::Record(&message))?;
                    }
                    if message.offset().saturating_add(1) >= span.end {
                        return Ok(());
                    }
                }
                // The last offsets may be markers of transactions, which are never delivered.
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == span.partition => return Ok(()),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => see(Seen::Trouble(self.trouble(&error)))?,
            }
            heard = Instant::now();
        }
    }

    /// What one record holds; nothing when it is not there any more.
    pub(crate) fn payload_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<Bytes>, String> {
        self.start_at(topic, partition, offset).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + self.options.timing.request * 2;
        while Instant::now() < deadline {
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(message)) if message.offset() == offset => {
                    return Ok(Some(message.payload().map(Bytes::copy_from_slice).unwrap_or_default()));
                }
                // It was compacted away or cut off.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) => return Err(self.trouble(&error)),
            }
        }
        Err("no broker answers in time".to_owned())
    }

    pub(crate) fn close(self) {
        destroy(self.client);
    }

    fn start_at(&self, topic: &str, partition: i32, offset: i64) -> KafkaResult<()> {
        let mut start = TopicPartitionList::with_capacity(1);
        start.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.client.assign(&start)
    }

    fn trouble(&self, error: &KafkaError) -> String {
        self.failure.trouble(&self.options.connection, error).message
    }
}
