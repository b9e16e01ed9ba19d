//! Whether bytes are JSON that is safe to go through.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Deepest nesting. What goes through a document value by value, here or at a receiver, needs some stack for each level.
const DEPTH_MAX: usize = 128;

/// Checks that `bytes` are one JSON document, with nothing behind it, of a depth that is safe.
pub(crate) fn check(bytes: &[u8]) -> Result<(), serde_json::Error> {
    read::<IgnoredAny>(bytes).map(drop)
}

/// Reads bytes that are one JSON document, with nothing behind it, of a depth that is safe. JSON is UTF-8, also where it is
/// not looked into (RFC 8259, section 8.1): to know that of the whole at once costs far less than to ask it of each text.
pub(crate) fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, serde_json::Error> {
    let no_text = |error| serde_json::Error::custom(format_args!("JSON must be UTF-8: {error}"));
    let document = serde_json::from_str(std::str::from_utf8(bytes).map_err(no_text)?)?;
    check_depth(bytes)?;
    Ok(document)
}

/// Checks that a JSON document has a depth that is safe.
fn check_depth(bytes: &[u8]) -> Result<(), serde_json::Error> {
    // Most documents have fewer brackets in all, and counting them needs no look at what they stand in.
    // Few enough bytes at once that a byte can hold the count: that is what the compiler can do many of in one go.
    let few = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(u8::from(*byte | 0x20 == b'{')));
    let openings: usize = bytes.chunks(128).map(|bytes| usize::from(few(bytes))).sum();
    if openings > DEPTH_MAX && depth(bytes) > DEPTH_MAX {
        return Err(serde_json::Error::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
    }
    Ok(())
}

/// A field at the top of a document that is an object: a text as it is, a number or a boolean as it is written.
pub(crate) fn field(document: &[u8], name: &str) -> Option<String> {
    let mut document = serde_json::Deserializer::from_slice(document);
    let found = document.deserialize_map(FieldNamed(name)).ok()?;
    document.end().ok()?;
    let raw = found?.get();
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(raw.to_owned()),
    }
}

/// The value of the field with this name, as it stands there; the last of several.
struct FieldNamed<'name>(&'name str);

impl<'de> Visitor<'de> for FieldNamed<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = fields.next_key_seed(Is(self.0))? {
            if is_it {
                found = Some(fields.next_value()?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a name is this one.
struct Is<'name>(&'name str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// Whether data of this media type is JSON: that is the default, and whatever ends in `json`.
pub(crate) fn is_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

/// The depth of a JSON document. Serde's way to skip a value needs no stack and so has no limit: count the brackets.
fn depth(document: &[u8]) -> usize {
    let mut deepest = 0_usize;
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in document {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_and_not_those_within_strings() {
        for (document, expected) in [("1", 0), ("[]", 1), (r#"{"a":[[1],{}]}"#, 3), (r#"["[[\"[[\\",["]"]]"#, 2)] {
            assert_eq!(depth(document.as_bytes()), expected, "{document}");
        }
        check(format!("{}{}", "[".repeat(128), "]".repeat(128)).as_bytes()).unwrap();
        check(format!("{}{}", "[".repeat(129), "]".repeat(129)).as_bytes()).unwrap_err();
    }

    #[test]
    fn a_field_is_a_scalar_at_the_top_of_an_object() {
        let document = br#"{"text":"a\u00e9\n","number":12345678901234567890,"yes":true,"none":null,"list":[1],"deep":{"text":"b"},
            "twice":1,"twice":2,"esc\u00e9ped":"yes"}"#;
        for (name, expected) in [
            ("text", Some("a\u{e9}\n")),
            ("number", Some("12345678901234567890")),
            ("yes", Some("true")),
            ("none", None),
            ("list", None),
            ("deep", None),
            ("missing", None),
            ("twice", Some("2")),
            ("esc\u{e9}ped", Some("yes")),
        ] {
            assert_eq!(field(document, name).as_deref(), expected, "{name}");
        }
        assert_eq!(field(b"[1]", "text"), None);
    }
}
