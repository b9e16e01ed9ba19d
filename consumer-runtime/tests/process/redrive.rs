//! Protects putting dead letters back: by the process that a user starts, with nothing lost and nothing done twice.

use std::{
    collections::BTreeSet,
    fs,
    process::Output,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use millrace_config::{replay::ReplayReport, status::StatusReport};
use millrace_testkit::{
    mailpit::Mailpit,
    nats_server::{NatsServer, free_port},
    runtime::get,
    signal::{self, Signal},
    wait::{eventually, until},
};
use tempfile::TempDir;

use crate::support::{PATIENCE, Runtime, Secret, publish};

/// A consumer of e-mails whose mail server may refuse everybody, for good.
struct Emails {
    server: NatsServer,
    context: jetstream::Context,
    mail_server: Mailpit,
    runtime: Runtime,
    _secret: Secret,
}

impl Emails {
    async fn start() -> Self {
        let server = NatsServer::jetstream().await;
        let mail_server = Mailpit::start(&[]).await;
        let secret = Secret::for_server(mail_server.smtp_port());
        let context = server.make_streams().await;
        let handler = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
        let more = "
workers: 4
delivery: {attemptTimeoutSeconds: 2, deadLetter: {subject: dlq.emails}}";
        let runtime = Runtime::with(&server, "emails", 2, handler, more, secret.folder());
        Self { server, context, mail_server, runtime, _secret: secret }
    }

    /// Publishes orders that the mail server refuses, and waits for their dead letters.
    async fn publish_refused(&self, count: u32) {
        self.mail_server.refuse_recipients(550).await;
        publish(&self.context, 0..count).await;
        until("they are dead", PATIENCE, async || self.dead_letters().await == u64::from(count)).await;
    }

    async fn dead_letters(&self) -> u64 {
        self.context.get_stream("DLQ").await.unwrap().cached_info().state.messages
    }

    async fn mails(&self) -> usize {
        self.mail_server.mails().await.len()
    }
}

/// What it said at the end, if it succeeded as expected.
pub(crate) fn summary(output: &Output, success: bool) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.success(), success, "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn dead_letters_are_shown_handled_once_and_parked_when_they_fail_too_often() {
    let emails = Emails::start().await;
    emails.publish_refused(5).await;

    let shown = emails.runtime.redrive(&["--dry-run", "--reason", "HandlerRejected"]).output().unwrap();
    assert!(summary(&shown, true).starts_with("redrive: target=none matched=5 replayed=0"), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("id=3\tjetstream://ORDERS/orders.placed#4"), "{shown:?}");
    assert_eq!((emails.dead_letters().await, emails.mails().await), (5, 0), "nothing was done");

    // It fails again: a new dead letter takes the place of each old one, and next time they are parked.
    let again = emails.runtime.redrive(&["--max-replays", "1"]).output().unwrap();
    assert_eq!(
        summary(&again, false),
        "redrive: target=handler matched=5 replayed=5 succeeded=0 failed=5 parked=0 unreadable=0"
    );
    let parked = emails.runtime.redrive(&["--max-replays", "1"]).output().unwrap();
    assert_eq!(
        summary(&parked, true),
        "redrive: target=handler matched=5 replayed=0 succeeded=0 failed=0 parked=5 unreadable=0"
    );
    assert_eq!(emails.dead_letters().await, 5);

    emails.mail_server.refuse_recipients(0).await;
    let one = emails.runtime.redrive(&["--event-id", "3"]).output().unwrap();
    assert_eq!(
        summary(&one, true),
        "redrive: target=handler matched=1 replayed=1 succeeded=1 failed=0 parked=0 unreadable=0"
    );
    let rest = emails.runtime.redrive(&[]).output().unwrap();
    assert_eq!(
        summary(&rest, true),
        "redrive: target=handler matched=4 replayed=4 succeeded=4 failed=0 parked=0 unreadable=0"
    );
    assert_eq!((emails.dead_letters().await, emails.mails().await), (0, 5), "each once");
}

#[tokio::test]
async fn what_goes_back_to_the_source_is_handled_by_who_gave_it_up_and_recognised_by_others() {
    let emails = Emails::start().await;
    let others = Runtime::start(&emails.server, 2);
    emails.publish_refused(5).await;
    eventually("the others have them", PATIENCE, || others.orders() == 5).await;
    emails.mail_server.refuse_recipients(0).await;

    let output = emails.runtime.redrive(&["--to", "source"]).output().unwrap();

    assert_eq!(
        summary(&output, true),
        "redrive: target=source matched=5 replayed=5 succeeded=5 failed=0 parked=0 unreadable=0"
    );
    until("the mails came", PATIENCE, async || emails.mails().await == 5).await;
    eventually("the others skip them", PATIENCE, || others.total("duplicatesSkipped") == 5).await;
    assert_eq!((others.orders(), emails.dead_letters().await), (5, 0));
}

