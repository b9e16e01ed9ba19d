//! The rules of `handler`.

use crate::{Email, Handler, Http, Problem};

pub(super) fn check(handler: &Handler, namespace: &str, problems: &mut Vec<Problem>) {
    let members = [
        handler.log.is_some(),
        handler.email.is_some(),
        handler.analytics.is_some(),
        handler.inventory.is_some(),
        handler.http.is_some(),
    ];
    if members.into_iter().filter(|set| *set).count() != 1 {
        problems.push(Problem::new("handler", "set exactly one of log, email, analytics, inventory and http"));
    }
    if let Some(Email { from, .. }) = &handler.email
        && (!from.contains('@') || from.contains(['\r', '\n']))
    {
        problems.push(Problem::new("handler.email.from", format!("{from:?} is not an e-mail address")));
    }
    if let Some(http) = &handler.http {
        check_http(http, namespace, problems);
    }
}

fn check_http(http: &Http, namespace: &str, problems: &mut Vec<Problem>) {
    match http.target(namespace) {
        Ok(target) if http.tls.is_some() && target.scheme() != "https" => {
            problems.push(Problem::new("handler.http.tls", "use an https:// url, or remove tls"));
        }
        Ok(_) => {}
        Err(("", why)) => problems.push(Problem::new("handler.http", why)),
        Err((field, why)) => problems.push(Problem::new(format!("handler.http.{field}"), why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_handler_that_cannot_post_is_told_by_field() {
        for (http, field) in [
            ("{}", "handler.http"),
            ("{url: 'https://example.com', serviceRef: {name: orders, port: 80}}", "handler.http"),
            ("{url: 'https://user@example.com'}", "handler.http.url"),
            ("{serviceRef: {name: a.b, port: 80}}", "handler.http.serviceRef"),
            ("{url: 'http://example.com', tls: {}}", "handler.http.tls"),
        ] {
            let handler: Handler = serde_yaml::from_str(&format!("{{http: {http}}}")).unwrap();
            let mut problems = Vec::new();
            check(&handler, "shop", &mut problems);
            assert_eq!(problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), [field], "{http}");
        }
    }
}
