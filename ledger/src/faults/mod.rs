//! Single faults, each with its bound: a store that is away, a receiver that fails for every event, large messages, a crash
//! behind a slow event, drains under load. Every case checks its bounds and gives one line that tells what it measured.

mod breaker;
mod crash;
mod drains;
mod memory;
mod store_down;

use std::path::Path;

use millrace_testkit::runtime::{Folders, Runtime};

use crate::{
    broker::{Broker, Kind, ORDERS},
    load::{Load, publish},
    shop::Shop,
    sinks::Hook,
};

pub use crate::faults::{
    breaker::breaker,
    crash::crash,
    drains::drains,
    memory::memory,
    store_down::{Store, store_down},
};

/// A broker, a database and a receiver, around consumers with the `http` handler.
struct Scene<'a> {
    program: &'a Path,
    broker: Broker,
    shop: Shop,
    hook: Hook,
}

impl<'a> Scene<'a> {
    async fn open(program: &'a Path, kind: Kind) -> Self {
        let (broker, shop, hook) = tokio::join!(Broker::start(kind), Shop::open(), Hook::open());
        Self { program, broker, shop, hook }
    }

    /// A runtime whose `delivery` and other settings are these.
    fn runtime(&self, delivery: &str, rest: &str) -> Runtime {
        let config = format!(
            "consumer: {{namespace: shop, name: hooks}}
{}handler: {{http: {{url: '{}'}}}}
delivery: {{deadLetter: {{subject: {}}}, {delivery}}}
{rest}
",
            self.broker.source(ORDERS),
            self.hook.url(),
            self.broker.dead_letters()
        );
        let folders = Folders { secrets: self.shop.secrets.path(), data: Path::new("/nonexistent") };
        Runtime::start(self.program, &config, folders)
    }

    async fn publish(&self, load: Load) {
        publish(self.broker.publisher().await, load).await;
    }

    /// Effects beyond the first of an event.
    fn doubled(&self) -> usize {
        let mut effects = self.hook.effects();
        let all = effects.len();
        effects.sort_unstable();
        effects.dedup();
        all - effects.len()
    }
}
