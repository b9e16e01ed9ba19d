//! Credentials from a mounted Secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_nats::ConnectOptions;
use millrace_core::health::{Trouble, TroubleReason};

/// A Secret with the credentials of a NATS connection, mounted as a directory with a file for each key.
#[derive(Clone, Debug)]
pub struct AuthSecret {
    /// Its name, for messages.
    pub name: String,
    /// Where it is mounted.
    pub directory: PathBuf,
}

impl AuthSecret {
    /// Adds what the Secret holds now to `options`.
    ///
    /// # Errors
    /// `SecretMissing` when no key is there, `SecretInvalid` when the keys cannot be used.
    pub(crate) fn apply(&self, options: ConnectOptions) -> Result<ConnectOptions, Trouble> {
        if let Some(creds) = self.read("creds")? {
            return options
                .credentials(&creds)
                .map_err(|error| self.invalid(&format!("its key \"creds\" is not a NATS credentials file: {error}")));
        }
        if let Some(seed) = self.read("nkey")? {
            return Ok(options.nkey(seed));
        }
        if let Some(token) = self.read("token")? {
            return Ok(options.token(token));
        }
        match (self.read("username")?, self.read("password")?) {
            (Some(username), Some(password)) => Ok(options.user_and_password(username, password)),
            (None, None) => Err(Trouble::new(
                TroubleReason::SecretMissing,
                format!(
                    "secret {:?} does not exist or has none of the keys creds, nkey, token, username and password; create it",
                    self.name
                ),
            )),
            (Some(_), None) => Err(self.lacks("password")),
            (None, Some(_)) => Err(self.lacks("username")),
        }
    }

    fn lacks(&self, key: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretMissing, format!("secret {:?} has no key {key:?}; add it", self.name))
    }

    fn invalid(&self, problem: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretInvalid, format!("secret {:?} cannot be used: {problem}", self.name))
    }

    fn read(&self, key: &str) -> Result<Option<String>, Trouble> {
        match fs::read_to_string(Path::new(&self.directory).join(key)) {
            Ok(value) if value.trim().is_empty() => Err(self.invalid(&format!("its key {key:?} is empty"))),
            // An editor's newline at the end is not part of a password.
            Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.invalid(&format!("failed to read its key {key:?}: {error}"))),
        }
    }
}
