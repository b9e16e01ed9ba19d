//! What is settled above a committed position, as a short text: it travels in the metadata of the commit, so that the next
//! reader of a lane does not deliver it again.
//!
//! What does not fit is left out from the top, and is only delivered once more: where claims are kept, the store
//! recognises it.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};

/// Marks a text of ours, and its version. Groups hold such texts: do not change what one means.
const RUNS: &str = "millrace1r:";
const BITS: &str = "millrace1b:";

/// Offsets that are settled, as runs without an unfinished delivery in them. A run may span offsets that do not exist.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SettledAhead {
    /// First and last offset of each run, in order, none touching the next.
    runs: Vec<(i64, i64)>,
}

impl SettledAhead {
    /// Everything from `position` up to but without `end`, except `unfinished`, which is in order.
    pub(crate) fn between(position: i64, end: i64, unfinished: impl IntoIterator<Item = i64>) -> Self {
        let mut settled = Self::default();
        let mut from = position;
        for offset in unfinished {
            settled.add(from, offset.saturating_sub(1));
            from = offset.saturating_add(1);
        }
        settled.add(from, end.saturating_sub(1));
        settled
    }

    /// These, and after them `later`.
    pub(crate) fn followed_by(mut self, later: &Self) -> Self {
        later.runs.iter().for_each(|(first, last)| self.add(*first, *last));
        self
    }

    /// What of these is at or above `offset`.
    pub(crate) fn from(&self, offset: i64) -> Self {
        let mut settled = Self::default();
        for (first, last) in self.runs.iter().filter(|(_, last)| *last >= offset) {
            settled.add((*first).max(offset), *last);
        }
        settled
    }

