//! TLS between a consumer and a real nats-server: who is trusted, and what happens when certificates are rotated.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{fs, sync::Arc, time::Duration};

use futures::StreamExt as _;
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part, Trouble, TroubleReason},
};
use millrace_nats::{Connection, ConnectionOptions, MountedSecret, TlsOptions, connect};
use millrace_testkit::nats_server::{NatsServer, NatsServerOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A folder with an authority, and a certificate of it for each side, as Secrets of these names.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let certificates = Self(TempDir::new().unwrap());
        certificates.renew();
        certificates
    }

    /// Everything is made anew, by a new authority.
    fn renew(&self) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = authority.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(authority, key);
        self.write("ca", "ca.crt", &pem);
        for side in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
            self.write(side, "tls.crt", &certificate.pem());
            self.write(side, "tls.key", &key.serialize_pem());
        }
    }

    fn write(&self, secret: &str, key: &str, value: &str) {
        let folder = self.0.path().join(secret);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(key), value).unwrap();
    }

    fn secret(&self, name: &str) -> MountedSecret {
        MountedSecret { name: format!("nats-{name}"), directory: self.0.path().join(name) }
    }

    async fn server(&self, verify: bool) -> NatsServer {
        let file = |secret: &str, key: &str| self.0.path().join(secret).join(key).display().to_string();
        let config = format!(
            "tls {{ cert_file: '{}', key_file: '{}', ca_file: '{}', verify: {verify} }}",
            file("server", "tls.crt"),
            file("server", "tls.key"),
            file("ca", "ca.crt"),
        );
        NatsServer::start(NatsServerOptions { config, ..NatsServerOptions::default() }).await
    }
}

async fn try_connect(server: &NatsServer, tls: Option<TlsOptions>) -> Result<(Connection, Arc<Health>), Trouble> {
    let health = Arc::new(Health::starting([Part::Broker]));
    let options = ConnectionOptions {
        servers: vec![server.url()],
        auth: None,
        tls,
        name: "test".to_owned(),
        request_timeout: Duration::from_secs(2),
        reconnect: Backoff { initial: Duration::from_millis(50), max: Duration::from_millis(200), jitter_percent: 20 },
    };
    Ok((connect(&options, &health).await?, health))
}

async fn refusal(server: &NatsServer, tls: Option<TlsOptions>) -> (TroubleReason, String) {
    let trouble = try_connect(server, tls).await.map(drop).expect_err("the connection was made");
    (trouble.reason, trouble.message)
}

/// Whether a word that is sent comes back.
async fn echoes(connection: &Connection) -> bool {
    let client = connection.client();
    let mut echo = client.subscribe("echo").await.unwrap();
    client.publish("echo", "x".into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), echo.next()).await.ok().flatten().is_some()
}

#[tokio::test]
async fn only_a_server_that_is_trusted_is_used() {
    let certificates = Certificates::new();
    let server = certificates.server(false).await;
    let trusting = |ca: MountedSecret| Some(TlsOptions { ca: Some(ca), client: None });

    let (reason, message) = refusal(&server, None).await;
    assert_eq!(reason, TroubleReason::TlsFailed, "the system does not know this authority: {message}");
    let (reason, message) = refusal(&server, trusting(certificates.secret("nowhere"))).await;
    assert_eq!(reason, TroubleReason::SecretMissing, "{message}");
    let other = Certificates::new();
    let (reason, message) = refusal(&server, trusting(other.secret("ca"))).await;
    assert_eq!(reason, TroubleReason::TlsFailed);
    assert!(message.contains("certificate") && message.contains("broker tls"), "{message}");
    other.write("ca", "ca.crt", " ");
    assert_eq!(refusal(&server, trusting(other.secret("ca"))).await.0, TroubleReason::SecretInvalid);

    let (connection, _) = try_connect(&server, trusting(certificates.secret("ca"))).await.unwrap();
    assert!(echoes(&connection).await);

    let plain = NatsServer::start(NatsServerOptions::default()).await;
    let (reason, message) = refusal(&plain, trusting(certificates.secret("ca"))).await;
    assert_eq!(reason, TroubleReason::TlsFailed, "a server without TLS is refused: {message}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_rotated_ones_are_used_from_the_next_connection_on() {
    let certificates = Certificates::new();
    let mut server = certificates.server(true).await;
    let tls = |client| Some(TlsOptions { ca: Some(certificates.secret("ca")), client });
    let (reason, message) = refusal(&server, tls(None)).await;
    assert_eq!(reason, TroubleReason::TlsFailed, "{message}");
    let (connection, _) = try_connect(&server, tls(Some(certificates.secret("client")))).await.unwrap();
    assert!(echoes(&connection).await);

    // Both sides get certificates of a new authority, and the server is started again with them.
    server.kill();
    certificates.renew();
    server.restart().await;

    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !echoes(&connection).await {
        assert!(tokio::time::Instant::now() < deadline, "the connection is not made again");
    }
}
