//! TLS: who is trusted, who this side is, and what happens when certificates are rotated.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Outcome},
    ports::Handler as _,
};
use millrace_handlers::{HttpHandler, HttpOptions, MountedSecret, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use crate::support::{assert_retryable, handler, options, post};

/// A folder with an authority, and a certificate of it for each side, as Secrets of these names.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let certificates = Self(TempDir::new().unwrap());
        certificates.renew("127.0.0.1");
        certificates
    }

    /// Everything is made anew, by a new authority, for a server of this name.
    fn renew(&self, server: &str) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        self.write("ca", "ca.crt", &authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        for side in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![server.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
            self.write(side, "tls.crt", &certificate.pem());
            self.write(side, "tls.key", &key.serialize_pem());
        }
    }

    fn write(&self, secret: &str, key: &str, value: &str) {
        let folder = self.0.path().join(secret);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(key), value).unwrap();
    }

    fn read(&self, secret: &str, key: &str) -> Vec<u8> {
        fs::read(self.0.path().join(secret).join(key)).unwrap()
    }

    fn secret(&self, name: &str) -> MountedSecret {
        MountedSecret { name: format!("receiver-{name}"), directory: self.0.path().join(name) }
    }

    /// What a server of this folder speaks; with `verify`, only to clients of its authority.
    fn acceptor(&self, verify: bool) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_slice(&self.read("server", "tls.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&self.read("server", "tls.key")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.read("ca", "ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = if verify { builder.with_client_cert_verifier(verifier) } else { builder.with_no_client_auth() };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

/// A server that answers each request with 204, on a connection of its own. It ends with this value.
struct TlsServer {
    port: u16,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    task: JoinHandle<()>,
}

impl TlsServer {
    #[allow(clippy::disallowed_methods, reason = "the handle is kept, and ends the task")]
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = Arc::new(Mutex::new(acceptor));
        let now = Arc::clone(&acceptor);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = now.lock().unwrap().clone();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = vec![0; 65536];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    drop(stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await);
                    drop(stream.shutdown().await);
                }
            }
        });
        Self { port, acceptor, task }
    }

    /// Shows these certificates from the next connection on.
    fn renew(&self, acceptor: TlsAcceptor) {
        *self.acceptor.lock().unwrap() = acceptor;
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client(port: u16, tls: TlsOptions) -> HttpHandler {
    handler(HttpOptions { tls, ..options(&format!("https://127.0.0.1:{port}/")) })
}

async fn assert_refused(handler: &HttpHandler) {
    let trouble = handler.check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::TlsFailed, "{trouble}");
    assert_retryable(handler, Effect::None).await;
}

#[tokio::test]
async fn only_a_receiver_that_is_trusted_and_has_the_right_name_is_posted_to() {
    let certificates = Certificates::new();
    let server = TlsServer::start(certificates.acceptor(false)).await;
    let port = server.port;
    let trusting = |ca: MountedSecret| client(port, TlsOptions { ca: Some(ca), client: None });

    assert_refused(&client(port, TlsOptions::default())).await;
    assert_refused(&trusting(Certificates::new().secret("ca"))).await;
    let nowhere = trusting(certificates.secret("nowhere"));
    assert_eq!(nowhere.check().await.unwrap_err().reason, TroubleReason::SecretMissing);
    assert_eq!(post(&trusting(certificates.secret("ca")), "1").await, Outcome::Done);

    certificates.renew("another.example.com");
    server.renew(certificates.acceptor(false));
    assert_refused(&trusting(certificates.secret("ca"))).await;
}

#[tokio::test]
async fn a_receiver_without_tls_is_refused() {
    let sink = millrace_testkit::http_sink::HttpSink::start().await;

    assert_refused(&client(sink.port(), TlsOptions { ca: Some(Certificates::new().secret("ca")), client: None })).await;

    assert!(sink.received().is_empty());
}

#[tokio::test]
async fn a_certificate_is_shown_where_the_receiver_asks_for_one_and_a_rotated_one_is_used() {
    let certificates = Certificates::new();
    let server = TlsServer::start(certificates.acceptor(true)).await;
    let port = server.port;
    let with = |client| TlsOptions { ca: Some(certificates.secret("ca")), client };

    // With TLS 1.3 the refusal comes after the handshake: a check waits for it.
    let trouble = client(port, with(None)).check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::TlsFailed, "{trouble}");
    let trouble = client(port, with(Some(Certificates::new().secret("client")))).check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::TlsFailed, "{trouble}");

    let shown = client(port, with(Some(certificates.secret("client"))));
    shown.check().await.unwrap();
    assert_eq!(post(&shown, "1").await, Outcome::Done);

    certificates.renew("127.0.0.1");
    server.renew(certificates.acceptor(true));
    shown.check().await.unwrap();
    assert_eq!(post(&shown, "2").await, Outcome::Done);
}
