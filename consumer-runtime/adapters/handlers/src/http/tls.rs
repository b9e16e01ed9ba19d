//! TLS towards the receiver. Certificates are read again for each connection, so a rotated one is used from the next on.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::health::{Trouble, TroubleReason};
use millrace_secret::MountedSecret;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// How the receiver is trusted, and how this side shows who it is.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Secret with the key `ca.crt`: the authorities that are trusted, in PEM; `None` for those of the system.
    pub ca: Option<MountedSecret>,
    /// Secret with the keys `tls.crt` and `tls.key`: the certificate and key of this side, in PEM.
    pub client: Option<MountedSecret>,
}

/// What the Secrets hold: when it is the same as before, so is what is made of it.
#[derive(Clone, Eq, PartialEq)]
struct Pems {
    ca: Option<String>,
    client: Option<(String, String)>,
}

/// The TLS settings of the next connection.
pub(crate) struct Tls {
    options: TlsOptions,
    last: Mutex<Option<(Pems, Arc<ClientConfig>)>>,
}

impl Tls {
    pub(crate) fn new(options: TlsOptions) -> Self {
        Self { options, last: Mutex::default() }
    }

    /// What the Secrets say now. The same value for as long as they say the same: reading the authorities of the system
    /// takes time and memory.
    pub(crate) fn current(&self) -> Result<Arc<ClientConfig>, Trouble> {
        let pems = self.options.read()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = last.as_ref().filter(|(read, _)| *read == pems) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.options.config(&pems)?);
        *last = Some((pems, Arc::clone(&config)));
        Ok(config)
    }
}

impl TlsOptions {
    fn read(&self) -> Result<Pems, Trouble> {
        let ca = self.ca.as_ref().map(|secret| secret.require("ca.crt"));
        let client = self.client.as_ref().map(|secret| Ok((secret.require("tls.crt")?, secret.require("tls.key")?)));
        Ok(Pems { ca: ca.transpose()?, client: client.transpose()? })
    }

    fn config(&self, pems: &Pems) -> Result<ClientConfig, Trouble> {
        let roots = match (&self.ca, &pems.ca) {
            (Some(secret), Some(pem)) => authorities(secret, pem)?,
            (Some(_) | None, _) => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Trouble::new(TroubleReason::TlsFailed, format!("failed to set up tls: {error}")))?
            .with_root_certificates(roots);
        let mut config = match (&self.client, &pems.client) {
            (Some(secret), Some((certificate, key))) => {
                let (chain, key) = identity(secret, certificate, key)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    secret.invalid(&format!("its keys \"tls.crt\" and \"tls.key\" do not fit: {error}"))
                })?
            }
            (Some(_) | None, _) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn authorities(secret: &MountedSecret, pem: &str) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(secret, "ca.crt", pem)? {
        let refused = |error: rustls::Error| secret.invalid(&format!("a certificate of its key \"ca.crt\": {error}"));
        roots.add(certificate).map_err(refused)?;
    }
    Ok(roots)
}

fn identity(
    secret: &MountedSecret,
    certificate: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Trouble> {
    // The library's own words might show a part of the key.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| secret.invalid("its key \"tls.key\" holds no PEM private key"))?;
    Ok((certificates(secret, "tls.crt", certificate)?, key))
}

/// The certificates of a PEM text, at least one.
fn certificates(secret: &MountedSecret, key: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| secret.invalid(&format!("its key {key:?} is not PEM")))?;
    if found.is_empty() { Err(secret.invalid(&format!("its key {key:?} holds no PEM certificate"))) } else { Ok(found) }
}

fn system_authorities() -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    // What the system holds beside and cannot be read is nothing that is trusted.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        let message = "the image trusts no authorities; name some with tls.caSecretRef";
        return Err(Trouble::new(TroubleReason::TlsFailed, message));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn certificates_that_cannot_be_used_are_told_by_key_and_without_their_content() {
        let mount = tempfile::tempdir().unwrap();
        let secret = MountedSecret { name: "tls".to_owned(), directory: mount.path().to_owned() };
        let put = |key: &str, value: &str| fs::write(mount.path().join(key), value).unwrap();
        let trouble = |ca, client| {
            let tls = Tls::new(TlsOptions { ca, client });
            let trouble = tls.current().err().unwrap();
            (trouble.reason, trouble.message)
        };

        assert_eq!(trouble(Some(secret.clone()), None).0, TroubleReason::SecretMissing);
        for pem in ["", "hunter2", "-----BEGIN CERTIFICATE-----\nhunter2?\n-----END CERTIFICATE-----\n"] {
            put("ca.crt", pem);
            let (reason, message) = trouble(Some(secret.clone()), None);
            assert_eq!(reason, TroubleReason::SecretInvalid, "{pem}");
            assert!(message.contains("ca.crt") && !message.contains("hunter2"), "{message}");
        }
        put("tls.crt", "x");
        assert_eq!(trouble(None, Some(secret.clone())).0, TroubleReason::SecretMissing);
        put("tls.key", "hunter2");
        let (reason, message) = trouble(None, Some(secret));
        assert_eq!(reason, TroubleReason::SecretInvalid);
        assert!(message.contains("tls.key") && !message.contains("hunter2"), "{message}");
    }
}
