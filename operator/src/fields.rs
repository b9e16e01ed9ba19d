//! Whether an object is as it was applied, from its metadata alone.
//!
//! A server-side apply makes its manager the owner of each field that it names, and whoever gives one of them another value,
//! or removes it, takes it from that owner. So where the fields of ours still cover all that is desired, and the hash that was
//! applied with them is that of what is desired, the object is right: neither its content nor another request is needed. The
//! server's defaults, and its ways of writing a quantity, play no part.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use serde_json::Value;

/// The fields that a manager owns, as `fieldsV1` writes them. Most objects of a kind have the same.
pub type Fields = Arc<Value>;

/// Whether `fields` cover each field of `desired`.
pub fn cover(fields: &Value, desired: &Value) -> bool {
    let Value::Object(fields) = fields else { return false };
    // A leaf: a scalar, or a list or map that is owned as a whole.
    if fields.is_empty() {
        return true;
    }
    match desired {
        Value::Object(desired) => desired
            .iter()
            .all(|(name, value)| fields.get(&format!("f:{name}")).is_some_and(|fields| cover(fields, value))),
        Value::Array(items) => items.iter().all(|item| {
            let owned = fields.iter().find(|(name, _)| is_item(name, item));
            owned.is_some_and(|(_, fields)| cover(fields, item))
        }),
        _ => true,
    }
}

/// Whether `name` is that of `item` in a list: by its value, or by its keys. A key that is not in the item has the server's
/// default.
fn is_item(name: &str, item: &Value) -> bool {
    if let Some(value) = name.strip_prefix("v:") {
        return serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item);
    }
    let Some(Ok(Value::Object(keys))) = name.strip_prefix("k:").map(serde_json::from_str) else { return false };
    keys.iter().all(|(key, value)| item.get(key).is_none_or(|there| there == value))
}

/// Keeps what is the same for many objects once.
#[derive(Debug, Default)]
pub struct Interned {
    known: Mutex<HashMap<u64, Weak<Value>>>,
}

impl Interned {
    /// `fields`, shared with all that are equal.
    pub fn share(&self, fields: Value) -> Fields {
        let mut hasher = DefaultHasher::new();
        fields.to_string().hash(&mut hasher);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(hasher.finish()).or_default();
        if let Some(shared) = entry.upgrade().filter(|shared| **shared == fields) {
            return shared;
        }
        let shared = Arc::new(fields);
        *entry = Arc::downgrade(&shared);
        // What nobody uses any more goes when the table would have to grow.
        if known.len() == known.capacity() {
            known.retain(|_, fields| fields.strong_count() > 0);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Value {
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:template": {"f:spec": {
                    "f:containers": {"k:{\"name\":\"a\"}": {
                        ".": {}, "f:name": {}, "f:args": {},
                        "f:ports": {"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    }},
                    "f:nodeSelector": {},
                }},
                "f:finalizers": {"v:\"x\"": {}},
            },
        })
    }

    fn desired() -> Value {
        json!({
            "metadata": {"labels": {"app": "x"}},
            "spec": {
                "replicas": 1,
                "template": {"spec": {
                    "containers": [{"name": "a", "args": ["x", "y"], "ports": [{"containerPort": 8080}]}],
                    "nodeSelector": {"disk": "fast"},
                }},
                "finalizers": ["x"],
            },
        })
    }

    #[test]
    fn what_somebody_else_has_taken_or_removed_is_missed() {
        assert!(cover(&fields(), &desired()));
        let container = "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"a\"}";
        for (owner, field) in [
            ("/f:spec", "f:replicas"),
            ("/f:metadata/f:labels", "f:app"),
            (container, "f:args"),
            (container, "f:ports"),
            ("/f:spec/f:template/f:spec/f:containers", "k:{\"name\":\"a\"}"),
            ("/f:spec/f:finalizers", "v:\"x\""),
        ] {
            let mut taken = fields();
            let owned = taken.pointer_mut(owner).and_then(Value::as_object_mut).unwrap();
            owned.remove(field).unwrap();
            // A map without fields would be a leaf; the server leaves it out, and so does this.
            owned.insert("f:somethingElse".to_owned(), json!({}));
            assert!(!cover(&taken, &desired()), "{field}");
        }
        assert!(!cover(&Value::Null, &desired()), "somebody has removed them all");
    }

    #[test]
    fn equal_fields_are_kept_once_and_no_longer_than_they_are_used() {
        let interned = Interned::default();
        let (first, second) = (interned.share(fields()), interned.share(fields()));
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        for number in 0..1000 {
            drop(interned.share(json!(number)));
        }
        assert!(interned.known.lock().unwrap().len() < 100);
    }
}
