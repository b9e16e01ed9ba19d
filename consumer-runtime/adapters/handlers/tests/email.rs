//! The `email` handler against a real SMTP server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{fs, path::Path, time::Duration};

use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Failure, FailureClass, Outcome},
    ports::{Context, Handler},
};
use millrace_events::Reason;
use millrace_handlers::{EmailHandler, EmailOptions};
use millrace_testkit::{mailpit::Mailpit, sample};

const CONTEXT: Context = Context { attempt: 1 };

fn handler(mount: &Path) -> EmailHandler {
    EmailHandler::new(EmailOptions {
        secret_name: "smtp".to_owned(),
        secret_directory: mount.to_owned(),
        from: "The Shop <shop@example.com>".to_owned(),
        connections: 2,
        command_timeout: Duration::from_secs(2),
    })
    .unwrap()
}

fn write_secret(mount: &Path, entries: &[(&str, &str)]) {
    for (key, value) in entries {
        fs::write(mount.join(key), value).unwrap();
    }
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Done => panic!("it succeeded"),
    }
}

#[tokio::test]
async fn each_event_is_one_mail_and_a_refusal_is_classed_by_its_code() {
    let server = Mailpit::start(&[]).await;
    let mount = tempfile::tempdir().unwrap();
    write_secret(mount.path(), &[("host", "127.0.0.1"), ("port", &server.smtp_port().to_string()), ("tls", "none")]);
    let handler = handler(mount.path());
    handler.check().await.unwrap();

    for id in ["1", "2", "2"] {
        assert_eq!(handler.call(&sample::event(id), &CONTEXT).await, Outcome::Done);
    }
    let mails = server.mails().await;
    assert_eq!(mails.len(), 3);
    assert!(mails.iter().all(|mail| mail.to == "ada@example.com"), "{mails:?}");
    let mut ids: Vec<_> = mails.iter().map(|mail| &mail.message_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2, "a second copy has the same Message-ID");

    server.refuse_recipients(451).await;
    let busy = failure(handler.call(&sample::event("3"), &CONTEXT).await);
    assert_eq!((busy.class, busy.effect), (FailureClass::Retryable, Effect::None));

    server.refuse_recipients(550).await;
    let refused = failure(handler.call(&sample::event("3"), &CONTEXT).await);
    assert_eq!(refused.class, FailureClass::Permanent(Reason::HandlerRejected));

    server.refuse_recipients(0).await;
    assert_eq!(handler.call(&sample::event("3"), &CONTEXT).await, Outcome::Done);

    drop(server);
    let down = failure(handler.call(&sample::event("4"), &CONTEXT).await);
    assert_eq!(down.class, FailureClass::Retryable);
    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::Unreachable);
    let refused = failure(handler.call(&sample::event("4"), &CONTEXT).await);
    assert_eq!(refused.effect, Effect::None, "no connection, no effect: {}", refused.error);
}

#[tokio::test]
async fn a_secret_that_appears_or_is_corrected_is_used_without_a_restart() {
    let users = tempfile::NamedTempFile::new().unwrap();
    fs::write(users.path(), "shop:right\n").unwrap();
    let server =
        Mailpit::start(&["--smtp-auth-file", users.path().to_str().unwrap(), "--smtp-auth-allow-insecure"]).await;
    let mount = tempfile::tempdir().unwrap();
    let handler = handler(mount.path());

    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::SecretMissing);

    let port = server.smtp_port().to_string();
    let common = [("host", "127.0.0.1"), ("port", port.as_str()), ("tls", "none"), ("username", "shop")];
    write_secret(mount.path(), &common);
    write_secret(mount.path(), &[("password", "wrong")]);
    let trouble = handler.check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::Unauthorized, "{trouble}");
    assert!(!trouble.message.contains("wrong"), "{trouble}");

    write_secret(mount.path(), &[("password", "right\n")]);
    handler.check().await.unwrap();
    assert_eq!(handler.call(&sample::event("1"), &CONTEXT).await, Outcome::Done);
}
