//! The end of a client. The library waits without an end for brokers that do not answer; nobody else waits so long.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use crate::context::{Client, Shared};

/// The time that the destruction of a client may take after it has left its group.
const DESTRUCTION: Duration = Duration::from_secs(3);

/// Leaves the group, so that its lanes go to others at once, and destroys the client.
pub(crate) fn close(shared: &Shared, client: Arc<Client>) {
    let started = Instant::now();
    let timing = &shared.options.timing;
    let deadline = started + timing.hand_over + timing.commit + timing.leave;
    if client.close_queue().is_ok() {
        while !client.closed() && Instant::now() < deadline {
            client.poll(Duration::from_millis(20));
        }
    }
    let left = client.closed();
    // Each queue holds the client.
    shared.sources().clear();
    for lane in shared.lanes.held() {
        lane.release();
    }
    let (sender, receiver) = mpsc::sync_channel::<()>(1);
    let destroying = thread::Builder::new().name("kafka close".to_owned()).spawn(move || {
        drop(client);
        drop(sender);
    });
    let destroyed =
        destroying.is_ok() && receiver.recv_timeout(DESTRUCTION) == Err(mpsc::RecvTimeoutError::Disconnected);
    let took_ms = started.elapsed().as_millis();
    if left && destroyed {
        debug!(took_ms, "client closed");
    } else {
        warn!(
            took_ms,
            left, destroyed, "the client could not be closed in time: its lanes are given on when its session ends"
        );
    }
}
