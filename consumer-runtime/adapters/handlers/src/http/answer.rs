//! What an answer means for the attempt. Pure.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use millrace_core::outcome::{Failure, Outcome};
use millrace_events::Reason;
use serde::Deserialize;

/// How the status code of an answer is understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponsePolicy {
    /// As Knative's data plane.
    Knative,
    /// As Dapr's subscriptions.
    Dapr,
    /// As Standard Webhooks.
    Webhook,
}

/// What the receiver said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The header `Retry-After`, as it came.
    pub(crate) retry_after: Option<String>,
    /// The body, where the policy reads it; empty where it was larger than is read.
    pub(crate) body: Vec<u8>,
}

/// What a status code asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Done,
    Retry,
    /// The same, and the effect may have happened.
    RetryInDoubt,
    GiveUp(&'static str),
}

impl ResponsePolicy {
    /// Whether the body of an answer with this code decides.
    pub(crate) fn reads_body(self, status: StatusCode) -> bool {
        self == Self::Dapr && status.is_success()
    }

    /// How the attempt ends. `now` is what a date in `Retry-After` is compared with.
    pub(crate) fn outcome(self, answer: &Answer, now: SystemTime) -> Outcome {
        let status = answer.status;
        match self.verdict(answer) {
            Verdict::Done => Outcome::Done,
            Verdict::GiveUp(why) => {
                Outcome::permanent(Reason::HandlerRejected, format!("the receiver answered {status}{why}"))
            }
            Verdict::Retry => later(Outcome::retryable(format!("the receiver answered {status}")), answer, now),
            Verdict::RetryInDoubt => later(Outcome::ambiguous(format!("the receiver answered {status}")), answer, now),
        }
    }

    fn verdict(self, answer: &Answer) -> Verdict {
        match (self, answer.status.as_u16()) {
            (Self::Dapr, 200..=299) => dapr_verdict(&answer.body),
            (Self::Knative | Self::Webhook, 200..=299) => Verdict::Done,
            (_, 300..=399) => Verdict::GiveUp(": redirects are not followed, correct the address"),
            // Whoever is between did not hear from the receiver, who may be done.
            (_, 502 | 504) => Verdict::RetryInDoubt,
            (Self::Knative, 404 | 408 | 409 | 425 | 429) => Verdict::Retry,
            (Self::Dapr, 404) => Verdict::GiveUp(": it does not take events of this kind"),
            (Self::Webhook, 410) => {
                Verdict::GiveUp(": it is gone for good, remove this EventConsumer or correct its url")
            }
            (Self::Knative, 400..=499) => Verdict::GiveUp(""),
            _ => Verdict::Retry,
        }
    }
}

/// What the body of a Dapr subscriber asks for. One that says nothing is content.
fn dapr_verdict(body: &[u8]) -> Verdict {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        status: String,
    }
    match serde_json::from_slice(body).map(|Said { status }| status).as_deref() {
        Err(_) | Ok("" | "SUCCESS") => Verdict::Done,
        Ok("DROP") => Verdict::GiveUp(" and status DROP"),
        Ok(_) => Verdict::Retry,
    }
}

/// With the delay that the answer asks for. The engine limits it to the largest delay of the backoff.
fn later(outcome: Outcome, answer: &Answer, now: SystemTime) -> Outcome {
    let Outcome::Failed(failure) = outcome else { return outcome };
    let retry_after = answer.retry_after.as_deref().and_then(|text| delay(text.trim(), now));
    Outcome::Failed(Failure { retry_after, ..failure })
}

