//! What a failed e-mail means: for the attempt, and for the server's health. Pure.

use lettre::transport::smtp;
use millrace_core::{
    health::{Trouble, TroubleReason},
    outcome::Outcome,
};
use millrace_events::Reason;

/// Most characters kept of what a server says.
const TEXT_MAX: usize = 300;

/// A step of an e-mail's way to the server, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// TCP, TLS and the greeting.
    Connect,
    /// AUTH.
    Login,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The e-mail itself. From here on the server may send it.
    Content,
}

/// Why an e-mail was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SendError {
    /// The Secret does not describe a server.
    #[error(transparent)]
    Secret(Trouble),
    /// The server answered with a code of refusal.
    #[error("the SMTP server refused in step {step:?}: {text}")]
    Refused { step: Step, code: u16, text: String },
    /// There was no answer, or none that can be understood.
    #[error("the SMTP server did not answer in step {step:?}: {text}")]
    NoAnswer { step: Step, text: String },
    /// The server offers nothing that the step needs: no TLS, no login.
    #[error("the SMTP server cannot do what step {step:?} needs: {text}")]
    Unsupported { step: Step, text: String },
    /// The address has characters beyond ASCII, and the server takes no such addresses.
    #[error("the address is not ASCII and the SMTP server lacks SMTPUTF8")]
    UnicodeAddress,
}

impl SendError {
    /// What the library says of a failed step.
    pub(crate) fn new(step: Step, error: &smtp::Error) -> Self {
        let text = error.to_string().chars().take(TEXT_MAX).collect();
        match error.status() {
            Some(code) => Self::Refused { step, code: code.into(), text },
            None if error.is_client() || error.is_tls() => Self::Unsupported { step, text },
            None => Self::NoAnswer { step, text },
        }
    }

    /// The same without `address`, which servers like to repeat and logs need not hold.
    #[must_use]
    pub(crate) fn without(self, address: &str) -> Self {
        match self {
            Self::Refused { step, code, text } => {
                Self::Refused { step, code, text: text.replace(address, "the recipient") }
            }
            other @ (Self::Secret(_) | Self::NoAnswer { .. } | Self::Unsupported { .. } | Self::UnicodeAddress) => {
                other
            }
        }
    }

    /// Whether the connection is of no use any more: broken, or about to be closed by the server (421).
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Unsupported { .. } => true,
            Self::Refused { code, .. } => *code == 421,
            Self::Secret(_) | Self::UnicodeAddress => false,
        }
    }

    /// How the attempt ends.
    pub(crate) fn outcome(&self) -> Outcome {
        let text = self.to_string();
        match self {
            // The e-mail may be on its way, and the word of it lost.
            Self::NoAnswer { step: Step::Content, .. } => Outcome::ambiguous(text),
            Self::Refused { step: Step::Recipient | Step::Data | Step::Content, code: 500.., .. }
                if !self.is_of_login() =>
            {
                Outcome::permanent(Reason::HandlerRejected, text)
            }
            Self::UnicodeAddress => Outcome::permanent(Reason::HandlerRejected, text),
            // A refused connection, login or sender says nothing of the event: every other would fare the same.
            Self::Secret(_) | Self::Refused { .. } | Self::NoAnswer { .. } | Self::Unsupported { .. } => {
                Outcome::retryable(text)
            }
        }
    }

    /// What it says of the server; nothing where it is about the e-mail.
    pub(crate) fn trouble(&self, secret_name: &str) -> Trouble {
        match self {
            Self::Secret(trouble) => trouble.clone(),
            Self::Refused { .. } | Self::Unsupported { .. } if self.is_of_login() => Trouble::new(
                TroubleReason::Unauthorized,
                format!("the SMTP server refuses the credentials of secret {secret_name:?} ({self}); correct it"),
            ),
            Self::NoAnswer { .. } => Trouble::new(
                TroubleReason::Unreachable,
                format!(
                    "no SMTP server answers as secret {secret_name:?} describes it ({self}); correct it or check the \
                     network"
                ),
            ),
            Self::Refused { .. } | Self::Unsupported { .. } | Self::UnicodeAddress => {
                Trouble::new(TroubleReason::Failing, self.to_string())
            }
        }
    }

    /// Replies of RFC 4954 that speak of the login and not of the message, and a server that offers none.
    fn is_of_login(&self) -> bool {
        match self {
            Self::Refused { step: Step::Login, code: 500.., .. } | Self::Unsupported { step: Step::Login, .. } => true,
            Self::Refused { code, .. } => matches!(code, 530 | 534 | 535 | 538),
            Self::Secret(_) | Self::NoAnswer { .. } | Self::Unsupported { .. } | Self::UnicodeAddress => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::outcome::{Effect, FailureClass};

    use super::*;

    const STEPS: [Step; 6] = [Step::Connect, Step::Login, Step::Sender, Step::Recipient, Step::Data, Step::Content];

    fn class(error: &SendError) -> (FailureClass, Effect) {
        match error.outcome() {
            Outcome::Failed(failure) => (failure.class, failure.effect),
            Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => unreachable!(),
        }
    }

    fn refused(step: Step, code: u16) -> SendError {
        SendError::Refused { step, code, text: "no".to_owned() }
    }

    #[test]
    fn only_a_lost_answer_to_the_content_leaves_open_whether_the_mail_was_sent() {
        for step in STEPS {
            let (class, effect) = class(&SendError::NoAnswer { step, text: "broken pipe".to_owned() });
            assert_eq!(class, FailureClass::Retryable);
            assert_eq!(effect == Effect::Possible, step == Step::Content, "{step:?}");
        }
    }

    #[test]
    fn only_what_is_said_of_recipient_and_content_is_held_against_the_event() {
        for step in STEPS {
            let of_event = matches!(step, Step::Recipient | Step::Data | Step::Content);
            let permanent = FailureClass::Permanent(Reason::HandlerRejected);
            let expected = if of_event { permanent } else { FailureClass::Retryable };
            assert_eq!(class(&refused(step, 550)), (expected, Effect::None), "{step:?}");
            assert_eq!(class(&refused(step, 451)).0, FailureClass::Retryable, "{step:?}");
            assert_eq!(class(&refused(step, 530)).0, FailureClass::Retryable, "{step:?}: it is about the login");
        }
    }

    #[test]
    fn an_address_that_the_server_repeats_is_not_passed_on() {
        let text = "permanent error (550): <ada@example.com> unknown".to_owned();
        let error = SendError::Refused { step: Step::Recipient, code: 550, text }.without("ada@example.com");

        assert!(!error.to_string().contains("ada"), "{error}");
    }
}
