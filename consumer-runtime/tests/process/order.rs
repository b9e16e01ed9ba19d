//! Protects the order of events with the same key over two replicas, of which one dies.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use millrace_testkit::{
    mailpit::Mailpit,
    nats_server::NatsServer,
    sample,
    wait::{eventually, until},
};

use crate::support::{PATIENCE, Runtime, Secret};

const CUSTOMERS: u32 = 6;
const EVENTS: u32 = 20;

async fn publish(context: &jetstream::Context) {
    for number in 0..EVENTS {
        for customer in 0..CUSTOMERS {
            let mut headers = HeaderMap::new();
            headers.insert("customer", customer.to_string());
            let order = sample::order(&format!("{customer}-{number:02}"));
            context.publish_with_headers("orders.placed", headers, order).await.unwrap().await.unwrap();
        }
    }
}

/// The numbers of the orders of a customer in the order of their first e-mails, and how many e-mails were second ones.
async fn received(mail_server: &Mailpit, customer: u32) -> (Vec<u32>, usize) {
    let (mut seen, mut repeated) = (Vec::new(), 0);
    for mail in mail_server.mails().await.iter().rev() {
        let Some(rest) = mail.subject.split(&format!("order-{customer}-")).nth(1) else { continue };
        let number: u32 = rest.chars().take(2).collect::<String>().parse().unwrap();
        if seen.contains(&number) {
            repeated += 1;
        } else {
            seen.push(number);
        }
    }
    (seen, repeated)
}

#[tokio::test]
async fn each_customers_mails_come_in_order_though_the_replica_at_work_is_killed() {
    let server = NatsServer::jetstream().await;
    let mail_server = Mailpit::start(&[]).await;
    let secret = Secret::for_server(mail_server.smtp_port());
    let context = server.make_streams().await;
    let handler = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
    let more = "
ordering: Key
orderingKey: {header: customer}
workers: 4
delivery: {attemptTimeoutSeconds: 2, deadLetter: {subject: dlq.emails}}";
    let start = || Runtime::with(&server, "emails", 2, handler, more, secret.folder());
    let mut replicas = vec![start(), start()];
    for replica in &replicas {
        eventually("it is ready", PATIENCE, || replica.is_ready()).await;
    }

    publish(&context).await;
    until("some mails came", PATIENCE, async || mail_server.mails().await.len() >= 20).await;
    let at_work = replicas.iter().position(|replica| replica.total("handled") > 0).unwrap();
    let mut killed = replicas.remove(at_work);
    killed.process.kill().unwrap();
    killed.wait();

    let all = usize::try_from(CUSTOMERS * EVENTS).unwrap();
    until("all mails came", Duration::from_secs(60), async || {
        let mut distinct = 0;
        for customer in 0..CUSTOMERS {
            distinct += received(&mail_server, customer).await.0.len();
        }
        distinct == all
    })
    .await;
    let mut repeated = 0;
    for customer in 0..CUSTOMERS {
        let (seen, twice) = received(&mail_server, customer).await;
        assert_eq!(seen, (0..EVENTS).collect::<Vec<_>>(), "customer {customer}");
        repeated += twice;
    }
    assert!(repeated <= 4, "{repeated} mails came twice; 4 workers were cut");
}
