//! The audit log of an API server: who asked it for what.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use serde_json::Value;

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// An audit log from one moment on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    start: u64,
}

impl Audit {
    pub(crate) fn from_now(path: PathBuf) -> Self {
        let start = path.metadata().unwrap().len();
        Self { path, start }
    }

    /// The writes in a namespace since then by users whose names begin with `user`.
    pub fn writes(&self, user: &str, namespace: &str) -> Vec<String> {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.start)).unwrap();
        let mut log = String::new();
        file.read_to_string(&mut log).unwrap();
        let entries: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(
            entries.iter().any(|entry| entry["user"]["username"].as_str().is_some_and(|name| name.starts_with(user))),
            "the log knows {user:?}, so that its silence means something"
        );
        entries
            .iter()
            .filter(|entry| entry["user"]["username"].as_str().is_some_and(|name| name.starts_with(user)))
            .filter(|entry| entry["objectRef"]["namespace"] == namespace)
            .filter(|entry| entry["verb"].as_str().is_some_and(|verb| WRITES.contains(&verb)))
            .map(|entry| format!("{} {}", entry["verb"], entry["requestURI"]))
            .collect()
    }
}
