//! The Secret that says where the server is and who we are. It is read for each connection, so a Secret that is rotated
//! is used from the next one on.

use std::{fs, io, path::PathBuf};

use ::redis::{Client, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use millrace_core::health::{Trouble, TroubleReason};

/// A Secret, mounted as a directory with a file for each key.
#[derive(Clone, Debug)]
pub struct MountedSecret {
    /// Its name, for messages.
    pub name: String,
    /// Where it is mounted.
    pub directory: PathBuf,
}

impl MountedSecret {
    /// A client for what the keys `url`, `username`, `password` and `ca.crt` say.
    ///
    /// # Errors
    /// `SecretMissing` when there is no `url`, `SecretInvalid` when a key cannot be used.
    pub(super) fn client(&self) -> Result<Client, Trouble> {
        let url = self.read("url")?.ok_or_else(|| {
            let message = format!("secret {:?} does not exist or has no key \"url\"; add it", self.name);
            Trouble::new(TroubleReason::SecretMissing, message)
        })?;
        // The library's own words might show what is in the URL.
        let not_a_url = || self.invalid("its key \"url\" is not redis://host:port or rediss://host:port");
        let secured = url.starts_with("rediss://");
        if !secured && !url.starts_with("redis://") {
            return Err(not_a_url());
        }
        let info = self.with_login(url.as_str().into_connection_info().map_err(|_| not_a_url())?)?;
        match self.read("ca.crt")? {
            Some(_) if !secured => Err(self.invalid("its key \"ca.crt\" has no use without TLS; use a rediss:// URL")),
            Some(ca) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.into_bytes()) };
                Client::build_with_tls(info, certificates)
                    .map_err(|_| self.invalid("its key \"ca.crt\" holds no certificates in PEM"))
            }
            None => Client::open(info).map_err(|_| not_a_url()),
        }
    }

    fn with_login(&self, info: ConnectionInfo) -> Result<ConnectionInfo, Trouble> {
        let mut settings = info.redis_settings().clone();
        if let Some(username) = self.read("username")? {
            settings = settings.set_username(username);
        }
        if let Some(password) = self.read("password")? {
            settings = settings.set_password(password);
        }
        Ok(info.set_redis_settings(settings))
    }

    /// What a key holds; nothing when the Secret does not have it.
    fn read(&self, key: &str) -> Result<Option<String>, Trouble> {
        match fs::read_to_string(self.directory.join(key)) {
            Ok(value) if value.trim().is_empty() => Err(self.invalid(&format!("its key {key:?} is empty"))),
            // An editor's newline at the end is not part of a password.
            Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.invalid(&format!("failed to read its key {key:?}: {error}"))),
        }
    }

    fn invalid(&self, problem: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretInvalid, format!("secret {:?} cannot be used: {problem}", self.name))
    }
}
