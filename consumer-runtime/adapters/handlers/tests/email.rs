//! The `email` handler against a real SMTP server, and against one that breaks off where a real one cannot be told to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Failure, FailureClass, Outcome},
    ports::{Context, Handler},
};
use millrace_events::Reason;
use millrace_handlers::{EmailHandler, EmailOptions};
use millrace_testkit::{mailpit::Mailpit, nats_server::free_port, sample};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const CONTEXT: Context<'static> = Context { attempt: 1, hold: None, trace: None };

fn handler(mount: &Path) -> EmailHandler {
    EmailHandler::new(EmailOptions {
        secret_name: "smtp".to_owned(),
        secret_directory: mount.to_owned(),
        from: "The Shop <shop@example.com>".to_owned(),
        connections_max: 2,
        attempt_timeout: Duration::from_secs(4),
    })
    .unwrap()
}

fn write_secret(mount: &Path, entries: &[(&str, &str)]) {
    for (key, value) in entries {
        fs::write(mount.join(key), value).unwrap();
    }
}

/// A mounted Secret for a server on this port without TLS and login.
fn secret_for(port: u16) -> TempDir {
    let mount = tempfile::tempdir().unwrap();
    write_secret(mount.path(), &[("host", "127.0.0.1"), ("port", &port.to_string()), ("tls", "none")]);
    mount
}

async fn send(handler: &EmailHandler, id: &str) -> Outcome {
    handler.call(&sample::event(id), &CONTEXT).await
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => panic!("it did not fail: {outcome:?}"),
    }
}

#[tokio::test]
async fn each_event_is_one_mail_with_a_message_id_of_its_own() {
    let server = Mailpit::start(&[]).await;
    let mount = secret_for(server.smtp_port());
    let handler = handler(mount.path());
    handler.check().await.unwrap();

    for id in ["1", "2", "2"] {
        assert_eq!(send(&handler, id).await, Outcome::Done);
    }

    let mails = server.mails().await;
    assert_eq!(mails.len(), 3);
    assert!(mails.iter().all(|mail| mail.to == "ada@example.com" && mail.subject.starts_with("Your order")));
    let ids: BTreeSet<_> = mails.iter().map(|mail| mail.message_id.as_str()).collect();
    assert_eq!(ids.len(), 2, "a second copy has the same Message-ID");
    assert!(ids.contains("e3f7ba85cb4cceeef7348d951049ed71d696ed3f@millrace"), "stable between releases: {ids:?}");
}

#[tokio::test]
async fn a_refusal_is_classed_by_its_code_and_the_connection_used_on() {
    let server = Mailpit::start(&[]).await;
    let mount = secret_for(server.smtp_port());
    let handler = handler(mount.path());

    server.refuse_recipients(451).await;
    let busy = failure(send(&handler, "1").await);
    assert_eq!((busy.class, busy.effect), (FailureClass::Retryable, Effect::None));

    server.refuse_recipients(550).await;
    let refused = failure(send(&handler, "1").await);
    assert_eq!(refused.class, FailureClass::Permanent(Reason::HandlerRejected));

    server.refuse_recipients(0).await;
    assert_eq!(send(&handler, "1").await, Outcome::Done);
    assert_eq!(server.mails().await.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_down_has_sent_nothing_and_is_used_again_when_it_is_back_elsewhere() {
    let server = Mailpit::start(&[]).await;
    let mount = secret_for(server.smtp_port());
    let handler = handler(mount.path());
    assert_eq!(send(&handler, "1").await, Outcome::Done);

    drop(server);
    // The first attempt finds its open connection broken, the second finds nobody.
    for _ in 0..2 {
        let down = failure(send(&handler, "2").await);
        assert_eq!((down.class, down.effect), (FailureClass::Retryable, Effect::None), "{}", down.error);
    }
    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::Unreachable);

    let server = Mailpit::start(&[]).await;
    write_secret(mount.path(), &[("port", &server.smtp_port().to_string())]);
    assert_eq!(send(&handler, "2").await, Outcome::Done);
    assert_eq!(server.mails().await.len(), 1);
}

#[tokio::test]
async fn a_secret_that_appears_or_is_corrected_is_used_without_a_restart() {
    let users = tempfile::NamedTempFile::new().unwrap();
    fs::write(users.path(), "shop:right\n").unwrap();
    let users = users.path().to_str().unwrap();
    let server = Mailpit::start(&["--smtp-auth-file", users, "--smtp-auth-allow-insecure"]).await;
    let mount = tempfile::tempdir().unwrap();
    let handler = handler(mount.path());

    let trouble = handler.check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::SecretMissing);
    assert!(trouble.message.contains("\"smtp\"") && trouble.message.contains("\"host\""), "{trouble}");
    assert_eq!(failure(send(&handler, "1").await).effect, Effect::None);

    let port = server.smtp_port().to_string();
    let common = [("host", "127.0.0.1"), ("port", port.as_str()), ("tls", "none"), ("username", "shop")];
    write_secret(mount.path(), &common);
    write_secret(mount.path(), &[("password", "wrong")]);
    let trouble = handler.check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::Unauthorized, "{trouble}");
    assert!(!trouble.message.contains("wrong"), "{trouble}");
    let refused = failure(send(&handler, "1").await);
    assert_eq!((refused.class, refused.effect), (FailureClass::Retryable, Effect::None));

    write_secret(mount.path(), &[("password", "right\n")]);
    handler.check().await.unwrap();
    assert_eq!(send(&handler, "1").await, Outcome::Done);
}

