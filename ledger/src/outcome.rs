//! What a run came to, and whether that is what was promised.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{broker::Kind, storm::Faults};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(crate) broker: Kind,
    pub(crate) faults: Faults,
    pub(crate) stock: Effects,
    pub(crate) hook: Effects,
    pub(crate) mail: Effects,
    /// Effects that came after one of a later event with the same key.
    pub(crate) overtaken: usize,
    /// Claims in the database that were taken over from a process that was struck.
    pub(crate) taken_over: u64,
    /// Events given up.
    pub(crate) dead_letters: u64,
    /// Most effects that can be in doubt by the faults: the workers of each process that was struck.
    pub(crate) in_doubt_max: u64,
    pub(crate) time: Duration,
}

/// The effects of one consumer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// Events that the broker has confirmed.
    pub(crate) published: u64,
    /// Different events that had their effect.
    pub(crate) handled: u64,
    /// How often events had their effect beyond the first time.
    pub(crate) doubled: BTreeMap<String, u64>,
    /// How often each was announced as a possible duplicate, before it happened.
    pub(crate) announced: BTreeMap<String, u64>,
}

impl Effects {
    fn lost(&self) -> u64 {
        self.published.saturating_sub(self.handled)
    }

    fn doubled(&self) -> u64 {
        self.doubled.values().sum()
    }

    fn announced(&self) -> u64 {
        self.announced.values().sum()
    }
}

impl Outcome {
    /// Whether a fault has met an event at work. A long run in which none has shows nothing.
    pub fn has_met_work(&self) -> bool {
        self.taken_over + self.hook.announced() > 0
    }

    /// Checks that it is what was promised.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self) {
        assert_eq!(self.stock.doubled(), 0, "a transactional effect happened twice");
        for (name, effects) in [("http", &self.hook), ("email", &self.mail)] {
            for (event, doubled) in &effects.doubled {
                let announced = effects.announced.get(event).copied().unwrap_or(0);
                assert!(*doubled <= announced, "{name}: {event} doubled {doubled} times, announced {announced} times");
            }
            assert!(effects.announced() <= self.in_doubt_max, "{name}: {} in doubt", effects.announced());
        }
        assert_eq!(self.dead_letters, 0, "events were given up");
        if self.broker == Kind::Nats {
            // It keeps nothing for who is away. What it lost is told.
            return;
        }
        for (name, effects) in [("inventory", &self.stock), ("http", &self.hook), ("email", &self.mail)] {
            assert_eq!(effects.lost(), 0, "{name}: lost");
        }
        assert_eq!(self.overtaken, 0, "the order of a key was not kept");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broker, faults, stock, .. } = self;
        for (handler, effects) in [("http", &self.hook), ("email", &self.mail)] {
            writeln!(
                formatter,
                "crash window: broker={broker} handler={handler} published={} handled={} lost={} doubled={} announced={} \
                 bound={}",
                effects.published,
                effects.handled,
                effects.lost(),
                effects.doubled(),
                effects.announced(),
                self.in_doubt_max
            )?;
        }
        writeln!(
            formatter,
            "faults: broker={broker} guarantee={} kills={} zombies={} broker_crashes={} rebalances={} taken_over={} \
             overtaken={}",
            if *broker == Kind::Nats { "at-most-once" } else { "effectively-once" },
            faults.kills,
            faults.zombies,
            faults.crashes,
            faults.moves,
            self.taken_over,
            self.overtaken
        )?;
        write!(
            formatter,
            "ledger: broker={broker} published={} handled={} lost={} doubled={} kills={} rebalances={} seconds={}",
            stock.published,
            stock.handled,
            stock.lost(),
            stock.doubled(),
            faults.kills,
            faults.moves,
            self.time.as_secs()
        )
    }
}
