//! The embedded store: what it answered is on the disk, whatever happens to its process or its volume.
//!
//! Two tests run a scenario in a process of its own: this very program, told by the environment to play that part.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_core::{
    claim::{State, Wish},
    health::TroubleReason,
    key::{ConsumerName, Fingerprint, Key},
    outcome::Effect,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
    time::Clock,
};
use millrace_store::{EmbeddedOptions, EmbeddedStore};
use millrace_testkit::{
    clock::{ManualClock, WallClock},
    contract, sample,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const RETENTION: Duration = Duration::from_secs(3600);
const WISH: Wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: Duration::from_secs(600) };

/// Names the part that this program plays, and the folder that it plays it in.
const PART: &str = "MILLRACE_TEST_PART";
const FOLDER: &str = "MILLRACE_TEST_FOLDER";

fn options(folder: &Path) -> EmbeddedOptions {
    EmbeddedOptions { path: folder.join("claims.redb"), retention: RETENTION, request_timeout: Duration::from_secs(5) }
}

/// Opens the store, when the process or the thread that had it open before has let go of it.
async fn open(folder: &Path, clock: Arc<dyn Clock>) -> EmbeddedStore {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match EmbeddedStore::open(&options(folder), Arc::clone(&clock)).await {
            Ok(store) => return store,
            Err(trouble) => assert!(Instant::now() < deadline, "{trouble}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn key(id: &str) -> Key {
    Key::new(&ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }, &sample::event(id))
}

async fn claimed(store: &EmbeddedStore, id: &str) -> Claimed {
    match store.claim(&key(id), &WISH).await.unwrap() {
        Claim::Claimed(claimed) => claimed,
        other => panic!("expected a claim of {id}, got {other:?}"),
    }
}

async fn done(store: &EmbeddedStore, id: &str) {
    let claim = claimed(store, id).await;
    store.end(&key(id), &claim, &claim.ended(State::Done)).await.unwrap();
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(folder.path(), Arc::clone(&clock) as Arc<dyn Clock>).await;

    contract::store::run(&store, |time| {
        clock.advance(time);
        std::future::ready(())
    })
    .await;
}

#[tokio::test]
async fn a_file_is_open_in_one_place_at_a_time() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), WallClock::start()).await;

    let Err(trouble) = EmbeddedStore::open(&options(folder.path()), WallClock::start()).await else {
        panic!("opened twice")
    };
    assert_eq!(trouble.reason, TroubleReason::Failing);
    assert!(trouble.message.contains("is open in another process"), "{trouble}");

    drop(first);
    open(folder.path(), WallClock::start()).await;
}

#[tokio::test]
async fn the_next_process_takes_claims_over_at_once_and_counts_them_as_uncertain() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), WallClock::start()).await;
    claimed(&store, "held").await;
    let failed = claimed(&store, "failed").await;
    store.end(&key("failed"), &failed, &failed.record.released(Effect::None, jiff::Timestamp::now())).await.unwrap();
    done(&store, "done").await;
    drop(store);

    let next = open(folder.path(), WallClock::start()).await;

    let taken_over = claimed(&next, "held").await.record;
    assert_eq!((taken_over.attempts, taken_over.uncertain), (2, 1));
    let again = claimed(&next, "failed").await.record;
    assert_eq!((again.attempts, again.uncertain), (2, 0));
    assert_eq!(next.claim(&key("done"), &WISH).await.unwrap(), Claim::Settled);
    assert!(matches!(next.claim(&key("held"), &WISH).await.unwrap(), Claim::Busy(_)));
}

