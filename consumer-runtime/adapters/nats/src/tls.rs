//! TLS of the connection. The client library reads the files again for each connection that it makes, so a certificate
//! that is rotated is used from the next one on.

use std::{error::Error, io};

use async_nats::{ConnectOptions, rustls};
use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;

/// How the server is trusted, and how this side shows who it is.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Secret with the key `ca.crt`: the authorities that are trusted, in PEM; `None` for those of the system.
    pub ca: Option<MountedSecret>,
    /// Secret with the keys `tls.crt` and `tls.key`: the certificate and key of this side, in PEM.
    pub client: Option<MountedSecret>,
}

impl TlsOptions {
    /// Adds it to `options`. A server without TLS is refused from then on.
    ///
    /// # Errors
    /// `SecretMissing` when a key is not there, `SecretInvalid` when it is empty.
    pub(crate) fn apply(&self, options: ConnectOptions) -> Result<ConnectOptions, Trouble> {
        let mut options = options.require_tls(true);
        if let Some(ca) = &self.ca {
            require(ca, "ca.crt")?;
            options = options.add_root_certificates(ca.path("ca.crt"));
        }
        if let Some(client) = &self.client {
            require(client, "tls.crt")?;
            require(client, "tls.key")?;
            options = options.add_client_certificate(client.path("tls.crt"), client.path("tls.key"));
        }
        Ok(options)
    }
}

fn require(secret: &MountedSecret, key: &str) -> Result<(), Trouble> {
    secret.read(key)?.map(drop).ok_or_else(|| secret.lacks(key))
}

/// What TLS has against the other side, if that is why an attempt to connect failed.
pub(crate) fn objection(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(objection) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(objection.to_string());
        }
        next = error.source();
    }
    None
}