    /// Whether an offset is among them.
    pub fn contains(&self, offset: i64) -> bool {
        let after = self.runs.partition_point(|(first, _)| *first <= offset);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        run.is_some_and(|(_, last)| offset <= *last)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// As text of at most `bytes_max` bytes, relative to `position`. Of two forms, runs and bits, the one that holds more
    /// is taken. Empty when nothing fits.
    pub fn encode(&self, position: i64, bytes_max: usize) -> String {
        // Four characters for three bytes.
        let room =
            |prefix: &str| bytes_max.saturating_sub(prefix.len()).checked_div(4).unwrap_or_default().saturating_mul(3);
        let (runs, runs_held) = self.as_runs(position, room(RUNS));
        let (bits, bits_held) = self.as_bits(position, room(BITS));
        if runs.is_empty() && bits.is_empty() {
            return String::new();
        }
        if (runs_held, bits.len()) >= (bits_held, runs.len()) {
            format!("{RUNS}{}", BASE64.encode(runs))
        } else {
            format!("{BITS}{}", BASE64.encode(bits))
        }
    }

    /// Reads such a text. Nothing of another program's, and nothing of one that is damaged.
    pub fn decode(text: &str, position: i64) -> Option<Self> {
        if let Some(text) = text.strip_prefix(RUNS) {
            return Self::read_runs(&BASE64.decode(text).ok()?, position);
        }
        let bytes = BASE64.decode(text.strip_prefix(BITS)?).ok()?;
        let mut settled = Self::default();
        let bits = bytes
            .iter()
            .flat_map(|byte| (0..8_u32).map(move |bit| byte.checked_shr(bit).is_some_and(|byte| byte & 1 == 1)));
        for (offset, _) in (position..).zip(bits).filter(|(_, bit)| *bit) {
            settled.add(offset, offset);
        }
        Some(settled)
    }

    /// Numbers in LEB128: unsettled offsets before a run, then settled ones less one, in turn. With the last offset held.
    fn as_runs(&self, position: i64, room: usize) -> (Vec<u8>, Option<i64>) {
        let (mut bytes, mut held, mut from) = (Vec::new(), None, position);
        for (first, last) in &self.runs {
            let mut run = Vec::new();
            push_number(&mut run, first.abs_diff(from));
            push_number(&mut run, last.abs_diff(*first));
            if bytes.len().saturating_add(run.len()) > room {
                break;
            }
            bytes.append(&mut run);
            held = Some(*last);
            from = last.saturating_add(1);
        }
        (bytes, held)
    }

    fn read_runs(mut bytes: &[u8], position: i64) -> Option<Self> {
        let (mut settled, mut from) = (Self::default(), position);
        while !bytes.is_empty() {
            let first = from.checked_add_unsigned(take_number(&mut bytes)?)?;
            let last = first.checked_add_unsigned(take_number(&mut bytes)?)?;
            settled.add(first, last);
            from = last.checked_add(1)?;
        }
        Some(settled)
    }

    /// A bit for each offset from the position on, the lowest bit first. With the last offset held.
    fn as_bits(&self, position: i64, room: usize) -> (Vec<u8>, Option<i64>) {
        let (mut bytes, mut held) = (Vec::new(), None);
        let end = position.saturating_add_unsigned(u64::try_from(room.saturating_mul(8)).unwrap_or(u64::MAX));
        for (first, last) in self.runs.iter().take_while(|(first, _)| *first < end) {
            let last = (*last).min(end.saturating_sub(1));
            for offset in *first..=last {
                let index = offset.abs_diff(position);
                let byte = usize::try_from(index >> 3).unwrap_or(usize::MAX);
                if byte >= room {
                    break;
                }
                if bytes.len() <= byte {
                    bytes.resize(byte.saturating_add(1), 0_u8);
                }
                if let Some(byte) = bytes.get_mut(byte) {
                    *byte |= 1 << (index & 7);
                }
            }
            held = Some(last);
        }
        (bytes, held)
    }

    /// Adds a run after all others; nothing when it is empty.
    fn add(&mut self, first: i64, last: i64) {
        if first > last {
            return;
        }
        match self.runs.last_mut() {
            Some((_, end)) if end.saturating_add(1) >= first => *end = last.max(*end),
            _ => self.runs.push((first, last)),
        }
    }
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settled(position: i64, bits: &[bool]) -> SettledAhead {
        let unfinished = (position..).zip(bits).filter(|(_, settled)| !**settled).map(|(offset, _)| offset);
        let end = position + i64::try_from(bits.len()).unwrap();
        SettledAhead::between(position, end, unfinished.collect::<Vec<_>>())
    }

    #[test]
    fn runs_and_bits_each_hold_what_suits_them() {
        let one_run = SettledAhead::between(10, 1_000_000, [10]);
        let text = one_run.encode(10, 4096);
        assert!(text.starts_with(RUNS) && text.len() < 24, "{text}");

        let every_other: Vec<bool> = (0..20_000).map(|index| index % 2 == 1).collect();
        let text = settled(0, &every_other).encode(0, 4096);
        assert!(text.starts_with(BITS) && text.len() <= 4096, "{}", text.len());
        assert_eq!(SettledAhead::decode(&text, 0), Some(settled(0, &every_other)));
    }

    #[test]
    fn a_text_of_another_program_or_a_damaged_one_says_nothing() {
        for text in
            ["", "some metadata", "millrace1r:?", "millrace1r:gICAgICAgICAgICAgA", "millrace1r:AA", "millrace1b:=="]
        {
            assert_eq!(SettledAhead::decode(text, 5), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same_or_to_its_lower_part_and_always_fits(
            position in prop_oneof![0_i64..1000, Just(i64::MAX / 2)],
            bits in prop::collection::vec(prop::bool::weighted(0.7), 0..600),
            bytes_max in 0_usize..200,
        ) {
            let settled = settled(position, &bits);

            let text = settled.encode(position, bytes_max);
            prop_assert!(text.len() <= bytes_max);
            let read = if text.is_empty() { SettledAhead::default() } else { SettledAhead::decode(&text, position).unwrap() };

            let whole = settled.encode(position, 4096);
            if !settled.is_empty() {
                prop_assert_eq!(&SettledAhead::decode(&whole, position).unwrap(), &settled);
            }
            // All that is missing is above all that is there.
            let top = read.runs.last().map_or(i64::MIN, |(_, last)| *last);
            for offset in (position..).take(bits.len()) {
                prop_assert_eq!(read.contains(offset), settled.contains(offset) && offset <= top);
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(millrace1[rb]:)?[A-Za-z0-9+/]{0,60}", position: i64, offset: i64) {
            if let Some(settled) = SettledAhead::decode(&text, position) {
                settled.contains(offset);
            }
        }
    }
}
