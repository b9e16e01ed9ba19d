//! The queue of a Kafka partition, from which many records are taken in one go.
//!
//! The client library gives records one by one, each in an event of its own, with locks and looks at the clock around it.
//! The C library below it has a call for all that are there. The unsafe code for it is here, and nothing else.
//!
//! It is not the call that fills an array, `rd_kafka_consume_batch_queue`: in the present version that takes the end of a
//! partition for a record, and would pass over the next one after a rebalance.

use std::{
    any::Any,
    ffi::{CStr, CString, c_void},
    ops::ControlFlow,
    panic::{self, AssertUnwindSafe},
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use rdkafka::{
    bindings::{
        rd_kafka_consume_callback_queue, rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_headers,
        rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_queue_destroy, rd_kafka_queue_get_partition,
        rd_kafka_queue_t, rd_kafka_timestamp_type_t, rd_kafka_yield,
    },
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult},
    types::{RDKafka, RDKafkaRespErr},
};

/// The queue of a partition.
pub struct RecordQueue<C: ConsumerContext> {
    client: Arc<BaseConsumer<C>>,
    queue: NonNull<rd_kafka_queue_t>,
    /// Keeps the records of the partition out of the client's common queue.
    partition: PartitionQueue<C>,
}

/// A record as it lies in the client's memory.
#[derive(Clone, Copy)]
pub struct BorrowedRecord<'a>(&'a rd_kafka_message_t);

/// What a call of the C library is told to call.
struct Call<F> {
    each: F,
    client: *mut RDKafka,
    panic: Option<Box<dyn Any + Send>>,
}

// SAFETY: the C library locks its queues, and lets any thread serve and destroy them. `PartitionQueue` may be sent for the same
// reason.
unsafe impl<C: ConsumerContext> Send for RecordQueue<C> {}

impl<C: ConsumerContext> RecordQueue<C> {
    /// Gives a partition a queue of its own, as `BaseConsumer::split_partition_queue` does. `None` where there is no such
    /// partition.
    pub fn split(client: &Arc<BaseConsumer<C>>, topic: &str, partition: i32) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        let split = client.split_partition_queue(topic, partition)?;
        // SAFETY: the client lives, and the name ends with a zero. What is returned is one more reference to the queue.
        let queue = unsafe { rd_kafka_queue_get_partition(client.client().native_ptr(), name.as_ptr(), partition) };
        Some(Self { client: Arc::clone(client), queue: NonNull::new(queue)?, partition: split })
    }

    /// Sets what is called when the queue is no longer empty. In any of the client's threads.
    pub fn set_nonempty_callback(&mut self, callback: impl Fn() + Send + Sync + 'static) {
        self.partition.set_nonempty_callback(callback);
    }

    /// Gives what is there to `each`, in order, until that breaks: records, and what stands in the place of one, an error of
    /// the partition or that its end was reached. What is behind a break stays. Never waits. Returns whether there was
    /// anything.
    ///
    /// Until it returns the client counts what is there as taken, and may fetch once more.
    pub fn take<F>(&self, each: F) -> bool
    where
        F: FnMut(KafkaResult<BorrowedRecord<'_>>) -> ControlFlow<()>,
    {
        let mut call = Call { each, client: self.client.client().native_ptr(), panic: None };
        let opaque = (&raw mut call).cast();
        // SAFETY: the queue is alive as long as this value. `given` is called before this returns and never after it, with the
        // call that is of its type.
        let count = unsafe { rd_kafka_consume_callback_queue(self.queue.as_ptr(), 0, Some(given::<F>), opaque) };
        if let Some(panic) = call.panic {
            panic::resume_unwind(panic);
        }
        count > 0
    }
}

impl<C: ConsumerContext> Drop for RecordQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the reference that `split` was given, and the client, which this value holds, is still there.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// The C library gives one message, which is its own and lives until this returns.
unsafe extern "C" fn given<F>(message: *mut rd_kafka_message_t, opaque: *mut c_void)
where
    F: FnMut(KafkaResult<BorrowedRecord<'_>>) -> ControlFlow<()>,
{
    // SAFETY: `take` has given a call of this type, which nobody else uses meanwhile.
    let call = unsafe { &mut *opaque.cast::<Call<F>>() };
    // SAFETY: the library gives a message that it does not change meanwhile.
    let message = unsafe { &*message };
    let record = match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(BorrowedRecord(message)),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Err(KafkaError::PartitionEOF(message.partition)),
        fatal @ RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL => Err(KafkaError::MessageConsumptionFatal(fatal.into())),
        error => Err(KafkaError::MessageConsumption(error.into())),
    };
    // No panic may go through C.
    let next = panic::catch_unwind(AssertUnwindSafe(|| (call.each)(record))).unwrap_or_else(|panic| {
        call.panic = Some(panic);
        ControlFlow::Break(())
    });
    if next.is_break() {
        // SAFETY: the client lives as long as the queue. This only tells the call that is at work in this thread to stop.
        unsafe { rd_kafka_yield(call.client) }
    }
}

impl BorrowedRecord<'_> {
    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// Its value, `None` where it has none.
    pub fn payload(&self) -> Option<&[u8]> {
        self.bytes(self.0.payload, self.0.len)
    }

    /// Its key, `None` where it has none.
    pub fn key(&self) -> Option<&[u8]> {
        self.bytes(self.0.key, self.0.key_len)
    }

    /// Its time in milliseconds, `None` where it has none.
    pub fn timestamp_millis(&self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and the kind is written to.
        let millis = unsafe { rd_kafka_message_timestamp(self.0, &raw mut kind) };
        (kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && millis != -1).then_some(millis)
    }

    /// Its headers in order, but for those whose name is no text. One without a value has an empty one. The library reads
    /// them at each call where there are none: ask once, and clone.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive. Where it has headers, they are its own and live as long.
        let found = unsafe { rd_kafka_message_headers(self.0, &raw mut headers) };
        let headers = (found == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(headers);
        let all =
            headers.into_iter().flat_map(move |headers| (0..).map_while(move |index| self.header(headers, index)));
        all.filter_map(|(name, value)| Some((name.to_str().ok()?, value)))
    }

    /// The header with this number, of the headers of this record.
    fn header(&self, headers: *mut rd_kafka_headers_t, index: usize) -> Option<(&CStr, &[u8])> {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers are those of a message that is alive. Name, value and length are written to.
        let found = unsafe { rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut length) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the library ends names with a zero, and changes none while the message lives.
        let name = unsafe { CStr::from_ptr(name) };
        Some((name, self.bytes(value, length).unwrap_or_default()))
    }

    /// So many bytes of this record from `start` on; `None` where there is nothing.
    #[expect(clippy::unused_self, reason = "they live as long as the record")]
    fn bytes(&self, start: *const c_void, length: usize) -> Option<&[u8]> {
        // SAFETY: the library says that so many bytes are there, and they live and stay as they are as long as the message.
        (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
    }
}
