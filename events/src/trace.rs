//! W3C Trace Context: where a message stands in its trace.

use std::{fmt, str::FromStr};

/// A span that others are linked to or descend from, as `traceparent` names it (W3C Trace Context, version 00).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// The trace. Not 0.
    pub trace_id: u128,
    /// The span. Not 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context, version 00")]
pub struct InvalidTraceParent;

impl FromStr for TraceContext {
    type Err = InvalidTraceParent;

    /// Reads version 00; as the standard asks, of a later version what it has in common with it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let read = hex(2).zip(hex(32)).zip(hex(16).zip(hex(2)));
        let ((version, trace_id), (span_id, flags)) = read.ok_or(InvalidTraceParent)?;
        let span_id = u64::try_from(span_id).map_err(|_| InvalidTraceParent)?;
        let has_more = parts.next().is_some();
        let is_known = version == 0 && !has_more || (1..255).contains(&version);
        if !is_known || trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_the_standard_allows_is_a_trace_context() {
        assert_eq!(PARENT.parse::<TraceContext>().unwrap().to_string(), PARENT);
        let of_a_later_version = format!("{}-more", PARENT.replacen("00", "01", 1));
        assert_eq!(of_a_later_version.parse::<TraceContext>(), PARENT.parse());
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &PARENT.replace("b7ad", "+7ad"),
            &format!("{PARENT}-more"),
            &format!(" {PARENT}"),
            &format!("{PARENT}\r\nx: y"),
        ] {
            assert!(wrong.parse::<TraceContext>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            let read = text.parse::<TraceContext>();
            prop_assert!(read.is_err() || read.is_ok_and(|context| context.trace_id != 0 && context.span_id != 0));
        }

        #[test]
        fn what_is_written_is_read_back(trace_id in 1u128.., span_id in 1u64.., sampled in any::<bool>()) {
            let context = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }
    }
}
