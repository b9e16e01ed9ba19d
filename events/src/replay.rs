//! Dead letters that are put back: the message that is, and how it is known again.

use crate::{dead_letter::DeadLetter, headers::Headers};

/// Names the consumer that a message was put back for.
const CONSUMER: &str = "millrace-consumer";

/// How often it was put back for that consumer.
const REPLAYS: &str = "millrace-replays";

/// Names the dead letter that is taken out. Do not change: topics hold it.
const TAKEN_OUT: &str = "millrace-taken-out";

impl DeadLetter {
    /// The headers to put its payload back with: the original ones, whom it is for, and how often it was put back, this
    /// time included. For others who read it, it is the message that it was.
    pub fn replay_headers(&self) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in self.headers.iter().filter(|(name, _)| ![CONSUMER, REPLAYS].contains(name)) {
            headers.push(name, value.clone());
        }
        headers.push(CONSUMER, self.consumer.clone());
        headers.push(REPLAYS, self.replays.saturating_add(1).to_string());
        headers
    }
}

/// The mark that a dead letter is taken out, for a log from which nothing can be deleted: it is for the letters with this id
/// that stand before it in the same partition. An event cannot carry one into a log of dead letters, where headers with our
/// names are renamed.
pub fn taken_out_mark(letter_id: &str) -> Headers {
    let mut headers = Headers::new();
    headers.push(TAKEN_OUT, letter_id.to_owned());
    headers
}

/// The id of the dead letter that a message takes out; nothing where it is no mark.
pub fn taken_out(headers: &Headers) -> Option<&str> {
    headers.get_str(TAKEN_OUT)
}

/// How often a message was put back for this consumer: 0 for one that was not.
pub fn replays(headers: &Headers, consumer: &str) -> u32 {
    let is_for_it = headers.get_str(CONSUMER) == Some(consumer);
    let number = headers.get_str(REPLAYS).and_then(|number| number.parse().ok());
    number.filter(|_| is_for_it).unwrap_or_default()
}
