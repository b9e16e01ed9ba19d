//! Forgetting: claims whose time is over are deleted in small batches, by one process at a time.

use std::time::Duration;

use millrace_core::ports::StoreError;
use tracing::{debug, warn};

use crate::{error::DatabaseError, store::PostgresStore};

/// Rows deleted by one statement: few enough to hold up nobody, and well within the request timeout.
const BATCH: i64 = 1000;

/// The pause between two sweeps. What is forgotten a minute late does no harm.
const PAUSE: Duration = Duration::from_secs(60);

/// The key of the advisory lock that the sweeping process holds. Do not change it.
const SWEEP_LOCK: i64 = 0x6d69_6c6c_7377_6570;

impl PostgresStore {
    /// Deletes what is to be forgotten, now and then. For as long as it runs.
    pub async fn sweep(&self) {
        loop {
            // Not all replicas at the same moment.
            tokio::time::sleep(PAUSE.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            match self.forget().await {
                Ok(0) => {}
                Ok(forgotten) => debug!(forgotten, "claims forgotten"),
                Err(error) => warn!(%error, "failed to forget old claims; the table grows meanwhile"),
            }
        }
    }

    /// Deletes every claim whose time is over, unless another process is at it. How many.
    ///
    /// # Errors
    /// `Unavailable` when the database does not do it. What was deleted until then is.
    pub async fn forget(&self) -> Result<u64, StoreError> {
        let mut forgotten = 0_u64;
        loop {
            let batch = self.forget_batch().await?;
            forgotten = forgotten.saturating_add(batch);
            if batch < BATCH.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }

    async fn forget_batch(&self) -> Result<u64, DatabaseError> {
        let mut session = self.database.session().await?;
        let transaction = session.transaction().await?;
        let is_ours = transaction.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&SWEEP_LOCK]).await?;
        let mut forgotten = 0;
        if is_ours.get::<_, bool>(0) {
            // `now()`, because a clock that moves within the statement would keep it from using the index. What is being
            // written is passed over.
            forgotten = transaction
                .execute(
                    "DELETE FROM millrace.claims WHERE key = ANY (ARRAY( \
                       SELECT key FROM millrace.claims WHERE expires_at < now() ORDER BY expires_at LIMIT $1 \
                       FOR UPDATE SKIP LOCKED))",
                    &[&BATCH],
                )
                .await?;
        }
        transaction.commit().await?;
        session.finished();
        Ok(forgotten)
    }
}