#[tokio::test]
async fn a_file_whose_making_was_cut_short_is_made_anew() {
    let folder = TempDir::new().unwrap();
    let unfinished = folder.path().join("claims.unfinished");
    std::fs::write(&unfinished, vec![0; 4096]).unwrap();

    let store = open(folder.path(), WallClock::start()).await;

    claimed(&store, "1").await;
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn what_is_older_than_the_retention_is_forgotten_and_its_room_used_again() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(open(folder.path(), Arc::clone(&clock) as Arc<dyn Clock>).await);
    let size = || std::fs::metadata(folder.path().join("claims.redb")).unwrap().len();
    let mut sizes = Vec::new();
    for round in 0..10 {
        let mut workers = JoinSet::new();
        for worker in 0..16 {
            let store = Arc::clone(&store);
            workers.spawn(async move {
                for event in 0..50 {
                    done(&store, &format!("{round}-{worker}-{event}")).await;
                }
            });
        }
        workers.join_all().await;
        assert_eq!(store.claim(&key(&format!("{round}-0-0")), &WISH).await.unwrap(), Claim::Settled);
        sizes.push(size());
        clock.advance(RETENTION + Duration::from_secs(1));
    }

    let first = claimed(&store, "0-0-0").await.record;
    assert_eq!(first.attempts, 1, "it is not known any more");
    // From the second round on it holds what is forgotten with what comes, and the pages of the transactions under way. How
    // requests fall into these moves it a little; without using room again it would be five times as large in the end.
    assert!(sizes[9] < 2 * sizes[1], "the file grows: {sizes:?}");
}

#[tokio::test]
async fn a_claim_whose_answer_came_too_late_is_no_attempt() {
    let folder = TempDir::new().unwrap();
    let hurried = EmbeddedOptions { request_timeout: Duration::from_micros(300), ..options(folder.path()) };
    let store = EmbeddedStore::open(&hurried, WallClock::start()).await.unwrap();
    let (key, mut late) = (key("1"), 0);
    while late < 100 {
        match store.claim(&key, &WISH).await {
            Err(StoreError::Unavailable(_)) => late += 1,
            Ok(Claim::Claimed(claim)) => {
                assert_eq!((claim.record.attempts, claim.record.uncertain), (1, 0), "after {late} late answers");
                let released = claim.record.unspent().ended(State::Released);
                while store.end(&key, &claim, &released).await.is_err() {}
            }
            other => panic!("held by nobody, and refused: {other:?}"),
        }
    }
}

/// This program, playing a part in a folder.
fn play(part: &str, test: &str, folder: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(PART, part).env(FOLDER, folder);
    command
}

/// The folder to play `part` in; nothing where this program plays no part.
fn playing(part: &str) -> Option<PathBuf> {
    (env::var(PART).ok()? == part).then(|| PathBuf::from(env::var_os(FOLDER).unwrap()))
}

