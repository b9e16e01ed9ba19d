//! An API server that goes and comes back, and watches that die without a word.

use std::time::{Duration, Instant};

use k8s_openapi::api::rbac::v1::PolicyRule;
use millrace_operator_testkit::{ApiServer, wait_for};

use super::{
    Tally,
    layer::Faults,
    plans::Running,
    workload::{Shop, Workload},
};

/// How soon everything must be done after the API server is back, and after watches died.
const BACK: Duration = Duration::from_secs(35);
const SILENT: Duration = Duration::from_secs(70);

/// How long the server is down each time.
const DOWN: Duration = Duration::from_secs(10);

/// The most requests in a second while it is down.
const REQUESTS_MAX: f64 = 2.0;

/// Kills the API server `kills` times under an operator, and lets watches die once when `silent`.
pub async fn run(kills: usize, silent: bool, rules: &[PolicyRule]) -> Tally {
    let mut server = ApiServer::start().await;
    server.grant("operator", None, rules).await;
    server.make_namespace("shop").await;
    let shop = Shop { client: server.client(), namespace: "shop".to_owned() };
    shop.prepare(Workload::Edit).await;
    let operator = Running::start(&server, &shop, Faults::default());
    wait_for("the first reconcile", BACK, || async { shop.is_done().await.then_some(()) }).await;
    let mut tally = Tally::default();
    for number in 1..=kills {
        server.kill();
        // What was under way when it died is no request to a server that is down.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (requests, start) = (operator.faults.requests(), Instant::now());
        tokio::time::sleep(DOWN).await;
        let asked = u32::try_from(operator.faults.requests() - requests).unwrap();
        let rate = f64::from(asked) / start.elapsed().as_secs_f64();
        server.restart().await;
        let took = converge(&shop, u32::try_from(number).unwrap(), BACK).await;
        eprintln!("operator-faults: kill {number}: {rate:.1} requests/s while down, done after {took:.1?}");
        let result = took.map(drop).and_then(|()| {
            let too_many = format!("{rate:.1} requests in a second while down");
            if rate <= REQUESTS_MAX { Ok(()) } else { Err(too_many) }
        });
        tally.count(&format!("API server killed, {number}"), result);
    }
    if silent {
        // Everything is being watched again: an edit is seen at once.
        converge(&shop, 999, BACK).await.expect("it works before");
        operator.faults.kill_watches_silently();
        let took = converge(&shop, 1_000, SILENT).await;
        eprintln!("operator-faults: silent death of the watches: done after {took:.1?}");
        let happened = took.and_then(|took| {
            let too_soon = format!("done after {took:.1?}: the watches were not dead");
            if took > Duration::from_secs(5) { Ok(()) } else { Err(too_soon) }
        });
        tally.count("silent death of the watches", happened);
    }
    drop(operator.kill().await);
    tally
}

/// Edits the consumer, and says how long it took until its status spoke of that.
async fn converge(shop: &Shop, workers: u32, limit: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    shop.set_workers(workers).await;
    while !shop.is_done().await {
        if start.elapsed() > limit {
            return Err(format!("not done after {limit:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(start.elapsed())
}
