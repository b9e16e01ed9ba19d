//! The database of the shop: its stock, and the reservations, a ledger that nothing keeps from having a row twice.

use std::fs;

use millrace_testkit::postgres_server::PostgresServer;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::event::{PRODUCTS, QUANTITY, product};

/// Pieces of each product at first.
const STOCK: i64 = 1_000_000;

/// A database, and a folder of Secrets that names it as the store of claims.
pub(crate) struct Shop {
    pub(crate) server: PostgresServer,
    pub(crate) secrets: TempDir,
    sql: Client,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        // Each replica has a connection for each worker.
        let server = PostgresServer::start_with(None, &["max_connections=300"]).await;
        let secrets = TempDir::new().unwrap();
        let folder = secrets.path().join("store");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("url"), server.url()).unwrap();
        let sql = connect(&server).await;
        Self { server, secrets, sql }
    }

    /// Puts everything in stock. The tables are there since the first replica was ready.
    pub(crate) async fn fill(&self) {
        for number in 0..PRODUCTS {
            let (sql, product) = ("INSERT INTO millrace.stock VALUES ($1, $2)", product(number));
            self.sql.execute(sql, &[&product, &STOCK]).await.unwrap();
        }
    }

    /// Different events that have a reservation.
    pub(crate) async fn reserved(&self) -> u64 {
        self.number("SELECT count(DISTINCT event_id) FROM millrace.reservations").await
    }

    /// Reservations beyond the first of an event.
    pub(crate) async fn doubled(&self) -> u64 {
        self.number("SELECT count(*) - count(DISTINCT event_id) FROM millrace.reservations").await
    }

    /// Claims that were taken over from somebody who had not ended them: faults that met an event at work.
    pub(crate) async fn taken_over(&self) -> u64 {
        self.number("SELECT count(*) FROM millrace.claims WHERE uncertain > 0").await
    }

    /// Attempts that claims have counted, in all.
    pub(crate) async fn attempts(&self) -> u64 {
        self.number("SELECT coalesce(sum(attempts), 0)::bigint FROM millrace.claims").await
    }

    /// Checks that what is reserved is what the reservations say and what is missing in stock.
    pub(crate) async fn assert_it_adds_up(&self) {
        let wrong = "SELECT count(*) FROM millrace.stock AS s WHERE reserved <> $1 - available OR reserved <> \
                     (SELECT coalesce(sum(quantity), 0) FROM millrace.reservations AS r WHERE r.product_id = s.product_id)";
        let wrong: i64 = self.sql.query_one(wrong, &[&STOCK]).await.unwrap().get(0);
        assert_eq!(wrong, 0, "products whose stock and reservations do not add up");
        let odd = format!("SELECT count(*) FROM millrace.reservations WHERE quantity <> {QUANTITY}");
        assert_eq!(self.number(&odd).await, 0, "reservations that nobody asked for");
    }

    async fn number(&self, sql: &str) -> u64 {
        let number: i64 = self.sql.query_one(sql, &[]).await.unwrap().get(0);
        u64::try_from(number).unwrap()
    }
}

async fn connect(server: &PostgresServer) -> Client {
    let (sql, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::spawn(connection);
    sql
}
