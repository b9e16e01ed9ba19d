//! What the engine needs from the outside. Adapters implement these traits; the engine knows nothing else of them.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_events::{DeadLetter, Event, TraceContext};

use crate::{
    claim::{Record, State, Wish},
    delivery::{Delivery, Receipt},
    health::Trouble,
    key::Key,
    outcome::Outcome,
    settle::Settlement,
    trace::Span,
    window::Budget,
};

/// Takes deliveries from a broker.
#[async_trait]
pub trait Reader: Send {
    /// Waits for deliveries and returns at least one and at most `budget.messages` of them.
    ///
    /// Cancel safe: a delivery is never lost when the future is dropped. The adapter reconnects and asks again by
    /// itself; an error says that it could not for now, and the caller pauses before it calls again, unless the error
    /// says that there is no use in it.
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError>;

    /// Returns when the broker's client has failed for good, and why. Waited for while nothing is taken; an adapter whose client
    /// cannot fail so never returns. Cancel safe.
    async fn failed(&mut self) -> String {
        std::future::pending().await
    }

    /// Deliveries that came since this was last asked, had no room and will not come again.
    fn dropped(&mut self) -> u64 {
        0
    }

    /// Asks the broker for nothing more, and returns what comes all the same, batch by batch; `None` when nothing more
    /// can come. The caller hands that back. Cancel safe.
    async fn rest(&mut self) -> Option<Vec<Delivery>>;
}

/// Tells a broker what became of its deliveries.
#[async_trait]
pub trait Settler: Send + Sync {
    /// Sends `settlement`, or notes it where the broker keeps one position for many deliveries. It need not have arrived
    /// when this returns: `flush` returns when it has. The adapter sees to it that it arrives while the broker answers; one
    /// that is lost all the same means another delivery, which the store recognises.
    ///
    /// Where only the next reader is given a delivery again, `RetryAfter` lets go of it here: it is not done, and no
    /// position may pass it.
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError>;

    /// Sends [`Settlement::Done`] for many deliveries. Saying it again is safe, for those too that it was sent for before an
    /// error.
    async fn done(&self, receipts: &[Receipt]) -> Result<(), SettleError> {
        for receipt in receipts {
            self.settle(receipt, Settlement::Done).await?;
        }
        Ok(())
    }

    /// Returns when the broker has received everything sent so far.
    async fn flush(&self) -> Result<(), SettleError>;

    /// Whether this process still owns what the receipt is for. Some brokers take deliveries back from a process that
    /// lives, to give them to another.
    fn owns(&self, _receipt: &Receipt) -> bool {
        true
    }

    /// What the broker does with a delivery that is not settled as done.
    fn redelivery(&self) -> Redelivery;
}

/// Long enough for the next to be fetched meanwhile. What is held and has not started is missing from the lag, could be at work in
/// another process, and is what a hand-over to another reader waits for and that reads again.
const START_WITHIN: Duration = Duration::from_millis(500);

/// What a broker does with a delivery that is not settled as done. The engine asks this and never which broker it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Redelivery {
    /// It delivers it again: by itself after this time, the ack wait, or when it is asked to. It counts deliveries.
    AfterAckWait(Duration),
    /// It delivers it again to whoever reads after this process. Until then a retry waits here.
    ToTheNextReader,
    /// It has forgotten it. A retry waits here.
    Never,
}

impl Redelivery {
    /// The time that the broker waits for a settlement, `None` where it waits for none.
    pub fn ack_wait(self) -> Option<Duration> {
        match self {
            Self::AfterAckWait(ack_wait) => Some(ack_wait),
            Self::ToTheNextReader | Self::Never => None,
        }
    }

    /// The time within which what is taken is to start, `None` where nothing is to be taken ahead of the workers: what
    /// the process holds when it dies would be lost.
    pub fn start_within(self) -> Option<Duration> {
        match self {
            // After the ack wait it would be given to others as well.
            Self::AfterAckWait(ack_wait) => ack_wait.checked_div(2).map(|half| half.min(START_WITHIN)),
            Self::ToTheNextReader => Some(START_WITHIN),
            Self::Never => None,
        }
    }
}

