//! What may not be called is not called, whatever the name says at the time.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Outcome},
    ports::Handler as _,
};
use millrace_handlers::{HttpHandler, HttpOptions, Reach, Resolve};
use millrace_testkit::http_sink::HttpSink;

use crate::support::{assert_retryable, handler, options, post};

/// Gives one list of addresses after the other, and stays with the last.
struct Rebinding {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Rebinding {
    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.answers[asked.min(self.answers.len() - 1)].clone())
    }
}

fn rebinding(answers: &[&[&str]]) -> Arc<Rebinding> {
    let parse = |addresses: &&[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(Rebinding { answers: answers.iter().map(parse).collect(), asked: AtomicUsize::new(0) })
}

#[tokio::test]
async fn a_server_on_loopback_is_not_called_without_leave() {
    let sink = HttpSink::start().await;
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        for reach in [Reach::Public, Reach::Service] {
            let url = format!("http://{host}:{}/", sink.port());
            let handler = handler(HttpOptions { allowed: Vec::new(), reach, ..options(&url) });

            let trouble = handler.check().await.unwrap_err();

            assert_eq!(trouble.reason, TroubleReason::AddressNotAllowed, "{host}: {trouble}");
            assert_retryable(&handler, Effect::None).await;
        }
    }
    assert!(sink.received().is_empty());

    let allowed = handler(options(&format!("http://localhost:{}/", sink.port())));
    assert_eq!(post(&allowed, "1").await, Outcome::Done);
}

#[tokio::test]
async fn a_name_that_turns_to_a_private_address_between_two_look_ups_gains_nothing() {
    let sink = HttpSink::start().await;
    // What is allowed stands for a public address: the first look-up gives it, the second what is refused.
    let resolver = rebinding(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let url = format!("http://hooks.example.com:{}/", sink.port());
    let options = HttpOptions { allowed: vec!["127.0.0.2/32".parse().unwrap()], ..options(&url) };
    let handler = HttpHandler::new(options, Arc::<Rebinding>::clone(&resolver)).unwrap();

    // Nobody listens there; what matters is that it was allowed.
    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::Unreachable);

    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::AddressNotAllowed);
    assert_retryable(&handler, Effect::None).await;
    assert!(sink.received().is_empty());
    assert_eq!(
        resolver.asked.load(Ordering::SeqCst),
        3,
        "one look-up for each connection: what is checked is connected to"
    );
}

#[tokio::test]
async fn the_allowed_one_of_several_addresses_is_called() {
    let sink = HttpSink::start().await;
    let resolver = rebinding(&[&["10.0.0.1", "::1", "127.0.0.1", "169.254.169.254"]]);
    let url = format!("http://hooks.example.com:{}/", sink.port());
    let handler = HttpHandler::new(options(&url), resolver).unwrap();

    assert_eq!(post(&handler, "1").await, Outcome::Done);
    assert_eq!(sink.received()[0].headers["host"], format!("hooks.example.com:{}", sink.port()));
}

#[tokio::test]
async fn a_service_that_points_to_the_node_is_not_called() {
    let sink = HttpSink::start().await;
    let url = format!("http://orders.shop.svc:{}/", sink.port());
    let service = |allowed: &[&str]| HttpOptions {
        reach: Reach::Service,
        allowed: allowed.iter().map(|range| range.parse().unwrap()).collect(),
        ..options(&url)
    };
    for address in ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0"] {
        let handler = HttpHandler::new(service(&[]), rebinding(&[&[address]])).unwrap();
        assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::AddressNotAllowed, "{address}");
    }
    let allowed = HttpHandler::new(service(&["127.0.0.0/8"]), rebinding(&[&["127.0.0.1"]])).unwrap();
    assert_eq!(post(&allowed, "1").await, Outcome::Done);
}
