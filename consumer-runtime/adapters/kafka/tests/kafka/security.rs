//! TLS and users: who is let in, what a refusal says, and what happens when a Secret is rotated.

use std::{fs, time::Duration};

use millrace_core::health::TroubleReason;
use millrace_core::ports::Settler as _;
use millrace_core::settle::Settlement;
use millrace_events::Headers;
use millrace_kafka::{Auth, KafkaOptions, Mechanism, MountedSecret, TlsOptions};
use millrace_testkit::{
    kafka_server::{KafkaServer, ServerCertificate, USER},
    wait::eventually,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::{PATIENCE, open_source, options, read, try_to_open};

/// Secrets as folders.
struct Secrets(TempDir);

impl Secrets {
    fn write(&self, secret: &str, keys: &[(&str, &str)]) -> MountedSecret {
        let directory = self.0.path().join(secret);
        fs::create_dir_all(&directory).unwrap();
        for (key, value) in keys {
            fs::write(directory.join(key), value).unwrap();
        }
        MountedSecret { name: format!("kafka-{secret}"), directory }
    }
}

/// An authority, and a certificate of it for each side.
fn certificates(secrets: &Secrets) -> (ServerCertificate, TlsOptions) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // OpenSSL takes a certificate whose issuer has its own name for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "the authority of a test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let signed = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let ((certificate, key), (client, client_key)) = (signed(), signed());
    let tls = TlsOptions {
        ca: Some(secrets.write("ca", &[("ca.crt", &pem)])),
        client: Some(secrets.write("client", &[("tls.crt", &client), ("tls.key", &client_key)])),
    };
    (ServerCertificate { certificate, key, authority: pem }, tls)
}

fn refused(trouble: &millrace_core::health::Trouble, reason: TroubleReason, says: &str) {
    assert!(trouble.reason == reason && trouble.message.contains(says), "{trouble:?}");
    assert!(!trouble.message.contains("wrong") && !trouble.message.contains(USER.1), "a password: {trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_certificates_are_asked_for_and_a_rotated_secret_is_used_without_loss() {
    let secrets = Secrets(TempDir::new().unwrap());
    let (certificate, tls) = certificates(&secrets);
    let server = KafkaServer::secured(&certificate).await;
    server.create_topic("orders", 1, &[]).await;
    let publisher = server.publisher();
    let publish = |payload: &str| {
        publisher.send("orders", None, &Headers::new(), Some(payload.as_bytes()));
        publisher.flush();
    };
    let with = |bootstrap: String, mechanism: Option<Mechanism>, tls: Option<&TlsOptions>| {
        let secret = MountedSecret { name: "kafka-user".to_owned(), directory: secrets.0.path().join("user") };
        let mut options: KafkaOptions = options(bootstrap, "orders", "security");
        options.connection.auth = mechanism.map(|mechanism| Auth { secret, mechanism });
        options.connection.tls = tls.cloned();
        options
    };
    let trouble = async |options: &KafkaOptions| try_to_open(options).await.err().expect("it was let in");

    let scram =
        with(server.sasl_tls(), Some(Mechanism::ScramSha512), Some(&TlsOptions { client: None, ..tls.clone() }));
    refused(&trouble(&scram).await, TroubleReason::SecretMissing, "\"kafka-user\"");
    secrets.write("user", &[("username", USER.0), ("password", "wrong")]);
    let started = std::time::Instant::now();
    refused(&trouble(&scram).await, TroubleReason::Unauthorized, "secret \"kafka-user\" by SCRAM-SHA-512");
    assert!(started.elapsed() < Duration::from_secs(15));
    secrets.write("user", &[("password", USER.1)]);

    // Each way in, with one event for each.
    for (number, options) in [
        scram.clone(),
        with(server.sasl(), Some(Mechanism::ScramSha256), None),
        with(server.sasl(), Some(Mechanism::Plain), None),
        with(server.tls(), None, Some(&tls)),
    ]
    .iter()
    .enumerate()
    {
        publish(&number.to_string());
        let mut opened = open_source(options).await;
        let delivery = read(&mut opened.source.reader, 1).await.remove(0);
        assert_eq!(delivery.payload, number.to_string());
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
        opened.source.settler.flush().await.unwrap();
    }

    let other = certificates(&Secrets(TempDir::new().unwrap())).0;
    let stranger = TlsOptions { ca: Some(secrets.write("other-ca", &[("ca.crt", &other.authority)])), client: None };
    refused(
        &trouble(&with(server.sasl_tls(), Some(Mechanism::ScramSha512), Some(&stranger))).await,
        TroubleReason::TlsFailed,
        "TLS with",
    );

    let mut opened = open_source(&scram).await;
    publish("before");
    let delivery = read(&mut opened.source.reader, 1).await.remove(0);
    // The same password in other words: a rotation that the server takes.
    secrets.write("user", &[("password", &format!("{}\n", USER.1))]);
    opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    eventually("the client is made anew", PATIENCE, || opened.metrics.rebuilds.get() == 1).await;
    publish("after");
    assert_eq!(read(&mut opened.source.reader, 1).await[0].payload, "after");
}