/// Tells what waits at the broker.
#[async_trait]
pub trait LagProbe: Send + Sync {
    /// Events of this consumer that no process has taken yet; `None` while that is not known.
    async fn pending(&self) -> Option<u64>;

    /// Whether `pending` counts only what is this process's share.
    fn is_share(&self) -> bool {
        false
    }

    /// Lanes that this process holds, where there is a share for each process; `None` while that is not known.
    fn lanes(&self) -> Option<usize> {
        None
    }

    /// Dead letters that wait where this consumer puts them; `None` while that is not known, or cannot be.
    async fn dead_letters(&self) -> Option<Letters> {
        None
    }
}

/// Dead letters that wait.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Letters {
    /// How many.
    pub count: u64,
    /// When the last of them came, by the broker's clock; `None` where there is none, and where the broker does not say.
    pub last: Option<Timestamp>,
}

/// Where dead letters go.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Publishes a dead letter and returns when the broker has confirmed it.
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError>;
}

/// Keeps the claims on events.
///
/// Every write after a claim is conditional on its token. Time is the store's own.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Tries to claim an event.
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError>;

    /// Ends a claim: its record becomes `record`, on condition that the claim is still held.
    ///
    /// Repeating the call with the same arguments after `Unavailable` is safe.
    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whether records survive this process, so that the attempts they count can be relied on.
    fn is_durable(&self) -> bool;
}

/// The answer to a wish to claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// It is held now.
    Claimed(Claimed),
    /// The event is done or dead: skip it.
    Settled,
    /// Somebody is at work on it, for at most this long.
    Busy(Duration),
    /// Another event had the same id.
    Conflict,
}

/// A claim that is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claimed {
    /// The fencing token: writes on its behalf are refused once somebody else has claimed.
    pub token: u64,
    /// The record as it stands with this claim.
    pub record: Record,
}

impl Claimed {
    /// The record of this claim ended in `state`.
    pub fn ended(&self, state: State) -> Record {
        self.record.ended(state)
    }
}

/// Does what is to be done with an event.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles an event. The engine cuts the call at the attempt timeout.
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome;

    /// Checks what the handler needs, before the first event and while it is in trouble.
    async fn check(&self) -> Result<(), Trouble>;

    /// Whether a call that ends as `Done` has recorded the event as done too, in the transaction of its effect.
    fn records(&self) -> bool {
        false
    }
}

/// What a handler is told beside the event.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The number of this attempt. The first is 1.
    pub attempt: u32,
    /// The claim that this attempt is made with; `None` where none is kept.
    pub hold: Option<&'a Hold>,
    /// The span that stands for this attempt, for whoever is called; `None` where no traces are kept.
    pub trace: Option<TraceContext>,
}

/// Takes the spans of attempts that have ended.
pub trait Spans: Send + Sync {
    /// Takes a span. Never waits: what cannot be kept is dropped.
    fn ended(&self, span: Span);
}

/// A claim that is held, with the key that it is held under.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// What the event is known by.
    pub key: Key,
    /// The claim.
    pub claimed: Claimed,
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// For now: trying again may help.
    #[error("failed to read from the broker: {0}")]
    ForNow(String),
    /// As long as this process lives. Another process may be able to.
    #[error("the broker's client has failed for good: {0}")]
    Fatal(String),
}

/// A settlement that did not reach the broker, or was not confirmed.
#[derive(Debug, thiserror::Error)]
#[error("failed to settle: {0}")]
pub struct SettleError(pub String);

/// A dead letter that the broker did not confirm.
#[derive(Debug, thiserror::Error)]
#[error("failed to publish the dead letter: {0}")]
pub struct DeadLetterError(pub String);

/// A store that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or answers with an error. Nothing is known to be written; trying again may help.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The claim is no longer held: somebody else has taken the event over. Nothing was written.
    #[error("the claim was taken over")]
    Fenced,
}
