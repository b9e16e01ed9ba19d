//! Objects in a cache, as small as they can be: the JSON of what is looked at, which is read anew for each look. The types
//! that it is read into take several times that, most of it for fields that are not set.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::Error;

/// An object as its JSON.
#[derive(Debug, Eq, PartialEq)]
pub struct Packed<K> {
    json: Box<[u8]>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Packed<K> {
    fn clone(&self) -> Self {
        Self { json: self.json.clone(), kind: PhantomData }
    }
}

impl<K: Serialize + DeserializeOwned> Packed<K> {
    /// Packs an object.
    pub fn pack(object: &K) -> Result<Self, Error> {
        Ok(Self { json: serde_json::to_vec(object)?.into_boxed_slice(), kind: PhantomData })
    }

    /// Reads it.
    pub fn unpack(&self) -> Result<K, Error> {
        Ok(serde_json::from_slice(&self.json)?)
    }
}
