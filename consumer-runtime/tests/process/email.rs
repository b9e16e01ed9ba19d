//! The `email` handler in a running process: a mail server and a Secret that come and go.

use millrace_testkit::{
    mailpit::Mailpit,
    nats_server::NatsServer,
    wait::{eventually, until},
};

use crate::support::{PATIENCE, Runtime, Secret, publish};

const HANDLER: &str = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
const MORE: &str = "delivery: {deadLetter: {subject: dlq.emails}, maxAttempts: 2, backoff: {initialMilliseconds: 1}}";

#[tokio::test]
async fn a_mail_server_or_secret_that_is_missing_is_told_and_costs_no_event() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish(&context, 0..50).await;
    let secret = Secret::empty();
    let runtime = Runtime::with(&server, "emails", 30, HANDLER, MORE, secret.folder());
    eventually("the Secret is missed", PATIENCE, || runtime.handler_problem() == Some("SecretMissing".to_owned()))
        .await;
    assert!(!runtime.is_ready());

    let mail = Mailpit::start(&[]).await;
    secret.describe(mail.smtp_port());
    until("all are sent", PATIENCE, async || mail.mails().await.len() == 50).await;
    eventually("it is ready", PATIENCE, || runtime.is_ready()).await;

    drop(mail);
    publish(&context, 50..150).await;
    eventually("the server is missed", PATIENCE, || runtime.handler_problem() == Some("Unreachable".to_owned())).await;
    assert!(!runtime.is_ready());

    let mail = Mailpit::start(&[]).await;
    secret.describe(mail.smtp_port());
    until("the rest is sent", PATIENCE, async || mail.mails().await.len() == 100).await;
    assert_eq!(runtime.total("deadLetters"), 0);
    assert_eq!(runtime.total("possibleDuplicates"), 0);
}
