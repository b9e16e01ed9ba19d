//! Takes from a queue and carries out, at most so many at once.

use std::{collections::HashMap, pin::pin, time::Duration};

use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tracing::error;

use crate::{gate::Gate, key::Key, queue::Queue};

/// After a panic: a defect of ours, which must not keep the operator busy.
const PANIC_PAUSE: Duration = Duration::from_secs(300);

/// Carries out `act` for what `queue` gives until `stop` is ready and what is at work has ended. Where there is a gate, only
/// while it admits.
pub async fn work<F>(
    queue: &Queue,
    limit: usize,
    gate: Option<&Gate>,
    act: impl Fn(Key) -> F,
    stop: impl Future<Output = ()>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut stop = pin!(stop);
    let (mut stopped, mut tasks) = (false, JoinSet::new());
    let mut keys: HashMap<Id, Key> = HashMap::new();
    while !(stopped && tasks.is_empty()) {
        let mut admitted = true;
        while !stopped && tasks.len() < limit && queue.has_work(Instant::now()) {
            admitted = gate.is_none_or(|gate| gate.admits(Instant::now()));
            let Some(key) = admitted.then(|| queue.pop(Instant::now())).flatten() else { break };
            keys.insert(tasks.spawn(act(key.clone())).id(), key);
        }
        let waits = !stopped && tasks.len() < limit;
        tokio::select! {
            Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                let (id, panicked) = match ended {
                    Ok((id, ())) => (id, None),
                    Err(error) => (error.id(), Some(error)),
                };
                let Some(key) = keys.remove(&id) else { continue };
                queue.done(&key);
                if let Some(error) = panicked {
                    error!(%key, %error, "a look has failed by a defect of the operator");
                    queue.push_at(&key, Instant::now() + PANIC_PAUSE);
                }
            }
            () = queue.changed(), if waits && admitted => {}
            () = closed(gate), if waits && !admitted => {}
            () = &mut stop, if !stopped => stopped = true,
        }
    }
}

async fn closed(gate: Option<&Gate>) {
    match gate {
        Some(gate) => gate.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::queue::Lane;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_at_work_and_a_stop_waits_for_them() {
        let queue = Queue::default();
        for number in 0..100 {
            queue.push(&Key::new("shop", &number.to_string()), Lane::Back);
        }
        let (now, most, ended) = (Arc::default(), Arc::default(), Arc::<AtomicUsize>::default());
        let counts: [Arc<AtomicUsize>; 3] = [now, most, Arc::clone(&ended)];
        let act = |key: Key| {
            let [now, most, ended] = counts.clone();
            async move {
                assert_ne!(key.name(), "7", "this one is a defect");
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };

        work(&queue, 4, None, act, tokio::time::sleep(Duration::from_millis(9_500))).await;

        let [now, most, _] = counts.map(|count| count.load(Ordering::SeqCst));
        assert_eq!((now, most), (0, 4));
        assert_eq!(ended.load(Ordering::SeqCst), 40, "ten rounds, the last one begun before the stop");
    }
}
