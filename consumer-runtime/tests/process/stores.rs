//! Stores of claims that outlive a killed process: what was done is not done again.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream;
use millrace_testkit::{
    mailpit::Mailpit,
    nats_server::NatsServer,
    redis_server::{DURABLE, RedisServer, write_secret},
    wait::{eventually, until},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PATIENCE, Runtime, publish, settled_of};

const HANDLER: &str = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
const WORKERS: u64 = 16;

/// What a consumer with some store has around it.
struct Scene {
    server: NatsServer,
    context: jetstream::Context,
    mail: Mailpit,
    secrets: TempDir,
    data: TempDir,
    more: String,
}

impl Scene {
    async fn with_store(store: &str) -> Self {
        let server = NatsServer::jetstream().await;
        let context = server.make_streams().await;
        let (mail, secrets) = (Mailpit::start(&[]).await, TempDir::new().unwrap());
        let port = mail.smtp_port().to_string();
        write_secret(&secrets.path().join("smtp"), &[("host", "127.0.0.1"), ("port", &port), ("tls", "none")]);
        // A claim lives ten seconds longer than an attempt may take, and is taken over then.
        let more = format!(
            "idempotency: {{retentionSeconds: 7200, store: {store}}}\n\
             delivery: {{deadLetter: {{subject: dlq.emails}}, attemptTimeoutSeconds: 3}}"
        );
        Self { server, context, mail, secrets, data: TempDir::new().unwrap(), more }
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_data(&self.server, "emails", 2, HANDLER, &self.more, self.secrets.path(), self.data.path())
    }

    async fn mails(&self) -> usize {
        self.mail.mails().await.len()
    }

    /// Kills a runtime in the middle of its work, with each event published twice, and lets another one finish it.
    async fn kill_in_the_middle(&self) -> Runtime {
        publish(&self.context, 0..400).await;
        publish(&self.context, 0..400).await;
        let mut first = self.runtime();
        until("it is at work", PATIENCE, async || self.mails().await > 60).await;
        first.process.kill().unwrap();
        first.wait();
        assert!(self.mails().await < 400, "it was killed in the middle");

        let second = self.runtime();
        settled_of(&self.context, "shop-emails", Duration::from_secs(90)).await;

        let mut copies: BTreeMap<String, u64> = BTreeMap::new();
        for mail in self.mail.mails().await {
            *copies.entry(mail.message_id).or_default() += 1;
        }
        assert_eq!(copies.len(), 400, "each order has its e-mail");
        let doubled: u64 = copies.values().map(|copies| copies - 1).sum();
        let uncertain = second.total("possibleDuplicates");
        assert!(doubled <= uncertain && uncertain <= WORKERS, "{doubled} doubled, {uncertain} counted");
        assert!(second.total("duplicatesSkipped") >= 400 - 60 - WORKERS);
        second
    }
}

fn notes(runtime: &Runtime) -> Value {
    runtime.status().map(|status| status["notes"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn claims_on_a_volume_outlive_a_killed_process() {
    let scene = Scene::with_store("{embedded: {volumeClaim: {size: 64Mi}}}").await;

    let second = scene.kill_in_the_middle().await;

    let third = scene.runtime();
    eventually("a second process waits for the file", PATIENCE, || {
        let problems = third.status().map(|status| status["problems"].to_string()).unwrap_or_default();
        problems.contains("is open in another process")
    })
    .await;
    assert!(!third.is_ready());
    drop(second);
    eventually("and has it then", PATIENCE, || third.is_ready()).await;
    let refused = third.redrive(&[]).status().unwrap();
    assert_eq!(refused.code(), Some(78), "a redrive to the handler would wait for the file for ever");
}

#[tokio::test]
async fn claims_in_redis_outlive_a_killed_process() {
    let redis = RedisServer::start(DURABLE).await;
    let scene = Scene::with_store("{redis: {connectionSecretRef: {name: redis}}}").await;
    write_secret(&scene.secrets.path().join("store"), &[("url", &redis.url())]);

    scene.kill_in_the_middle().await;
}

#[tokio::test]
async fn a_redis_server_that_is_away_stops_the_intake_and_loses_nothing() {
    let mut redis = RedisServer::start(DURABLE).await;
    let scene = Scene::with_store("{redis: {connectionSecretRef: {name: redis}}}").await;
    write_secret(&scene.secrets.path().join("store"), &[("url", &redis.url())]);
    let runtime = scene.runtime();
    publish(&scene.context, 0..50).await;
    until("all are sent", PATIENCE, async || scene.mails().await == 50).await;

    redis.kill();
    publish(&scene.context, 50..100).await;
    eventually("it is missed", PATIENCE, || {
        runtime.status().is_some_and(|status| status["problems"][0]["part"] == "Store")
    })
    .await;
    assert_eq!(scene.mails().await, 50, "no effect without a claim");
    redis.restart().await;

    until("the rest is sent", PATIENCE, async || scene.mails().await == 100).await;
    settled_of(&scene.context, "shop-emails", PATIENCE).await;
    assert_eq!(scene.mails().await, 100);
    assert_eq!((runtime.total("deadLetters"), runtime.total("possibleDuplicates")), (0, 0));
}

#[tokio::test]
async fn what_weakens_the_promise_is_noted_and_keeps_nothing_from_working() {
    let redis = RedisServer::start(&[]).await;
    let scene = Scene::with_store("{redis: {connectionSecretRef: {name: redis}}}").await;
    write_secret(&scene.secrets.path().join("store"), &[("url", &redis.url())]);
    let runtime = scene.runtime();
    eventually("it is ready", PATIENCE, || runtime.is_ready()).await;
    let notes_now = notes(&runtime);
    assert_eq!(
        (&notes_now[0]["reason"], &notes_now[1]["reason"]),
        (&"RetentionTooShort".into(), &"StoreNotDurable".into())
    );
    assert!(notes_now[0]["message"].as_str().unwrap().contains("without a limit of age"), "{notes_now}");
    drop(runtime);

    // Both are healed.
    redis.command("CONFIG SET appendonly yes\r\nCONFIG SET appendfsync always").await;
    let mut stream = scene.context.get_stream("ORDERS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_age = Duration::from_secs(7200);
    scene.context.update_stream(config).await.unwrap();
    let runtime = scene.runtime();
    eventually("it is ready", PATIENCE, || runtime.is_ready()).await;
    assert_eq!(notes(&runtime), Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_redis_server_that_evicts_is_refused_and_no_event_is_taken() {
    let redis = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let scene = Scene::with_store("{redis: {connectionSecretRef: {name: redis}}}").await;
    write_secret(&scene.secrets.path().join("store"), &[("url", &redis.url())]);
    publish(&scene.context, 0..5).await;
    let runtime = scene.runtime();
    eventually("it is refused", PATIENCE, || {
        runtime.status().is_some_and(|status| status["problems"].to_string().contains("StoreUnsafe"))
    })
    .await;
    assert_eq!(runtime.total("deliveries"), 0);

    redis.command("CONFIG SET maxmemory-policy noeviction").await;
    until("they are handled", PATIENCE, async || scene.mails().await == 5).await;
}