/// The delay of a `Retry-After`: seconds, or a date. A date that is over is no delay, and what is neither is ignored.
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit ask for a very long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use millrace_core::outcome::{Effect, FailureClass};
    use proptest::prelude::*;

    use super::*;

    const REJECTED: FailureClass = FailureClass::Permanent(Reason::HandlerRejected);

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: None, body: body.as_bytes().to_owned() }
    }

    /// The class of a failure; nothing for a success.
    fn class(policy: ResponsePolicy, status: u16, body: &str) -> Option<FailureClass> {
        match policy.outcome(&answer(status, body), SystemTime::UNIX_EPOCH) {
            Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => None,
            Outcome::Failed(failure) => Some(failure.class),
        }
    }

    fn retry_after(text: &str) -> Option<u64> {
        let answer = Answer { retry_after: Some(text.to_owned()), ..answer(429, "") };
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:00 GMT").unwrap();
        match ResponsePolicy::Knative.outcome(&answer, now) {
            Outcome::Failed(failure) => failure.retry_after.map(|delay| delay.as_secs()),
            Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => unreachable!("429 is no success"),
        }
    }

    #[test]
    fn each_policy_has_its_own_table() {
        use FailureClass::Retryable;
        use ResponsePolicy::{Dapr, Knative, Webhook};
        let table = [
            // code, Knative, Dapr, Webhook
            (200, None, None, None),
            (202, None, None, None),
            (299, None, None, None),
            (301, Some(REJECTED), Some(REJECTED), Some(REJECTED)),
            (308, Some(REJECTED), Some(REJECTED), Some(REJECTED)),
            (400, Some(REJECTED), Some(Retryable), Some(Retryable)),
            (401, Some(REJECTED), Some(Retryable), Some(Retryable)),
            (404, Some(Retryable), Some(REJECTED), Some(Retryable)),
            (408, Some(Retryable), Some(Retryable), Some(Retryable)),
            (409, Some(Retryable), Some(Retryable), Some(Retryable)),
            (410, Some(REJECTED), Some(Retryable), Some(REJECTED)),
            (415, Some(REJECTED), Some(Retryable), Some(Retryable)),
            (425, Some(Retryable), Some(Retryable), Some(Retryable)),
            (429, Some(Retryable), Some(Retryable), Some(Retryable)),
            (500, Some(Retryable), Some(Retryable), Some(Retryable)),
            (503, Some(Retryable), Some(Retryable), Some(Retryable)),
            (599, Some(Retryable), Some(Retryable), Some(Retryable)),
            (101, Some(Retryable), Some(Retryable), Some(Retryable)),
            (777, Some(Retryable), Some(Retryable), Some(Retryable)),
        ];
        for (status, knative, dapr, webhook) in table {
            let seen = [Knative, Dapr, Webhook].map(|policy| class(policy, status, ""));
            assert_eq!(seen, [knative, dapr, webhook], "{status}");
        }
    }

    #[test]
    fn the_body_decides_for_dapr_alone() {
        for (body, expected) in [
            ("", None),
            ("ok", None),
            ("{}", None),
            ("[1]", None),
            (r#"{"status":1}"#, None),
            (r#"{"status":"SUCCESS"}"#, None),
            (r#"{"status":"RETRY"}"#, Some(FailureClass::Retryable)),
            (r#"{"status":"LATER","more":1}"#, Some(FailureClass::Retryable)),
            (r#"{"status":"DROP"}"#, Some(REJECTED)),
        ] {
            assert_eq!(class(ResponsePolicy::Dapr, 200, body), expected, "{body}");
            assert_eq!(class(ResponsePolicy::Knative, 200, body), None, "{body}");
        }
        assert_eq!(class(ResponsePolicy::Dapr, 500, r#"{"status":"SUCCESS"}"#), Some(FailureClass::Retryable));
    }

    #[test]
    fn only_a_gateway_without_an_answer_leaves_open_what_happened() {
        for status in 400..600 {
            let outcome = ResponsePolicy::Webhook.outcome(&answer(status, ""), SystemTime::UNIX_EPOCH);
            let Outcome::Failed(failure) = outcome else { panic!("{status}") };
            assert_eq!(failure.effect == Effect::Possible, matches!(status, 502 | 504), "{status}");
        }
    }

    #[test]
    fn a_delay_is_read_in_both_forms_and_garbage_is_none() {
        assert_eq!(retry_after("0"), Some(0));
        assert_eq!(retry_after(" 120 "), Some(120));
        assert_eq!(retry_after("1000000000"), Some(1_000_000_000));
        assert_eq!(retry_after("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(retry_after("Sunday, 06-Nov-94 08:49:37 GMT"), Some(37));
        assert_eq!(retry_after("Sat, 06 Nov 1993 08:49:37 GMT"), Some(0), "it is over");
        for garbage in ["", "-1", "+1", "1.5", "1e9", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "\u{ff11}"] {
            assert_eq!(retry_after(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn an_error_says_the_code_and_nothing_that_the_receiver_wrote() {
        let answer = Answer { retry_after: Some("s3cret".to_owned()), ..answer(418, r#"{"email":"ada@example.com"}"#) };
        let Outcome::Failed(failure) = ResponsePolicy::Knative.outcome(&answer, SystemTime::UNIX_EPOCH) else {
            panic!("418 is no success")
        };
        assert_eq!(failure.error, "the receiver answered 418 I'm a teapot");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in 100_u16..1000, text: String, body: Vec<u8>, policy in 0_usize..3) {
            let policies = [ResponsePolicy::Knative, ResponsePolicy::Dapr, ResponsePolicy::Webhook];
            let answer = Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: Some(text), body };
            let done = policies[policy].outcome(&answer, SystemTime::now()) == Outcome::Done;
            prop_assert!(!done || (200..300).contains(&status));
        }
    }
}