#[tokio::test]
async fn starttls_is_never_left_out_where_the_server_does_not_offer_it() {
    let server = Mailpit::start(&[]).await;
    let mount = secret_for(server.smtp_port());
    write_secret(mount.path(), &[("tls", "starttls")]);

    let trouble = handler(mount.path()).check().await.unwrap_err();

    assert_eq!(trouble.reason, TroubleReason::Failing);
    assert!(trouble.message.contains("STARTTLS"), "{trouble}");
}

#[tokio::test]
async fn tls_is_used_in_both_modes_and_only_with_a_server_that_is_trusted() {
    let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    fs::write(&certificate, identity.cert.pem()).unwrap();
    fs::write(&key, identity.signing_key.serialize_pem()).unwrap();
    let files = ["--smtp-tls-cert", certificate.to_str().unwrap(), "--smtp-tls-key", key.to_str().unwrap()];
    for (mode, requirement) in [("starttls", "--smtp-require-starttls"), ("implicit", "--smtp-require-tls")] {
        let server = Mailpit::start(&[files.as_slice(), &[requirement]].concat()).await;
        let mount = secret_for(server.smtp_port());
        write_secret(mount.path(), &[("host", "localhost"), ("tls", mode)]);
        let handler = handler(mount.path());

        let stranger = handler.check().await.unwrap_err();
        write_secret(mount.path(), &[("ca", &identity.cert.pem())]);
        let sent = send(&handler, mode).await;

        assert!(stranger.message.contains("certificate"), "{mode}: {stranger}");
        assert_eq!(sent, Outcome::Done, "{mode}");
        assert_eq!(server.mails().await.len(), 1, "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_before_the_content_has_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mount = secret_for(listener.local_addr().unwrap().port());
    let handler = handler(mount.path());

    // It takes connections and says nothing.
    let hung = failure(send(&handler, "1").await);
    let trouble = handler.check().await.unwrap_err();

    assert_eq!((hung.class, hung.effect), (FailureClass::Retryable, Effect::None), "{}", hung.error);
    assert_eq!(trouble.reason, TroubleReason::Unreachable);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_content_leaves_open_whether_the_mail_was_sent() {
    let (port, server) = breaks_off("354 go on", ".").await;
    let after = failure(send(&handler(secret_for(port).path()), "1").await);
    assert_eq!((after.class, after.effect), (FailureClass::Retryable, Effect::Possible), "{}", after.error);
    server.await.unwrap();

    let (port, server) = breaks_off("", "DATA").await;
    let before = failure(send(&handler(secret_for(port).path()), "1").await);
    assert_eq!((before.class, before.effect), (FailureClass::Retryable, Effect::None), "{}", before.error);
    server.await.unwrap();
}

/// A server for one connection, which breaks off when it reads `last_line`. It answers DATA with `data_answer`.
async fn breaks_off(data_answer: &'static str, last_line: &'static str) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream: BufReader<TcpStream> = BufReader::new(stream);
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut in_data = false;
        let mut line = String::new();
        while stream.read_line(&mut line).await.unwrap() > 0 && line.trim_end() != last_line {
            if !in_data {
                in_data = line.trim_end() == "DATA";
                let answer = if in_data { data_answer } else { "250 fine" };
                stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
            line.clear();
        }
    };
    #[expect(clippy::disallowed_methods, reason = "a test owns its server")]
    let server = tokio::spawn(serve);
    (port, server)
}

#[tokio::test]
async fn nobody_at_the_port_is_unreachable() {
    let mount = secret_for(free_port());

    assert_eq!(handler(mount.path()).check().await.unwrap_err().reason, TroubleReason::Unreachable);
}
