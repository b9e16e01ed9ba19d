//! A mounted Secret, as all handlers read it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millrace_core::health::{Trouble, TroubleReason};

/// Most bytes of a value that is read. The API server takes no larger Secret.
const VALUE_BYTES_MAX: u64 = 1024 * 1024;

/// A Secret, mounted as a directory with a file for each key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountedSecret {
    /// Its name, for messages.
    pub name: String,
    /// Where it is mounted.
    pub directory: PathBuf,
}

impl MountedSecret {
    /// What a key holds; nothing when the Secret does not have it.
    pub(crate) fn read(&self, key: &str) -> Result<Option<String>, Trouble> {
        match read_text(&self.directory.join(key)) {
            // An editor's newline at the end is not part of a value.
            Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.invalid(&format!("failed to read its key {key:?}: {error}"))),
        }
    }

    /// What a key holds that must be there.
    pub(crate) fn require(&self, key: &str) -> Result<String, Trouble> {
        self.read(key)?.ok_or_else(|| self.lacks(key))
    }

    /// The names of its keys, in order. None when it does not exist.
    pub(crate) fn keys(&self) -> Result<Vec<String>, Trouble> {
        let unreadable = |error: io::Error| self.invalid(&format!("failed to list its keys: {error}"));
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
            // The kubelet keeps the versions of a Secret beside its keys, in folders that begin so.
            if !name.starts_with("..") {
                keys.push(name);
            }
        }
        keys.sort();
        Ok(keys)
    }

    pub(crate) fn lacks(&self, key: &str) -> Trouble {
        let name = &self.name;
        Trouble::new(
            TroubleReason::SecretMissing,
            format!("secret {name:?} does not exist or has no key {key:?}; create it or add the key"),
        )
    }

    pub(crate) fn invalid(&self, problem: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretInvalid, format!("secret {:?} cannot be used: {problem}", self.name))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, VALUE_BYTES_MAX), &mut text)?;
    Ok(text)
}
