//! Whether the API server can be asked. While it does not answer, one tries at a time, whoever it is; the others wait.
//!
//! So the number of requests at a server that is down, or has just come back, depends neither on the number of watches nor
//! on that of objects.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Pause between two tries: from the first to the longest, which is how long the operator takes at most to see that the
/// server is back.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Whether the API server can be asked.
#[derive(Debug, Default)]
pub struct Gate {
    down: Mutex<Option<Down>>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Down {
    tries: u32,
    next: Instant,
}

impl Gate {
    /// Whether one may ask now. While the server is down that is true once in each pause.
    pub fn admits(&self, now: Instant) -> bool {
        let mut down = self.down();
        let Some(state) = down.as_mut() else { return true };
        let admitted = now >= state.next;
        if admitted {
            *state = after(state.tries.saturating_add(1), now);
        }
        admitted
    }

    /// Waits until one may ask.
    pub async fn pass(&self) {
        while !self.admits(Instant::now()) {
            self.changed().await;
        }
    }

    /// Waits until the answer of [`Gate::admits`] may be another one.
    pub async fn changed(&self) {
        let changed = self.changed.notified();
        let next = self.down().map(|down| down.next);
        if let Some(next) = next {
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// The server has answered.
    pub fn answered(&self) {
        if self.down().take().is_some() {
            self.changed.notify_waiters();
        }
    }

    /// The server has not answered. Those that were under way when the first one found out count with it.
    pub fn silent(&self) {
        self.down().get_or_insert_with(|| after(0, Instant::now()));
    }

    fn down(&self) -> MutexGuard<'_, Option<Down>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn after(tries: u32, now: Instant) -> Down {
    let pause = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(tries)).min(PAUSE_MAX);
    Down { tries, next: now + pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_tries_at_a_time_less_and_less_often_and_an_answer_lets_all_in() {
        let gate = Gate::default();
        gate.pass().await;
        let start = Instant::now();
        for _ in 0..100 {
            gate.silent();
        }
        let mut tries = Vec::new();
        for _ in 0..6 {
            gate.pass().await;
            gate.silent();
            tries.push(start.elapsed().as_secs());
        }
        assert_eq!(tries, [1, 3, 7, 15, 23, 31]);

        let waits = gate.pass();
        gate.answered();
        waits.await;
        assert_eq!(start.elapsed().as_secs(), 31);
        gate.pass().await;
    }
}
