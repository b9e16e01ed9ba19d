//! The Secret that says where the server is and who we are. It is read for each connection, so a Secret that is rotated
//! is used from the next one on.

use ::redis::{Client, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;

/// A client for what the keys `url`, `username`, `password` and `ca.crt` say.
///
/// # Errors
/// `SecretMissing` when there is no `url`, `SecretInvalid` when a key cannot be used.
pub(super) fn client(secret: &MountedSecret) -> Result<Client, Trouble> {
    let url = secret.require("url")?;
    // The library's own words might show what is in the URL.
    let not_a_url = || secret.invalid("its key \"url\" is not redis://host:port or rediss://host:port");
    let secured = url.starts_with("rediss://");
    if !secured && !url.starts_with("redis://") {
        return Err(not_a_url());
    }
    let info = with_login(secret, url.as_str().into_connection_info().map_err(|_| not_a_url())?)?;
    match secret.read("ca.crt")? {
        Some(_) if !secured => Err(secret.invalid("its key \"ca.crt\" has no use without TLS; use a rediss:// URL")),
        Some(ca) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.into_bytes()) };
            Client::build_with_tls(info, certificates)
                .map_err(|_| secret.invalid("its key \"ca.crt\" holds no certificates in PEM"))
        }
        None => Client::open(info).map_err(|_| not_a_url()),
    }
}

fn with_login(secret: &MountedSecret, info: ConnectionInfo) -> Result<ConnectionInfo, Trouble> {
    let mut settings = info.redis_settings().clone();
    if let Some(username) = secret.read("username")? {
        settings = settings.set_username(username);
    }
    if let Some(password) = secret.read("password")? {
        settings = settings.set_password(password);
    }
    Ok(info.set_redis_settings(settings))
}
