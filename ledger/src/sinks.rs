//! Receivers that keep everything they get, in order, however often it comes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_testkit::http_sink::{HttpSink, Reply};

/// The time that a receiver takes over an answer, after its effect: long enough that faults meet it.
const ANSWER: Duration = Duration::from_millis(5);

/// A receiver of the `http` handler that keeps the number of each event it gets.
pub(crate) struct Hook {
    sink: HttpSink,
    effects: Arc<Mutex<Vec<u32>>>,
}

impl Hook {
    /// A receiver that takes everything.
    pub(crate) async fn open() -> Self {
        let hook = Self { sink: HttpSink::start().await, effects: Arc::default() };
        hook.answer(|_| Reply { delay: ANSWER, ..Reply::status(204) });
        hook
    }

    /// From now on it answers like this to the event of a number. What it refuses has no effect.
    pub(crate) fn answer(&self, answer: impl Fn(u32) -> Reply + Send + 'static) {
        let effects = Arc::clone(&self.effects);
        self.sink.answer(move |request| {
            let event = request.headers["ce-id"].parse().unwrap();
            let reply = answer(event);
            if reply.status < 300 {
                effects.lock().unwrap().push(event);
            }
            reply
        });
    }

    pub(crate) fn url(&self) -> String {
        self.sink.url()
    }

    /// The events that it got, in order.
    pub(crate) fn effects(&self) -> Vec<u32> {
        self.effects.lock().unwrap().clone()
    }

    /// How many effects there were.
    pub(crate) fn count(&self) -> usize {
        self.effects.lock().unwrap().len()
    }
}
