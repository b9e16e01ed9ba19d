//! A mounted Secret, as every adapter reads it: anew each time that something is asked of it, so that what is rotated is
//! found without a restart. What it says of itself never shows a value.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use millrace_core::health::{Trouble, TroubleReason};

/// Most bytes of a value. The API server takes no larger Secret.
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
    /// The file of a key, for those who hand files on.
    #[must_use]
    pub fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// What a key holds, without the line's end that an editor leaves; nothing when the Secret does not have it.
    ///
    /// # Errors
    /// `SecretInvalid` when it is empty, larger than 1 MiB or no text.
    pub fn read(&self, key: &str) -> Result<Option<String>, Trouble> {
        match read_text(&self.path(key)) {
            Ok(value) if value.trim().is_empty() => Err(self.invalid(&format!("its key {key:?} is empty"))),
            Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.invalid(&format!("failed to read its key {key:?}: {error}"))),
        }
    }

    /// What a key holds that must be there.
    ///
    /// # Errors
    /// `SecretMissing` when it is not, else as [`MountedSecret::read`].
    pub fn require(&self, key: &str) -> Result<String, Trouble> {
        self.read(key)?.ok_or_else(|| self.lacks(key))
    }

    /// The names of its keys, in order. None when it does not exist.
    ///
    /// # Errors
    /// `SecretInvalid` when the directory cannot be read.
    pub fn keys(&self) -> Result<Vec<String>, Trouble> {
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

    /// That a key is missing which must be there.
    #[must_use]
    pub fn lacks(&self, key: &str) -> Trouble {
        let message = format!("secret {:?} does not exist or has no key {key:?}; create it or add the key", self.name);
        Trouble::new(TroubleReason::SecretMissing, message)
    }

    /// That it is there and cannot be used. `problem` names the key and shows no value.
    #[must_use]
    pub fn invalid(&self, problem: &str) -> Trouble {
        Trouble::new(TroubleReason::SecretInvalid, format!("secret {:?} cannot be used: {problem}", self.name))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > VALUE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_told_from_what_is_missing_and_never_shown() {
        let mount = tempfile::tempdir().unwrap();
        let secret = MountedSecret { name: "db".to_owned(), directory: mount.path().to_owned() };
        let put = |key: &str, value: &[u8]| fs::write(mount.path().join(key), value).unwrap();

        put("password", b" hunter2 \r\n");
        assert_eq!(secret.require("password").unwrap(), " hunter2 ", "only the line's end is an editor's");
        assert_eq!(secret.read("user").unwrap(), None);
        assert_eq!(secret.require("user").unwrap_err().reason, TroubleReason::SecretMissing);
        for value in [&b" \n"[..], b"hunter2\xff", &b"hunter2".repeat(200_000)] {
            put("user", value);
            let trouble = secret.read("user").unwrap_err();
            assert_eq!(trouble.reason, TroubleReason::SecretInvalid);
            assert!(trouble.message.contains("\"db\"") && trouble.message.contains("\"user\""), "{trouble}");
            assert!(!trouble.message.contains("hunter2"), "{trouble}");
        }
    }

    #[test]
    fn the_keys_are_those_of_the_secret_and_not_the_folders_of_the_kubelet() {
        let mount = tempfile::tempdir().unwrap();
        let secret = MountedSecret { name: "headers".to_owned(), directory: mount.path().to_owned() };
        fs::create_dir(mount.path().join("..2026_01_01")).unwrap();
        for key in ["..data", "x-tenant", "authorization"] {
            fs::write(mount.path().join(key), "x").unwrap();
        }

        assert_eq!(secret.keys().unwrap(), ["authorization", "x-tenant"]);
        let nowhere = MountedSecret { directory: "/nonexistent".into(), ..secret };
        assert!(nowhere.keys().unwrap().is_empty());
    }
}
