//! Dead letters that are put back: the message that is, and how it is known again.

use crate::{dead_letter::DeadLetter, headers::Headers};

/// Names the consumer that a message was put back for.
const CONSUMER: &str = "millrace-consumer";

/// The id of an event that has none of its own, which is its place: that is another one when it is put back.
pub(crate) const PLACE: &str = "millrace-place";

/// How often it was put back for that consumer.
const REPLAYS: &str = "millrace-replays";

/// Names the dead letter that is taken out. Do not change: topics hold it.
const TAKEN_OUT: &str = "millrace-taken-out";

/// Starts of the names of headers that NATS servers act on and keep with the message: said again they would delete what has
/// come since, be refused for ever, or have the message forgotten.
const ORDERS: [&str; 4] = ["nats-rollup", "nats-expected-", "nats-schedule", "nats-ttl"];

impl DeadLetter {
    /// The headers to put its payload back with: the original ones, whom it is for, and how often it was put back, this
    /// time included. For others who read it, it is the message that it was.
    pub fn replay_headers(&self) -> Headers {
        let mut headers = Headers::new();
        let is_ours = |name: &str| [CONSUMER, REPLAYS].iter().any(|ours| name.eq_ignore_ascii_case(ours));
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_ours(name) && !is_order(name)) {
            headers.push(name, value.clone());
        }
        if headers.get(PLACE).is_none()
            && let Some(place) = self.origin.position_id()
        {
            headers.push(PLACE, place);
        }
        headers.push(CONSUMER, self.consumer.clone());
        headers.push(REPLAYS, self.replays.saturating_add(1).to_string());
        headers
    }
}

fn is_order(name: &str) -> bool {
    ORDERS.iter().any(|order| name.get(..order.len()).is_some_and(|start| start.eq_ignore_ascii_case(order)))
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
