//! One run: three consumers of one broker, under load, in a storm.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;
use millrace_testkit::{mailpit::Mailpit, wait::until};

use crate::{
    broker::{Broker, Kind, MAILED, ORDERS},
    load::{Load, Published, publish},
    order::overtaken,
    outcome::{Effects, Outcome},
    replicas::Replicas,
    shop::Shop,
    sinks::Hook,
    storm::{ATTEMPT_SECONDS, Faults, Storm},
};

/// One of so many events is one that e-mails are sent for: mailpit takes them slowly.
const MAILED_SHARE: u32 = 50;

/// Workers of each replica.
const WORKERS: u64 = 8;

/// The time after the last event and fault in which all is to be done: sessions and claims of the dead end, and what waited
/// for them is handled.
const PATIENCE: Duration = Duration::from_secs(240);

/// The time without any work after which nothing comes any more: longer than a claim lives that somebody may wait for.
const QUIET: Duration = Duration::from_secs(3);

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which broker.
    pub broker: Kind,
    /// The program of the runtime.
    pub program: PathBuf,
    /// Events published.
    pub events: u32,
    /// Messages a second.
    pub rate: u32,
    /// Faults.
    pub storm: Storm,
    /// The same seed gives the same load, and the same faults at the same times.
    pub seed: u64,
}

/// Everything around the processes.
struct Scene {
    broker: Broker,
    shop: Shop,
    hook: Hook,
    mail: Mailpit,
}

/// Carries a plan out.
pub async fn run(plan: Plan) -> Outcome {
    let started = Instant::now();
    let mut rng = Rng::with_seed(plan.seed);
    let (broker, shop) = tokio::join!(Broker::start(plan.broker), Shop::open());
    let mut scene = Scene { broker, shop, hook: Hook::open().await, mail: Mailpit::start(&[]).await };
    let mut consumers = scene.start(&plan.program).await;
    let orders = Load { rate: plan.rate, repeats: Some(plan.seed), ..Load::of(ORDERS, plan.events) };
    let mailed = plan.events / MAILED_SHARE;
    let mail_rate = (plan.rate / MAILED_SHARE).max(1);
    let mailed = Load { rate: mail_rate, repeats: Some(plan.seed), ..Load::of(MAILED, mailed) };
    let (publisher, mail_publisher) = (scene.broker.publisher().await, scene.broker.publisher().await);
    let time = Duration::from_secs((plan.events / plan.rate).into());
    let (orders, mailed, faults) = tokio::join!(
        publish(publisher, orders),
        publish(mail_publisher, mailed),
        plan.storm.blow(&mut scene.broker, &mut consumers, time, &mut rng),
    );
    scene.finish(plan.broker, &mut consumers, &orders, &mailed).await;
    let dead_letters = consumers.iter().map(|replicas| replicas.total("deadLetters")).sum();
    let mut announced = Vec::new();
    for replicas in consumers {
        announced.push(replicas.end().await);
    }
    scene.shop.assert_it_adds_up().await;
    let [_, hook_announced, mail_announced] = announced.try_into().unwrap();
    scene.outcome(plan.broker, faults, &orders, &mailed, hook_announced, mail_announced, dead_letters, started).await
}

