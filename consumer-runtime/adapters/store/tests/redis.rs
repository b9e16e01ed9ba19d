//! The Redis store on a real server: outages, crashes, servers that forget, and who is let in.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_core::{
    backoff::Backoff,
    claim::{State, Wish},
    health::{Health, NoteReason, Part, Trouble, TroubleReason},
    key::{ConsumerName, Fingerprint, Key},
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};
use millrace_store::{MountedSecret, RedisOptions, RedisStore};
use millrace_testkit::{
    contract,
    redis_server::{DURABLE, RedisServer, write_secret},
    sample,
    signal::Signal,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const WISH: Wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: Duration::from_secs(60) };

/// A store, and the Secret and health that it has.
struct Opened {
    store: RedisStore,
    health: Arc<Health>,
    secret: TempDir,
}

async fn try_open(keys: &[(&str, &str)]) -> Result<Opened, Trouble> {
    let secret = TempDir::new().unwrap();
    write_secret(secret.path(), keys);
    let health = Arc::new(Health::starting([Part::Store]));
    let options = RedisOptions {
        secret: MountedSecret { name: "redis".to_owned(), directory: secret.path().to_owned() },
        retention: Duration::from_secs(3600),
        request_timeout: REQUEST_TIMEOUT,
        reconnect: Backoff { initial: Duration::from_millis(20), max: Duration::from_millis(100), jitter_percent: 20 },
    };
    Ok(Opened { store: RedisStore::open(&options, Arc::clone(&health)).await?, health, secret })
}

async fn open(server: &RedisServer) -> Opened {
    try_open(&[("url", &server.url())]).await.unwrap()
}

async fn refused(keys: &[(&str, &str)]) -> Trouble {
    try_open(keys).await.err().expect("it was accepted")
}

fn key(id: &str) -> Key {
    Key::new(&ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }, &sample::event(id))
}

async fn claimed(store: &RedisStore, id: &str) -> Claimed {
    match store.claim(&key(id), &WISH).await.unwrap() {
        Claim::Claimed(claimed) => claimed,
        other => panic!("expected a claim of {id}, got {other:?}"),
    }
}

async fn done(store: &RedisStore, id: &str) {
    let claim = claimed(store, id).await;
    store.end(&key(id), &claim, &claim.ended(State::Done)).await.unwrap();
}

async fn until_it_answers(store: &RedisStore) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "the store does not come back: {error}");
    }
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let server = RedisServer::start(DURABLE).await;
    let Opened { store, health, secret: _kept } = open(&server).await;

    // The lease is ended by the clock of the server, which only time moves.
    contract::store::run(&store, tokio::time::sleep).await;

    assert_eq!(health.notes(), []);
}

#[tokio::test]
async fn a_server_that_hangs_or_dies_is_an_error_in_time_and_claims_are_there_when_it_is_back() {
    let mut server = RedisServer::start(DURABLE).await;
    let Opened { store, secret: _kept, .. } = open(&server).await;
    let held = claimed(&store, "held").await;
    done(&store, "done").await;

    server.signal(Signal::STOP);
    let asked = Instant::now();
    let answer = store.claim(&key("hangs"), &WISH).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(asked.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1), "{:?}", asked.elapsed());
    server.signal(Signal::CONT);
    until_it_answers(&store).await;
    // It was heard in the end, by nobody: an attempt has not started.
    assert_eq!(claimed(&store, "hangs").await.record.attempts, 1);

    server.kill();
    let answer = store.claim(&key("new"), &WISH).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    server.restart().await;
    until_it_answers(&store).await;

    assert_eq!(store.claim(&key("done"), &WISH).await.unwrap(), Claim::Settled);
    assert!(matches!(store.claim(&key("held"), &WISH).await.unwrap(), Claim::Busy(_)));
    store.end(&key("held"), &held, &held.ended(State::Done)).await.unwrap();
    assert_eq!(store.claim(&key("held"), &WISH).await.unwrap(), Claim::Settled);
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_and_one_that_may_forget_in_a_crash_is_noted() {
    let mut server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let trouble = refused(&[("url", &server.url())]).await;
    assert_eq!(trouble.reason, TroubleReason::StoreUnsafe);
    assert!(trouble.message.contains("allkeys-lru") && trouble.message.contains("noeviction"), "{trouble}");

    server.configure(&[]);
    server.restart().await;
    let Opened { store, health, secret: _kept } = open(&server).await;
    let notes = health.notes();
    assert_eq!(notes[0].0, NoteReason::StoreNotDurable);
    assert!(notes[0].1.contains("appendonly"), "{notes:?}");

    // The next connection looks again, and takes the note back.
    server.configure(DURABLE);
    server.restart().await;
    drop(store.ping().await);
    until_it_answers(&store).await;
    assert_eq!(health.notes(), []);
}

