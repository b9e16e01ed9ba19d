//! Every kind of credentials against a real nats-server, and their rotation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part, TroubleReason},
};
use millrace_nats::{Connection, ConnectionOptions, MountedSecret, connect};
use millrace_testkit::nats_server::{NatsServer, NatsServerOptions};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A JWT as NATS has them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = json!({"jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats});
    let signed = format!("{header}.{}", part(&claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// A server's configuration with an operator and one account, and the credentials file of a user of it.
fn operator_and_creds() -> (String, String) {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let operator_jwt = jwt(&operator, &operator, "millrace", &json!({"type": "operator", "version": 2}));
    let account_jwt = jwt(&operator, &account, "shop", &json!({"type": "account", "version": 2, "limits": limits}));
    let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let user_jwt = jwt(&account, &user, "emails", &claims);
    let config = format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n",
        account.public_key()
    );
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    (config, creds)
}

/// Whether a word that is sent comes back.
async fn echoes(connection: &Connection) -> bool {
    let client = connection.client();
    let mut echo = client.subscribe("echo").await.unwrap();
    client.publish("echo", "x".into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), echo.next()).await.ok().flatten().is_some()
}

#[tokio::test]
async fn every_kind_of_credentials_is_used_and_a_rotated_secret_from_the_next_connection_on() {
    let folder = TempDir::new().unwrap();
    let file = |key: &str| folder.path().join(key);
    let nkey = KeyPair::new_user();
    let (operator, creds) = operator_and_creds();
    let mut server = NatsServer::start(NatsServerOptions {
        config: "authorization { user: shop, password: right }".to_owned(),
        ..NatsServerOptions::default()
    })
    .await;
    fs::write(file("username"), "shop").unwrap();
    fs::write(file("password"), "right\n").unwrap();
    let options = ConnectionOptions {
        servers: vec![server.url()],
        auth: Some(MountedSecret { name: "nats-creds".to_owned(), directory: folder.path().to_owned() }),
        tls: None,
        name: "test".to_owned(),
        request_timeout: Duration::from_secs(2),
        reconnect: Backoff { initial: Duration::from_millis(50), max: Duration::from_millis(200), jitter_percent: 20 },
    };
    let health = Arc::new(Health::starting([Part::Broker]));
    let connection = connect(&options, &health).await.unwrap();
    assert!(echoes(&connection).await);

    // The keys are looked for in the other order, so each of these replaces the one before.
    for (key, value, config) in [
        ("password", "changed".to_owned(), "authorization { user: shop, password: changed }".to_owned()),
        ("token", "s3cret".to_owned(), "authorization { token: s3cret }".to_owned()),
        ("nkey", nkey.seed().unwrap(), format!("authorization {{ users: [{{ nkey: {} }}] }}", nkey.public_key())),
        ("creds", creds, operator),
    ] {
        server.kill();
        server.configure(config);
        fs::write(file(key), value).unwrap();
        server.restart().await;

        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !echoes(&connection).await {
            assert!(tokio::time::Instant::now() < deadline, "{key}: the connection is not made again");
        }
    }

    for (key, value) in [("nkey", "SUAIO3FHUX5PNV2L"), ("creds", "not a credentials file")] {
        fs::remove_dir_all(folder.path()).unwrap();
        fs::create_dir(folder.path()).unwrap();
        fs::write(file(key), value).unwrap();
        let trouble = connect(&options, &health).await.expect_err("the connection was made");
        assert_eq!(trouble.reason, TroubleReason::SecretInvalid);
        assert!(!trouble.message.contains(value) && trouble.message.contains(key), "{trouble}");
    }
}