/// Claims and ends events from sixteen tasks until it is killed, and says what it was answered.
async fn claim_until_killed(folder: &Path) {
    let store = Arc::new(open(folder, WallClock::start()).await);
    let run = std::process::id();
    let mut workers = JoinSet::new();
    for worker in 0..16 {
        let store = Arc::clone(&store);
        workers.spawn(async move {
            for event in 0.. {
                let id = format!("{run}-{worker}-{event}");
                let claim = claimed(&store, &id).await;
                say(&format!("claimed {id}"));
                store.end(&key(&id), &claim, &claim.ended(State::Done)).await.unwrap();
                say(&format!("done {id}"));
            }
        });
    }
    workers.join_all().await;
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_of_forty_kills_the_file_opens_and_everything_answered_is_there() {
    if let Some(folder) = playing("crash") {
        claim_until_killed(&folder).await;
    }
    let folder = TempDir::new().unwrap();
    let mut answered: BTreeMap<String, bool> = BTreeMap::new();
    let mut finished = 0;
    for kill in 0..40 {
        let test = "after_each_of_forty_kills_the_file_opens_and_everything_answered_is_there";
        let mut child: Child = play("crash", test, folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Dies after a number of answers that differs each time: in the first commit, and in later ones.
        let mut left = if kill == 0 { 0 } else { fastrand::usize(1..400) };
        let mut killed = false;
        loop {
            if left == 0 && !killed {
                child.kill().unwrap();
                killed = true;
            }
            // What it said before it died counts, so it is read to the end.
            let Some(line) = lines.next() else { break };
            match line.split_once(' ') {
                Some(("claimed", id)) => drop(answered.insert(id.to_owned(), false)),
                Some(("done", id)) => drop(answered.insert(id.to_owned(), true)),
                _ => continue,
            }
            left = left.saturating_sub(1);
        }
        child.wait().unwrap();
        assert!(killed, "it ended by itself");

        let store = open(folder.path(), WallClock::start()).await;
        for (id, is_done) in std::mem::take(&mut answered) {
            match (store.claim(&key(&id), &WISH).await.unwrap(), is_done) {
                (Claim::Settled, true) => finished += 1,
                // The end may have been written without its answer being heard.
                (Claim::Settled, false) => {}
                (Claim::Claimed(claim), false) => assert_eq!((claim.record.attempts, claim.record.uncertain), (2, 1)),
                (other, is_done) => panic!("{id}, done {is_done}: {other:?}"),
            }
        }
    }
    assert!(finished > 1000, "{finished} events were done before a kill");
}

/// Fills the volume of `folder` with claims, and goes on when there is room again.
async fn fill_the_volume(folder: &Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 2 * 1024 * 1024]).unwrap();
    let store = open(folder, WallClock::start()).await;
    let mut kept = Vec::new();
    let refused = loop {
        let ids: Vec<_> = (kept.len()..kept.len() + 64).map(|id| id.to_string()).collect();
        let keys: Vec<_> = ids.iter().map(|id| key(id)).collect();
        let answers = together(keys.iter().map(|key| store.claim(key, &WISH))).await;
        if let Some(Err(error)) = answers.iter().find(|answer| answer.is_err()) {
            break error.to_string();
        }
        for (id, answer) in ids.into_iter().zip(answers) {
            let Ok(Claim::Claimed(claim)) = answer else { panic!("{answer:?}") };
            kept.push((id, claim));
        }
    };
    assert!(refused.contains("is full") && refused.contains("volumeClaim"), "{refused}");
    assert!(kept.len() > 1000, "{} claims fit", kept.len());
    // It stays full: nothing is promised that cannot be kept, and nothing breaks by being tried again.
    for _ in 0..20 {
        let answer = store.claim(&key("one more"), &WISH).await;
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_)) | Ok(Claim::Claimed(_) | Claim::Busy(_))),
            "{answer:?}"
        );
    }

    std::fs::remove_file(&ballast).unwrap();

    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "it does not go on: {error}");
    }
    for some in kept.chunks(256) {
        let keys: Vec<_> = some.iter().map(|(id, _)| key(id)).collect();
        let answers = together(keys.iter().map(|key| store.claim(key, &WISH))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Claim::Busy(_)))), "{answers:?}");
        let records: Vec<_> = some.iter().map(|(_, claim)| claim.ended(State::Done)).collect();
        let ends = keys.iter().zip(some).zip(&records).map(|((key, (_, claim)), record)| store.end(key, claim, record));
        let answers = together(ends).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    drop(store);
    let next = open(folder, WallClock::start()).await;
    for some in kept.chunks(256) {
        let keys: Vec<_> = some.iter().map(|(id, _)| key(id)).collect();
        let answers = together(keys.iter().map(|key| next.claim(key, &WISH))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Claim::Settled))), "{answers:?}");
    }
    say(&format!("{} claims on a full volume", kept.len()));
}

/// The answers of futures that are polled together.
async fn together<F: Future + Send + Unpin>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<F> = futures.collect();
    let mut answers: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = std::pin::Pin::new(future).poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn a_full_volume_is_an_error_that_breaks_nothing_and_ends_when_there_is_room() {
    let test = "a_full_volume_is_an_error_that_breaks_nothing_and_ends_when_there_is_room";
    if let Some(folder) = playing("full volume") {
        return fill_the_volume(&folder).await;
    }
    let folder = TempDir::new().unwrap();
    let part = play("full volume", test, folder.path());

    // A small volume that only this process sees, and that goes with it.
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec"]);
    command.arg("mount -t tmpfs -o size=8m tmpfs \"$MILLRACE_TEST_FOLDER\"; exec \"$@\"").arg("sh");
    command.arg(part.get_program()).args(part.get_args());
    command.envs(part.get_envs().map(|(name, value)| (name, value.unwrap())));
    let output = command.output().expect("unshare cannot be started: apt-get install util-linux");

    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}(a small tmpfs is mounted: allowed to root, or in user namespaces)");
    assert!(out.contains("claims on a full volume"), "{out}");
}
