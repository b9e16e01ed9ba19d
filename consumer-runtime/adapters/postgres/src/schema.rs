//! The tables, made at start in the schema `millrace`. A role that may not make them finds them made by somebody else.

use millrace_core::health::{Trouble, TroubleReason};
use tokio_postgres::error::SqlState;
use tracing::info;

use crate::{
    error::DatabaseError,
    pool::{Database, Session},
};

/// The key of the advisory lock under which tables are made: one process at a time. Do not change it.
const SCHEMA_LOCK: i64 = 0x6d69_6c6c_7261_6365;

/// A group of tables with a version of its own.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Its name, for good.
    pub name: &'static str,
    /// What leads from each version to the next, beginning with nothing. Only ever added to.
    pub migrations: &'static [&'static str],
    /// Its tables, with the rights that are needed on each, separated by commas.
    pub tables: &'static [(&'static str, &'static str)],
    /// Its sequences, which are to be used.
    pub sequences: &'static [&'static str],
}

impl Database {
    /// Makes the tables of a component, or brings them up to date, and checks the rights on them.
    ///
    /// # Errors
    /// `Unauthorized` when the role may not do it, `SchemaConflict` when a later release has made them, and what keeps
    /// the database from being reached.
    pub async fn install(&self, component: &Component) -> Result<(), Trouble> {
        let mut session = self.session().await.map_err(|error| error.trouble())?;
        let version = match installed(&session, component).await {
            Ok(version) => version,
            Err(error) => return Err(self.schema_trouble(&error)),
        };
        let wanted = component.migrations.len();
        if version > wanted {
            return Err(Trouble::new(
                TroubleReason::SchemaConflict,
                format!(
                    "the tables of {} in PostgreSQL have version {version} and this release knows version {wanted}; \
                     use the release that made them, or another database",
                    component.name
                ),
            ));
        }
        if version < wanted {
            migrate(&mut session, component).await.map_err(|error| self.schema_trouble(&error))?;
            info!(component = component.name, version = wanted, "tables made in PostgreSQL");
        }
        self.check_rights(&session, component).await?;
        session.finished();
        Ok(())
    }

    async fn check_rights(&self, session: &Session, component: &Component) -> Result<(), Trouble> {
        let (tables, rights): (Vec<&str>, Vec<&str>) = component.tables.iter().copied().unzip();
        let missing = session
            .query_one(
                "SELECT string_agg(lacking, ', ') FROM ( \
                   SELECT r || ' on ' || t AS lacking FROM unnest($1::text[], $2::text[]) AS w(t, rs), \
                          unnest(string_to_array(rs, ',')) AS r WHERE NOT has_table_privilege(t, r) \
                   UNION ALL \
                   SELECT 'USAGE on ' || s FROM unnest($3::text[]) AS s WHERE NOT has_sequence_privilege(s, 'USAGE') \
                 ) AS missing",
                &[&tables, &rights, &component.sequences],
            )
            .await
            .map_err(|error| self.schema_trouble(&error.into()))?;
        match missing.get::<_, Option<String>>(0) {
            None => Ok(()),
            Some(missing) => Err(Trouble::new(
                TroubleReason::Unauthorized,
                format!("the role of secret {:?} lacks rights in PostgreSQL: grant it {missing}", self.secret_name),
            )),
        }
    }

    fn schema_trouble(&self, error: &DatabaseError) -> Trouble {
        match error {
            DatabaseError::Said(said) if said.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Trouble::new(
                TroubleReason::Unauthorized,
                format!(
                    "the role of secret {:?} may not make its tables ({error}); grant it CREATE on the database, or make \
                     the schema \"millrace\" and grant it USAGE and CREATE on that",
                    self.secret_name
                ),
            ),
            _ => error.trouble(),
        }
    }
}

/// The version of a component that is there; 0 for none.
async fn installed(session: &Session, component: &Component) -> Result<usize, DatabaseError> {
    let there = session.query_one("SELECT to_regclass('millrace.components') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = session.query_opt("SELECT version FROM millrace.components WHERE name = $1", &[&component.name]).await?;
    Ok(row.map_or(0, |row| usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX)))
}

async fn migrate(session: &mut Session, component: &Component) -> Result<(), DatabaseError> {
    let transaction = session.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK]).await?;
    // `IF NOT EXISTS` would ask for the right to create a schema that is there.
    let there = transaction.query_one("SELECT to_regnamespace('millrace') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        transaction.batch_execute("CREATE SCHEMA millrace").await?;
    }
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS millrace.components (name text PRIMARY KEY, version integer NOT NULL)",
        )
        .await?;
    let row =
        transaction.query_opt("SELECT version FROM millrace.components WHERE name = $1", &[&component.name]).await?;
    let version = row.map_or(0, |row| usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX));
    for migration in component.migrations.iter().skip(version) {
        transaction.batch_execute(migration).await?;
    }
    let wanted = i32::try_from(component.migrations.len()).unwrap_or(i32::MAX);
    transaction
        .execute(
            "INSERT INTO millrace.components AS c VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET version = greatest(c.version, excluded.version)",
            &[&component.name, &wanted],
        )
        .await?;
    transaction.commit().await?;
    Ok(())
}
