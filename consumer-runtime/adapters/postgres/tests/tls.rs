//! Protects the connection: the server's certificate and host name are checked, and a certificate is shown where one is
//! wanted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod support;

use std::time::Duration;

use millrace_core::health::{Trouble, TroubleReason};
use millrace_postgres::PostgresStore;
use millrace_testkit::postgres_server::{PostgresServer, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::{database_with, secret};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the name that a certificate has by default, the server would take those below it for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

async fn server(authority: &Authority, name: &str, client_authority: Option<&Authority>) -> PostgresServer {
    let (certificate, key) = authority.issue(name);
    let tls = ServerTls { certificate, key, client_authority: client_authority.map(Authority::pem) };
    PostgresServer::start_with(Some(&tls), &[]).await
}

async fn open(server: &PostgresServer, suffix: &str, keys: &[(&str, &str)]) -> Result<(), Trouble> {
    let url = server.url().replace("?sslmode=disable", suffix);
    let all: Vec<_> = keys.iter().copied().chain([("url", url.as_str())]).collect();
    let database = database_with(secret(&all), 2, Duration::from_secs(5));
    PostgresStore::open(database, Duration::from_secs(3600)).await.map(drop)
}

fn reason(opened: Result<(), Trouble>) -> TroubleReason {
    opened.unwrap_err().reason
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_its_name() {
    let (ours, other) = (Authority::new(), Authority::new());
    let right = server(&ours, "127.0.0.1", None).await;

    for suffix in ["", "?sslmode=verify-full", "?sslmode=require"] {
        open(&right, suffix, &[("ca.crt", &ours.pem())]).await.unwrap();
        assert_eq!(reason(open(&right, suffix, &[("ca.crt", &other.pem())]).await), TroubleReason::TlsFailed);
        assert_eq!(reason(open(&right, suffix, &[]).await), TroubleReason::TlsFailed, "nobody knows this authority");
    }
    assert_eq!(reason(open(&right, "", &[("ca.crt", "none")]).await), TroubleReason::SecretInvalid);
    let refused = open(&right, "?sslmode=disable", &[]).await.unwrap_err();
    assert_eq!(refused.reason, TroubleReason::Unauthorized, "{refused}");

    let elsewhere = server(&ours, "db.example.com", None).await;
    assert_eq!(reason(open(&elsewhere, "", &[("ca.crt", &ours.pem())]).await), TroubleReason::TlsFailed);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_the_one_in_the_secret() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let server = server(&servers, "127.0.0.1", Some(&clients)).await;
    let (certificate, key) = clients.issue("shop");
    let ca = servers.pem();

    open(&server, "", &[("ca.crt", &ca), ("tls.crt", &certificate), ("tls.key", &key)]).await.unwrap();

    let refused = open(&server, "", &[("ca.crt", &ca)]).await.unwrap_err();
    assert_eq!(refused.reason, TroubleReason::Unauthorized, "{refused}");
    let refused = open(&server, "", &[("ca.crt", &ca), ("tls.crt", &certificate), ("tls.key", "none")]).await;
    assert_eq!(reason(refused), TroubleReason::SecretInvalid);
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_unless_the_secret_allows_it() {
    let plain = PostgresServer::start().await;

    let refused = open(&plain, "", &[]).await.unwrap_err();
    assert_eq!(refused.reason, TroubleReason::Unreachable);
    assert!(refused.message.contains("sslmode"), "{refused}");
    assert!(!refused.message.contains("hunter2"), "{refused}");

    open(&plain, "?sslmode=disable", &[]).await.unwrap();
}