#[tokio::test]
async fn a_redrive_that_is_killed_loses_nothing_and_the_next_one_goes_on() {
    let emails = Emails::start().await;
    emails.publish_refused(40).await;
    emails.mail_server.refuse_recipients(0).await;

    let mut killed = emails.runtime.redrive(&["--per-second", "40"]).spawn().unwrap();
    until("it is at work", PATIENCE, async || emails.mails().await >= 10).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(emails.mails().await < 40, "it was killed in the middle");

    let deadline = Instant::now() + Duration::from_secs(60);
    while emails.dead_letters().await > 0 {
        assert!(Instant::now() < deadline, "{} are left", emails.dead_letters().await);
        summary(&emails.runtime.redrive(&["--per-second", "1000"]).output().unwrap(), true);
    }
    let mut ids: Vec<_> = emails.mail_server.mails().await.into_iter().map(|mail| mail.message_id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 40, "nothing is lost");
    assert!(all <= 44, "{all} mails: only what 4 workers had in hand may come twice");
}

#[tokio::test]
async fn a_redrive_with_a_journal_that_is_killed_again_and_again_reports_each_letter_once() {
    const COUNT: u32 = 60;
    let emails = Emails::start().await;
    emails.publish_refused(COUNT).await;
    let folder = TempDir::new().unwrap();
    let (journal, report) = (folder.path().join("journal"), folder.path().join("report"));
    // Not those that fail again: they are for another redrive.
    let now = jiff::Timestamp::now().to_string();
    let redrive = || {
        let mut command = emails.runtime.redrive(&["--per-second", "100", "--max-replays", "9", "--until", &now]);
        command.arg("--journal").arg(&journal).arg("--report").arg(&report);
        command
    };
    // What is in hand may still become anything, so the journal is where it shows how far a run has come.
    let ended = || fs::read_to_string(&journal).unwrap_or_default().matches("ended").count();
    let killed_after = async |more: usize| {
        let before = ended();
        let mut process = redrive().spawn().unwrap();
        until("letters are done with", PATIENCE, async || ended() >= before + more).await;
        process.kill().unwrap();
        process.wait().unwrap();
    };

    // First every event fails again, then each is handled; the process dies in the middle of both, at another place each time.
    for letters in [7, 5, 9] {
        killed_after(letters).await;
    }
    emails.mail_server.refuse_recipients(0).await;
    for letters in [6, 8] {
        killed_after(letters).await;
    }
    let summary = summary(&redrive().output().unwrap(), true);

    let report: ReplayReport = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let ReplayReport { matched, succeeded, failed, parked, unreadable, ended, .. } = report;
    assert_eq!((matched, succeeded + failed, parked, unreadable, ended), (60, 60, 0, 0, true), "{report:?}");
    assert!(summary.contains(&format!(" matched=60 replayed=60 succeeded={succeeded} failed={failed} ")), "{summary}");
    assert!(failed >= 21 && succeeded >= 14, "{report:?}");
    // The truth is at the broker and at the mail server.
    assert_eq!(emails.dead_letters().await, failed, "each event that failed again has one new dead letter");
    let mails = emails.mail_server.mails().await.into_iter().map(|mail| mail.message_id);
    assert_eq!(mails.collect::<BTreeSet<_>>().len() as u64, succeeded, "and each other one has its mail");

    // A run that finds nothing to do says the same.
    assert!(self::summary(&redrive().output().unwrap(), true).contains(" matched=60 replayed=60 "));
    let others = ["--subject", "orders.shipped", "--dry-run"];
    let others = self::summary(&emails.runtime.redrive(&others).output().unwrap(), true);
    assert!(others.starts_with("redrive: target=none matched=0 "), "{others}");
}

#[tokio::test]
async fn a_redrive_that_is_told_to_stop_in_the_middle_still_says_what_it_came_to_when_that_is_final() {
    let emails = Emails::start().await;
    emails.publish_refused(40).await;
    emails.mail_server.refuse_recipients(0).await;
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let arguments = ["--listen", &address, "redrive", "--serve", "--per-second", "20"];
    let process = emails.runtime.command(&arguments).spawn().unwrap();
    let replay = || -> Option<ReplayReport> {
        let status: StatusReport = serde_json::from_str(&get(port, "/status")?.1).ok()?;
        status.replay
    };
    eventually("it is at work", PATIENCE, || replay().is_some_and(|replay| replay.succeeded >= 5)).await;

    assert!(signal::send(Signal::TERM, process.id()));

    // A pod that is deleted is gone with its termination message; this is where the operator hears its last word.
    eventually("it does nothing more", PATIENCE, || replay().is_some_and(|replay| replay.stopped)).await;
    let last = replay().unwrap();
    assert!(!last.ended && last.succeeded < 40, "it was stopped in the middle: {last:?}");
    let said = summary(&process.wait_with_output().unwrap(), false);
    assert!(said.contains(&format!(" succeeded={} failed=0 ", last.succeeded)), "{said}: {last:?}");
    assert_eq!(emails.dead_letters().await, 40 - last.succeeded);
}
