//! NATS messages as deliveries.

use async_nats::HeaderMap;
use bytes::Bytes;
use millrace_events::Headers;

/// Bytes of a payload from which on a delivery has a copy of its own.
const OWN_COPY_FROM: usize = 16 * 1024;

/// The payload of a message that is held until it is settled. The client gives a part of its read buffer, which may have
/// twice the room that the message needs and lives as long as any part of it; small messages share one, so a copy of each
/// would only cost.
pub(crate) fn payload_from(payload: Bytes) -> Bytes {
    if payload.len() < OWN_COPY_FROM { payload } else { Bytes::copy_from_slice(&payload) }
}

/// The headers of a NATS message.
pub(crate) fn headers_from(map: Option<&HeaderMap>) -> Headers {
    let mut headers = Headers::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        for value in values {
            headers.push(AsRef::<str>::as_ref(name), value.as_str().to_owned());
        }
    }
    headers
}

/// Headers of a NATS message. A header that NATS cannot carry, with a line break or bytes that are not UTF-8, keeps what
/// can be kept.
pub(crate) fn headers_to(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let value = String::from_utf8_lossy(value).replace(['\r', '\n'], " ");
        if let Ok(name) = name.parse::<async_nats::HeaderName>() {
            map.append(name, value.as_str());
        }
    }
    map
}
