//! Protects events whose handler commits its effect together with the record of it: what was cut is neither suspected nor
//! given up before the record has been asked.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use millrace_core::{
    claim::State,
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler, IdempotencyStore as _},
    retry::RetryPolicy,
};
use millrace_engine::{Engine, Policy};
use millrace_events::{Event, Reason};
use millrace_testkit::store::FaultyStore;

use crate::support::{Bench, policy};

/// Commits the event `commits`, and never answers.
struct Cut(Arc<FaultyStore>);

#[async_trait]
impl Handler for Cut {
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome {
        let hold = context.hold.unwrap();
        if event.id.as_str() == "commits" {
            self.0.end(&hold.key, &hold.claimed, &hold.claimed.ended(State::Done)).await.unwrap();
        }
        std::future::pending().await
    }

    async fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }

    fn records(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_was_cut_is_a_dead_letter_only_if_it_had_not_committed() {
    let bench = Bench::jetstream();
    bench.publish("commits");
    bench.publish("does not");
    let policy = Policy { retry: RetryPolicy { max_attempts: 1, ..policy().retry }, ..policy() };
    let engine = Engine { handler: Arc::new(Cut(Arc::clone(&bench.store))), ..bench.engine(policy) };

    engine
        .run(async {
            while !bench.broker.is_settled() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;

    let letters = bench.broker.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].reason, letters[0].attempts), (Reason::RetriesExhausted, 1));
    assert!(String::from_utf8_lossy(&letters[0].payload).contains("does not"));
    let totals = bench.metrics.totals();
    assert_eq!((totals.duplicates_skipped, totals.possible_duplicates), (1, 0));
}
