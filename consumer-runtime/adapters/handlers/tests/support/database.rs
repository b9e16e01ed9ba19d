//! A database for handlers that commit their effect with its record, and what the engine does around them.
#![allow(dead_code, reason = "each test uses its part")]

use std::{fs, time::Duration};

use millrace_core::{
    claim::{State, Wish},
    key::{ConsumerName, Fingerprint, Key},
    outcome::{Effect, Outcome},
    ports::{Claim, Context, Handler, Hold, IdempotencyStore as _},
};
use millrace_events::Event;
use millrace_postgres::{Database, DatabaseOptions, Inbox, MountedSecret, PostgresStore};
use millrace_testkit::postgres_server::PostgresServer;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const RETENTION: Duration = Duration::from_secs(3600);

/// A wish for an event of other content.
pub(crate) const WISH_OTHER: Wish =
    Wish { fingerprint: Fingerprint::literal(b"other"), lease: Duration::from_secs(30) };

/// A server with a store of claims, and a connection of the test's own.
pub(crate) struct Shop {
    pub(crate) server: PostgresServer,
    pub(crate) store: PostgresStore,
    pub(crate) sql: Client,
    database: Database,
    _secret: TempDir,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::open_with(&[]).await
    }

    pub(crate) async fn open_with(settings: &[&str]) -> Self {
        let server = PostgresServer::start_with(None, settings).await;
        let secret = TempDir::new().unwrap();
        fs::write(secret.path().join("url"), server.url()).unwrap();
        let database = Database::new(DatabaseOptions {
            secret: MountedSecret { name: "shop-db".to_owned(), directory: secret.path().to_owned() },
            application_name: "inventory".to_owned(),
            connections_max: 8,
            request_timeout: Duration::from_secs(20),
        });
        let store = PostgresStore::open(database.clone(), RETENTION).await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        Self { server, store, sql, database, _secret: secret }
    }

    pub(crate) fn inbox(&self) -> Inbox {
        Inbox::new(self.database.clone(), RETENTION)
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Claims an event; nothing when it is done, at work, or the store does not answer.
    pub(crate) async fn claim(&self, event: &Event, lease: Duration) -> Option<Hold> {
        let key = event_key(event);
        match self.store.claim(&key, &Wish { fingerprint: Fingerprint::literal(b"a"), lease }).await {
            Ok(Claim::Claimed(claimed)) => Some(Hold { key, claimed }),
            Ok(Claim::Settled | Claim::Busy(_) | Claim::Conflict) | Err(_) => None,
        }
    }

    /// Claims an event and handles it.
    pub(crate) async fn once(&self, handler: &dyn Handler, event: &Event) -> Outcome {
        let hold = self.claim(event, Duration::from_secs(60)).await.expect("the event is new");
        handler.call(event, &Context { attempt: 1, hold: Some(&hold), trace: None }).await
    }
}

pub(crate) fn event_key(event: &Event) -> Key {
    Key::new(&ConsumerName { namespace: "shop".to_owned(), name: "test".to_owned() }, event)
}

/// What the engine does with an event, until the store says that it is done: claim, handle, and give the claim back after
/// a failure, each as often as it takes.
pub(crate) async fn handle(shop: &Shop, handler: &dyn Handler, event: &Event) {
    let key = event_key(event);
    loop {
        let claimed = match shop
            .store
            .claim(&key, &Wish { fingerprint: Fingerprint::literal(b"a"), lease: Duration::from_secs(60) })
            .await
        {
            Ok(Claim::Claimed(claimed)) => claimed,
            Ok(Claim::Settled) => return,
            // Nobody else is at work on it: the claim is one whose answer was lost.
            Ok(other @ (Claim::Busy(_) | Claim::Conflict)) => panic!("{}: {other:?}", event.id),
            Err(_) => continue,
        };
        let hold = Hold { key, claimed };
        let attempt = hold.claimed.record.attempts;
        match handler.call(event, &Context { attempt, hold: Some(&hold), trace: None }).await {
            Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => {}
            Outcome::Failed(failure) => {
                assert_eq!(failure.effect, Effect::None, "nothing is ever left open");
                assert_eq!(failure.class, millrace_core::outcome::FailureClass::Retryable, "{failure:?}");
                let released = hold.claimed.record.released(Effect::None, jiff::Timestamp::UNIX_EPOCH);
                assert_eq!(released.state, State::Released);
                while let Err(millrace_core::ports::StoreError::Unavailable(_)) =
                    shop.store.end(&key, &hold.claimed, &released).await
                {}
            }
        }
    }
}
