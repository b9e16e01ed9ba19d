//! Secrets in a running process: one that is rotated is used in time and costs no event, and none is told to anybody.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use millrace_testkit::{
    http_sink::{HttpSink, Reply},
    nats_server::{NatsServer, NatsServerOptions},
    wait::eventually,
};
use tempfile::TempDir;

use crate::support::{PATIENCE, Runtime, publish};

/// What every Secret here holds, and nothing that comes out of a process; the second one in base64.
const CANARY: &str = "canary-3f9c51d07ab2";
const CANARY_KEY: &str = "whsec_Y2FuYXJ5LTNmOWM1MWQwN2FiMi1jYW5hcnk=";

/// The time in which a Secret that has reached the pod must be in use.
const ROTATION_LIMIT: Duration = Duration::from_secs(60);

/// A Secret as the kubelet mounts it: keys are links into a folder that is exchanged as a whole.
fn mount(secrets: &Path, name: &str, version: &str, keys: &[(&str, &str)]) {
    let folder = secrets.join(name);
    fs::create_dir_all(folder.join(version)).unwrap();
    for (key, value) in keys {
        fs::write(folder.join(version).join(key), value).unwrap();
        if fs::symlink_metadata(folder.join(key)).is_err() {
            symlink(Path::new("..data").join(key), folder.join(key)).unwrap();
        }
    }
    symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

/// Everything that a process says.
fn assert_silent(runtime: &Runtime) {
    for (what, text) in [
        ("log", runtime.log()),
        ("status", runtime.get("/status").unwrap().1),
        ("metrics", runtime.get("/metrics").unwrap().1),
        ("readyz", runtime.get("/readyz").unwrap().1),
    ] {
        assert!(!text.is_empty(), "{what}");
        assert_no_canary(what, &text);
    }
}

fn assert_no_canary(what: &str, text: &str) {
    for canary in [CANARY, &CANARY_KEY[6..]] {
        assert!(!text.contains(canary), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_login_that_is_rotated_under_load_is_used_within_a_minute_whoever_learns_of_it_first() {
    let config = |password: &str| {
        format!(
            "no_auth_user: publisher\nauthorization {{ users: [{{user: publisher, password: none}}, {{user: shop, password: '{password}'}}] }}"
        )
    };
    let password = |version: u32| format!("{CANARY}-{version}");
    let options = NatsServerOptions { jetstream: true, config: config(&password(1)), ..NatsServerOptions::default() };
    let mut server = NatsServer::start(options).await;
    let context = server.make_streams().await;
    let secrets = TempDir::new().unwrap();
    let put = |version: u32| {
        let keys = [("username", "shop"), ("password", &*password(version))];
        mount(secrets.path(), "broker", &format!("..{version}"), &keys);
    };
    put(1);
    let text = format!(
        "consumer: {{namespace: shop, name: analytics}}
broker: {{jetStream: {{servers: ['{}'], stream: ORDERS, authSecretRef: {{name: nats}}}}}}
subjects: ['orders.>']
handler: {{analytics: {{}}}}
delivery: {{deadLetter: {{subject: dlq.analytics}}}}
",
        server.url()
    );
    let runtime = Runtime::of(&text, secrets.path(), Path::new("/nonexistent"));
    publish(&context, 0..200).await;
    eventually("the first are handled", PATIENCE, || runtime.orders() == 200).await;

    // The pod learns of it first: what is connected stays connected until the server asks anew.
    put(2);
    publish(&context, 200..400).await;
    server.reload(config(&password(2)));
    let since = Instant::now();
    publish(&context, 400..600).await;
    eventually("all are handled", ROTATION_LIMIT, || runtime.orders() == 600).await;
    let pod_first = since.elapsed();
    let old = async_nats::ConnectOptions::with_user_and_password("shop".to_owned(), password(1));
    assert!(old.connect(server.url()).await.is_err(), "the old password is worth nothing");
    assert_silent(&runtime);

    // The server learns of it first: meanwhile nobody is let in, and the status says so.
    server.reload(config(&password(3)));
    publish(&context, 600..800).await;
    eventually("it is told", PATIENCE, || runtime.problem("Broker").as_deref() == Some("Unauthorized")).await;
    assert_silent(&runtime);
    put(3);
    let since = Instant::now();
    publish(&context, 800..1000).await;
    eventually("all are handled", ROTATION_LIMIT, || runtime.orders() == 1000).await;
    println!("secrets: pod_first_ms={} server_first_ms={}", pod_first.as_millis(), since.elapsed().as_millis());
    assert_eq!((runtime.total("handled"), runtime.total("deadLetters")), (1000, 0));
    assert_silent(&runtime);
}

#[tokio::test]
async fn no_secret_is_in_what_a_process_says_or_in_a_dead_letter() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let secrets = TempDir::new().unwrap();
    mount(secrets.path(), "http-headers", "..1", &[("authorization", &format!("Bearer {CANARY}")), ("x-key", CANARY)]);
    mount(secrets.path(), "http-signing", "..1", &[("secret", CANARY_KEY)]);
    // The receiver repeats whatever it was sent.
    let sink = HttpSink::start().await;
    sink.answer(|request| Reply { body: format!("{request:?} {CANARY}"), ..Reply::status(422) });
    let handler = format!(
        "{{http: {{url: '{}/', signing: {{secretRef: {{name: sign}}}}, headersSecretRef: {{name: headers}}}}}}",
        sink.url()
    );
    let more = "delivery: {deadLetter: {subject: dlq.hooks}}";
    let refusing = Runtime::with(&server, "hooks", 30, &handler, more, secrets.path());
    publish(&context, 0..20).await;
    eventually("all are refused", PATIENCE, || refusing.total("deadLetters") == 20).await;
    assert!(sink.received().iter().all(|request| request.headers["x-key"] == CANARY), "they were in use");
    assert_silent(&refusing);
    let letters = context.get_stream("DLQ").await.unwrap();
    for number in 1..=20 {
        let letter = letters.get_raw_message(number).await.unwrap();
        assert_no_canary("dead letter", &format!("{:?} {}", letter.headers, String::from_utf8_lossy(&letter.payload)));
    }

    // Servers that are away, and their Secrets with a login in the URL.
    mount(
        secrets.path(),
        "smtp",
        "..1",
        &[("host", "127.0.0.1"), ("port", "1"), ("username", CANARY), ("password", CANARY)],
    );
    for (name, store, url) in [
        ("postgres", "postgres", format!("postgres://{CANARY}:{CANARY}@127.0.0.1:1/shop?sslmode=disable")),
        ("redis", "redis", format!("redis://{CANARY}:{CANARY}@127.0.0.1:1/0")),
        ("nonsense", "redis", format!("{CANARY}://{CANARY}")),
    ] {
        mount(secrets.path(), "store", &format!("..{name}"), &[("url", &url), ("password", CANARY)]);
        let more = format!(
            "delivery: {{deadLetter: {{subject: dlq.x}}}}\nidempotency: {{store: {{{store}: {{connectionSecretRef: {{name: db}}}}}}}}"
        );
        let handler = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
        let lost = Runtime::with(&server, name, 30, handler, &more, secrets.path());
        eventually("it is told", PATIENCE, || lost.problem("Store").is_some() && lost.handler_problem().is_some())
            .await;
        assert_silent(&lost);
    }
}