impl Scene {
    /// The three consumers: `inventory`, whose effect and record are one transaction, `http` in the order of customers, and
    /// `email`.
    async fn start(&self, program: &Path) -> [Replicas; 3] {
        let smtp = self.shop.secrets.path().join("smtp");
        fs::create_dir(&smtp).unwrap();
        for (key, value) in [("host", "127.0.0.1"), ("port", &self.mail.smtp_port().to_string()), ("tls", "none")] {
            fs::write(smtp.join(key), value).unwrap();
        }
        let config = |name: &str, subject: &str, rest: &str| {
            format!(
                "consumer: {{namespace: shop, name: {name}}}
workers: {WORKERS}
{}delivery: {{deadLetter: {{subject: {}}}, attemptTimeoutSeconds: {ATTEMPT_SECONDS}, maxAttempts: 100, \
                 backoff: {{initialMilliseconds: 50, maxSeconds: 2}}}}
{rest}
",
                self.broker.source(subject),
                self.broker.dead_letters()
            )
        };
        let in_database = "store: {postgres: {connectionSecretRef: {name: shop-db}}}";
        // What is claimed where: on JetStream in its own bucket, which goes down with it.
        let claims = if matches!(self.broker, Broker::JetStream(_)) { "store: {jetStreamKV: {}}" } else { in_database };
        // NATS core spreads the events of a customer over all replicas.
        let order = if matches!(self.broker, Broker::Nats(_)) {
            ""
        } else {
            "ordering: Key\norderingKey: {field: customer_id}\n"
        };
        let inventory = format!("handler: {{inventory: {{}}}}\nidempotency: {{mode: Transactional, {in_database}}}");
        let hook = format!("{order}handler: {{http: {{url: '{}'}}}}\nidempotency: {{{claims}}}", self.hook.url());
        let mail = format!(
            "handler: {{email: {{smtpSecretRef: {{name: smtp}}, from: shop@example.com}}}}\nidempotency: {{{claims}}}"
        );
        let secrets = self.shop.secrets.path();
        let start = |config: String, count| Replicas::start(program, config, secrets, count);
        let consumers = [
            start(config("inventory", ORDERS, &inventory), 3).await,
            start(config("hooks", ORDERS, &hook), 2).await,
            start(config("mails", MAILED, &mail), 2).await,
        ];
        self.shop.fill().await;
        consumers
    }

    /// Waits until nothing is left to do.
    async fn finish(&self, broker: Kind, consumers: &mut [Replicas; 3], orders: &Published, mailed: &Published) {
        let mut quiet_since = None;
        let (due, mails_due) = (orders.0.len() as u64, mailed.0.len());
        until("everything is handled", PATIENCE, async || {
            consumers.iter_mut().for_each(Replicas::look);
            let idle = consumers.iter().all(|replicas| replicas.is_settled() && replicas.is_idle());
            // What NATS core has lost will not come.
            let all = broker == Kind::Nats
                || (self.shop.reserved().await == due
                    && counts(self.hook.effects()).len() as u64 == due
                    && counts(self.mails().await).len() == mails_due);
            if !(idle && all) {
                quiet_since = None;
                return false;
            }
            quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET
        })
        .await;
    }

    /// The events that e-mails came for.
    async fn mails(&self) -> Vec<String> {
        self.mail.mails().await.into_iter().map(|mail| order_of(&mail.subject)).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "one call, with everything that a run has shown")]
    async fn outcome(
        &self,
        broker: Kind,
        faults: Faults,
        orders: &Published,
        mailed: &Published,
        hook_announced: BTreeMap<String, u64>,
        mail_announced: BTreeMap<String, u64>,
        dead_letters: u64,
        started: Instant,
    ) -> Outcome {
        let (posts, mails) = (self.hook.effects(), self.mails().await);
        let overtaken = if broker == Kind::Nats { 0 } else { overtaken(&posts, orders).len() };
        let stock = Effects {
            published: orders.0.len() as u64,
            handled: self.shop.reserved().await,
            doubled: BTreeMap::from([("all".to_owned(), self.shop.doubled().await)]),
            announced: BTreeMap::new(),
        };
        Outcome {
            broker,
            faults,
            stock,
            hook: effects(orders, counts(posts), hook_announced),
            mail: effects(mailed, counts(mails), mail_announced),
            overtaken,
            taken_over: self.shop.taken_over().await,
            dead_letters,
            in_doubt_max: (faults.kills + faults.zombies) * WORKERS,
            time: started.elapsed(),
        }
    }
}

fn effects(published: &Published, counts: BTreeMap<String, u64>, announced: BTreeMap<String, u64>) -> Effects {
    let handled = counts.len() as u64;
    let doubled = counts.into_iter().filter(|(_, count)| *count > 1).map(|(event, count)| (event, count - 1)).collect();
    Effects { published: published.0.len() as u64, handled, doubled, announced }
}

fn counts(effects: Vec<impl ToString>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in effects {
        *counts.entry(event.to_string()).or_default() += 1;
    }
    counts
}

/// The number of the order that a subject names.
fn order_of(subject: &str) -> String {
    let (_, rest) = subject.split_once("order-").unwrap_or_else(|| panic!("{subject:?} names no order"));
    rest.chars().take_while(char::is_ascii_digit).collect()
}
