//! The rules of `handler`.

use crate::{Email, Handler, Problem};

pub(super) fn check(handler: &Handler, problems: &mut Vec<Problem>) {
    let members = [handler.log.is_some(), handler.email.is_some(), handler.analytics.is_some()];
    if members.into_iter().filter(|set| *set).count() != 1 {
        problems.push(Problem::new("handler", "set exactly one of log, email and analytics"));
    }
    if let Some(Email { from, .. }) = &handler.email
        && (!from.contains('@') || from.contains(['\r', '\n']))
    {
        problems.push(Problem::new("handler.email.from", format!("{from:?} is not an e-mail address")));
    }
}
