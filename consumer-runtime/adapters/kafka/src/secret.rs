//! A mounted Secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
    /// The file of a key.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        Path::new(&self.directory).join(key)
    }

    /// What a key holds; nothing when the Secret does not have it.
    pub(crate) fn read(&self, key: &str) -> Result<Option<String>, Trouble> {
        match fs::read_to_string(self.path(key)) {
            Ok(value) if value.trim().is_empty() => Err(self.invalid(&format!("its key {key:?} is empty"))),
            // An editor's newline at the end is not part of a password.
            Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.invalid(&format!("failed to read its key {key:?}: {error}"))),
        }
    }

    pub(crate) fn lacks(&self, key: &str) -> Trouble {
        let message = format!("secret {:?} does not exist or has no key {key:?}; add it", self.name);
        Trouble::new(TroubleReason::SecretMissing, message)
    }

    pub(crate) fn invalid(&self, problem: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretInvalid, format!("secret {:?} cannot be used: {problem}", self.name))
    }
}
