//! The processes of one consumer, which come and go, are killed, and are stopped in the middle.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millrace_testkit::{
    runtime::{Folders, Runtime},
    signal::Signal,
    wait::{START, until},
};
use serde_json::Value;

/// The time that a drain may take: the default of `drainTimeoutSeconds`, and what the end of a process takes.
const DRAIN: Duration = Duration::from_secs(40);

/// What a runtime says when an effect may happen a second time. It says so before that effect.
const ANNOUNCEMENT: &str = "an earlier attempt ended without word: its effect may happen twice";

/// The processes of one consumer.
pub(crate) struct Replicas {
    program: PathBuf,
    config: String,
    secrets: PathBuf,
    running: Vec<Runtime>,
    frozen: Vec<(Runtime, Instant)>,
    leaving: Vec<(Runtime, Instant)>,
    announced: BTreeMap<String, u64>,
    /// Replicas that have joined or left in peace.
    pub(crate) moves: u64,
    /// Replicas that were killed.
    pub(crate) kills: u64,
    /// Replicas that were stopped in the middle for a while.
    pub(crate) zombies: u64,
}

impl Replicas {
    /// Starts `count` processes of `program` with this configuration, and waits until they take events.
    pub(crate) async fn start(program: &Path, config: String, secrets: &Path, count: usize) -> Self {
        let mut replicas = Self {
            program: program.to_owned(),
            config,
            secrets: secrets.to_owned(),
            running: Vec::new(),
            frozen: Vec::new(),
            leaving: Vec::new(),
            announced: BTreeMap::new(),
            moves: 0,
            kills: 0,
            zombies: 0,
        };
        for _ in 0..count {
            replicas.add();
        }
        until("the replicas take events", START, async || replicas.running.iter().all(Runtime::is_ready)).await;
        replicas
    }

    fn add(&mut self) {
        let folders = Folders { secrets: &self.secrets, data: Path::new("/nonexistent") };
        self.running.push(Runtime::start(&self.program, &self.config, folders));
    }

    /// One more process takes part.
    pub(crate) fn join(&mut self) {
        self.add();
        self.moves += 1;
    }

    /// The oldest process is told to leave.
    pub(crate) fn leave(&mut self) {
        if self.running.len() > 1 {
            let leaver = self.running.remove(0);
            leaver.signal(Signal::TERM);
            self.leaving.push((leaver, Instant::now()));
            self.moves += 1;
        }
    }

    /// Kills a process and starts another one.
    pub(crate) fn kill(&mut self, victim: usize) {
        let mut killed = self.running.remove(victim % self.running.len());
        killed.kill();
        self.hear(&killed);
        self.kills += 1;
        self.add();
    }

    /// Stops a process where it is, for as long as asked for, and starts another one.
    pub(crate) fn freeze(&mut self, victim: usize, time: Duration) {
        let zombie = self.running.remove(victim % self.running.len());
        zombie.signal(Signal::STOP);
        self.frozen.push((zombie, Instant::now() + time));
        self.zombies += 1;
        self.add();
    }

    /// Lets those go on that were stopped for long enough, and sees to it that nobody has ended who was not told to, and that
    /// who was told to has ended well.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        for (zombie, _) in self.frozen.extract_if(.., |(_, until)| *until <= now) {
            zombie.signal(Signal::CONT);
            self.running.push(zombie);
        }
        for runtime in &mut self.running {
            if let Some(status) = runtime.process.try_wait().unwrap() {
                panic!("a replica ended by itself: {status}\n{}", tail(&runtime.log()));
            }
        }
        let mut gone = Vec::new();
        for (mut leaver, since) in std::mem::take(&mut self.leaving) {
            if let Some(status) = leaver.process.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0), "a drain was not clean\n{}", tail(&leaver.log()));
                gone.push(leaver);
            } else {
                assert!(since.elapsed() < DRAIN, "a drain does not end\n{}", tail(&leaver.log()));
                self.leaving.push((leaver, since));
            }
        }
        for leaver in gone {
            self.hear(&leaver);
        }
    }

    /// Whether nobody is leaving.
    pub(crate) fn is_settled(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Whether anybody is stopped.
    pub(crate) fn has_zombies(&self) -> bool {
        !self.frozen.is_empty()
    }

    /// Whether nothing waits and nothing is at work.
    pub(crate) fn is_idle(&self) -> bool {
        let idle =
            |status: &Value| status["lag"]["pending"].as_u64().unwrap_or(0) == 0 && status["lag"]["inFlight"] == 0;
        self.running.iter().all(|runtime| runtime.status().is_some_and(|status| idle(&status)))
    }

    /// One of the totals over those that run.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.running.iter().map(|runtime| runtime.total(name)).sum()
    }

    /// Lets all leave. What each event was announced as a possible duplicate, by the processes that ever were.
    pub(crate) async fn end(mut self) -> BTreeMap<String, u64> {
        for runtime in &self.running {
            let said = announcements(&runtime.log()).count() as u64;
            let counted = runtime.total("possibleDuplicates");
            assert!(counted >= said, "{said} announced and {counted} counted");
        }
        for leaver in std::mem::take(&mut self.running) {
            leaver.signal(Signal::TERM);
            self.leaving.push((leaver, Instant::now()));
        }
        while !self.leaving.is_empty() {
            self.look();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.announced
    }

    /// Notes which events it has announced as possible duplicates. Its log outlives its death, its metrics do not.
    fn hear(&mut self, gone: &Runtime) {
        for event in announcements(&gone.log()) {
            *self.announced.entry(event).or_default() += 1;
        }
    }
}

fn announcements(log: &str) -> impl Iterator<Item = String> {
    log.lines().filter(|line| line.contains(ANNOUNCEMENT)).filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(line["event_id"].as_str()?.to_owned())
    })
}

/// The end of a log.
fn tail(log: &str) -> &str {
    let start = log.char_indices().rev().nth(4000).map_or(0, |(index, _)| index);
    &log[start..]
}
