//! The storm: replicas come and go every two seconds; some are killed, some stopped for longer than their claims and their
//! membership live; the broker crashes.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::{broker::Broker, replicas::Replicas};

/// Between two moves of the replicas.
const ROUND: Duration = Duration::from_secs(2);

/// Seconds that an attempt of the consumers in a storm may take.
pub(crate) const ATTEMPT_SECONDS: u32 = 5;

/// A claim lives this much longer than its attempt may take (`CLAIM_MARGIN_SECONDS` of the configuration).
const CLAIM_MARGIN: Duration = Duration::from_secs(10);

/// After this time Kafka gives the partitions of a silent member to others (the runtime's own setting).
const SESSION: Duration = Duration::from_secs(20);

/// How many faults of each kind there are, at random times during the load.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Replicas killed with SIGKILL.
    pub kills: u32,
    /// Replicas stopped for longer than anything waits for them.
    pub zombies: u32,
    /// Crashes of the broker.
    pub crashes: u32,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    Crash,
}

/// What a storm came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) kills: u64,
    pub(crate) zombies: u64,
    pub(crate) crashes: u64,
    pub(crate) moves: u64,
}

impl Storm {
    /// Blows for `time`, and until every fault has happened and every zombie has woken.
    pub(crate) async fn blow(
        self,
        broker: &mut Broker,
        consumers: &mut [Replicas],
        time: Duration,
        rng: &mut Rng,
    ) -> Faults {
        let (started, mut crashes) = (Instant::now(), 0);
        let mut faults = self.faults(time, rng);
        for round in 0_usize.. {
            consumers.iter_mut().for_each(Replicas::look);
            let elapsed = started.elapsed();
            if elapsed >= time && faults.is_empty() && !consumers.iter().any(Replicas::has_zombies) {
                break;
            }
            let due = faults.last().filter(|(at, _)| *at <= elapsed).map(|(_, fault)| *fault);
            if due.is_some() {
                faults.pop();
            }
            // A drain that a crash of the broker meets cannot be clean: those who leave have left before.
            let leaves = !matches!(faults.last(), Some((at, Fault::Crash)) if *at <= elapsed + ROUND * 3);
            let struck = rng.usize(0..consumers.len());
            match due {
                Some(Fault::Kill) => consumers[struck].kill(rng.usize(..)),
                Some(Fault::Freeze) => {
                    let time = zombie_time(broker);
                    consumers[struck].freeze(rng.usize(..), time);
                }
                Some(Fault::Crash) => {
                    while !consumers.iter().all(Replicas::is_settled) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        consumers.iter_mut().for_each(Replicas::look);
                    }
                    broker.crash().await;
                    crashes += 1;
                }
                None => {}
            }
            for (number, replicas) in consumers.iter_mut().enumerate() {
                match (round + number) % 2 {
                    0 => replicas.join(),
                    _ if leaves => replicas.leave(),
                    _ => {}
                }
            }
            tokio::time::sleep(ROUND).await;
        }
        let sum = |of: fn(&Replicas) -> u64| consumers.iter().map(of).sum();
        Faults { kills: sum(|one| one.kills), zombies: sum(|one| one.zombies), crashes, moves: sum(|one| one.moves) }
    }

    /// The faults with their times, the last first.
    fn faults(self, time: Duration, rng: &mut Rng) -> Vec<(Duration, Fault)> {
        let kinds = [(Fault::Kill, self.kills), (Fault::Freeze, self.zombies), (Fault::Crash, self.crashes)];
        let mut faults: Vec<(Duration, Fault)> = Vec::new();
        for (fault, count) in kinds {
            for number in 0..count {
                // Spread over the load, each at a random time of its share.
                let share = (f64::from(number) + rng.f64()) / f64::from(count);
                faults.push((time.mul_f64(share * 0.9), fault));
            }
        }
        faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        faults
    }
}

/// How long a replica is stopped: until everything has ended that would keep others from its work.
fn zombie_time(broker: &Broker) -> Duration {
    let claim = Duration::from_secs(ATTEMPT_SECONDS.into()) + CLAIM_MARGIN;
    let held = if matches!(broker, Broker::Kafka(_)) { claim.max(SESSION) } else { claim };
    held + Duration::from_secs(3)
}
