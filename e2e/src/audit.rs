//! The audit log of an API server: who asked it for what.

use std::path::PathBuf;

use serde_json::Value;

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// An audit log from one moment on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    start: usize,
}

impl Audit {
    pub(crate) fn from_now(path: PathBuf) -> Self {
        let start = std::fs::read(&path).unwrap().len();
        Self { path, start }
    }

    /// The writes in a namespace since then by users whose names begin with `user`.
    pub fn writes(&self, user: &str, namespace: &str) -> Vec<String> {
        let log = std::fs::read(&self.path).unwrap();
        let (before, since) = log.split_at(self.start);
        let by_user = |part: &[u8]| -> Vec<Value> {
            let entries = part.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
            let of_user = |entry: &Value| entry["user"]["username"].as_str().is_some_and(|name| name.starts_with(user));
            let in_namespace = |entry: &Value| entry["objectRef"]["namespace"] == namespace;
            let writes = |entry: &Value| entry["verb"].as_str().is_some_and(|verb| WRITES.contains(&verb));
            entries.filter(|entry| of_user(entry) && in_namespace(entry) && writes(entry)).collect()
        };
        assert!(
            !by_user(before).is_empty(),
            "the log knows what {user:?} wrote before, so its silence means something"
        );
        by_user(since).iter().map(|entry| format!("{} {}", entry["verb"], entry["requestURI"])).collect()
    }
}