#[tokio::test]
async fn a_holder_that_a_flush_has_robbed_of_its_claim_cannot_end_that_of_another() {
    let server = RedisServer::start(DURABLE).await;
    let Opened { store, secret: _kept, .. } = open(&server).await;
    let zombie = claimed(&store, "1").await;
    assert!(server.command("FLUSHALL").await.starts_with("+OK"));

    let ended = store.end(&key("1"), &zombie, &zombie.ended(State::Done)).await;
    assert!(matches!(ended, Err(StoreError::Fenced)), "{ended:?}");
    let holder = claimed(&store, "1").await;
    assert!(holder.token > zombie.token);
    let released = zombie.record.unspent().ended(State::Released);
    let ended = store.end(&key("1"), &zombie, &released).await;
    assert!(matches!(ended, Err(StoreError::Fenced)), "{ended:?}");
}

#[tokio::test]
async fn an_entry_lives_for_the_retention_and_a_claim_for_its_lease_longer() {
    let server = RedisServer::start(DURABLE).await;
    let Opened { store, secret: _kept, .. } = open(&server).await;
    let ttl = async |id: &str| -> i64 {
        let answer = server.command(&format!("TTL millrace:claim:{}", key(id))).await;
        answer.lines().next().unwrap().trim_start_matches(':').trim().parse().unwrap()
    };

    let claim = claimed(&store, "1").await;
    assert!((3650..=3660).contains(&ttl("1").await));
    store.end(&key("1"), &claim, &claim.ended(State::Done)).await.unwrap();
    assert!((3590..=3600).contains(&ttl("1").await));
}

#[tokio::test]
async fn a_password_that_is_rotated_is_used_from_the_next_connection_on() {
    let server = RedisServer::start(&["--requirepass", "first"]).await;
    let url = server.url();
    for (keys, reason) in [
        (vec![], TroubleReason::SecretMissing),
        (vec![("url", "http://user:secret@redis")], TroubleReason::SecretInvalid),
        (vec![("url", url.as_str())], TroubleReason::Unauthorized),
        (vec![("url", url.as_str()), ("password", "wrong")], TroubleReason::Unauthorized),
        (vec![("url", "redis://127.0.0.1:1")], TroubleReason::Unreachable),
    ] {
        let trouble = refused(&keys).await;
        assert_eq!(trouble.reason, reason, "{trouble}");
        assert!(!trouble.message.contains("secret@") && !trouble.message.contains("wrong"), "{trouble}");
    }
    let Opened { store, secret, .. } = try_open(&[("url", &url), ("password", "first")]).await.unwrap();
    done(&store, "1").await;

    let rotate = "AUTH first\r\nCONFIG SET requirepass second\r\nCLIENT KILL TYPE normal SKIPME yes";
    server.command(rotate).await;
    drop(store.ping().await);
    let error = store.ping().await.unwrap_err();
    assert!(error.to_string().contains("password"), "{error}");
    write_secret(secret.path(), &[("password", "second")]);

    until_it_answers(&store).await;
    assert_eq!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Settled);
}

/// Writes an authority to `ca.crt` and a certificate of it for the server to `tls.crt` and `tls.key`; gives the authority.
fn make_certificates(folder: &std::path::Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    write_secret(folder, &[("ca.crt", &ca), ("tls.crt", &certificate.pem()), ("tls.key", &key.serialize_pem())]);
    ca
}

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_of_the_secret_and_by_no_other() {
    let folder = TempDir::new().unwrap();
    let ca = make_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, private, authority) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &private, "--tls-ca-cert-file", &authority];
    let options = [&["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"], &files[..]].concat();
    let server = RedisServer::start(&options).await;
    let url = format!("rediss://127.0.0.1:{}", server.port());

    let Opened { store, secret: _kept, .. } = try_open(&[("url", &url), ("ca.crt", &ca)]).await.unwrap();
    done(&store, "1").await;

    let other = make_certificates(TempDir::new().unwrap().path());
    let trouble = refused(&[("url", &url), ("ca.crt", &other)]).await;
    assert_eq!(trouble.reason, TroubleReason::TlsFailed, "{trouble}");
    let trouble = refused(&[("url", &server.url()), ("ca.crt", &ca)]).await;
    assert_eq!(trouble.reason, TroubleReason::SecretInvalid, "{trouble}");
}
