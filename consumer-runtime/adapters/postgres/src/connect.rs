//! Making one connection: as the Secret says now, protected, and with the settings that everything here relies on.

use std::{error::Error, sync::Arc, time::Duration};

use deadpool_postgres::ClientWrapper;
use millrace_core::health::{Trouble, TroubleReason};
use millrace_secret::MountedSecret;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_postgres::{
    NoTls,
    config::{SslMode, TargetSessionAttrs},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::{
    pool::DatabaseOptions,
    secret::{Described, describe},
};

/// A server that is gone without a word is noticed by this much silence.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Makes a connection.
pub(crate) async fn connect(options: &DatabaseOptions) -> Result<ClientWrapper, Trouble> {
    let secret = &options.secret;
    let mut described = describe(secret)?;
    described
        .config
        .application_name(&options.application_name)
        .connect_timeout(options.request_timeout)
        .keepalives_idle(KEEPALIVE)
        .tcp_user_timeout(options.request_timeout.saturating_mul(2))
        // Of several hosts the one that takes writes: a standby would refuse every claim.
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    let client = if described.config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = described.config.connect(NoTls).await.map_err(|error| refused(secret, &error))?;
        ClientWrapper::new(client, drive(connection))
    } else {
        let tls = MakeRustlsConnect::new(tls(secret, &described)?);
        let (client, connection) = described.config.connect(tls).await.map_err(|error| refused(secret, &error))?;
        ClientWrapper::new(client, drive(connection))
    };
    client.batch_execute(&settings(options.request_timeout)).await.map_err(|error| refused(secret, &error))?;
    Ok(client)
}

/// The settings of a session, whatever server, database or role say.
///
/// - A commit that is confirmed is on disk: with `synchronous_commit = off` a crash would forget an effect and its record
///   together, after the broker was told that both are done. What waits for standbys too is left as it is.
/// - `read committed`, because a statement that waited for a row must then see it as it is.
/// - A transaction whose process is stopped is rolled back by the server, and holds up nobody for longer than a request
///   may take.
fn settings(request_timeout: Duration) -> String {
    let milliseconds = request_timeout.as_millis().max(1);
    format!(
        "SELECT set_config('synchronous_commit', 'on', false) \
           WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); \
         SET default_transaction_isolation = 'read committed'; \
         SET statement_timeout = {milliseconds}; \
         SET lock_timeout = {milliseconds}; \
         SET idle_in_transaction_session_timeout = {milliseconds}"
    )
}

#[expect(clippy::disallowed_methods, reason = "the engine is not for adapters; the connection owns the handle")]
fn drive<S, T>(connection: tokio_postgres::Connection<S, T>) -> tokio::task::JoinHandle<()>
where
    tokio_postgres::Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection ended");
        }
    })
}

fn tls(secret: &MountedSecret, described: &Described) -> Result<ClientConfig, Trouble> {
    let invalid = |key: &str, error: &dyn std::fmt::Display| {
        secret.invalid(&format!("its key {key:?} is not usable PEM: {error}"))
    };
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &described.authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let added = certificate.map(|certificate| roots.add(certificate));
            added.map_err(|error| invalid("ca.crt", &error))?.map_err(|error| invalid("ca.crt", &error))?;
        }
        if roots.is_empty() {
            return Err(invalid("ca.crt", &"it holds no certificate"));
        }
    } else {
        // Those that cannot be used are of no use to anybody on this machine.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| secret.invalid(&error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &described.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| invalid("tls.crt", &error))?;
    // The library's own words are about the form of the key and never show it.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| invalid("tls.key", &error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| invalid("tls.crt", &error))
}

/// Why no connection came about.
fn refused(secret: &MountedSecret, error: &tokio_postgres::Error) -> Trouble {
    let name = &secret.name;
    if let Some(objection) = objection(error) {
        let message = format!(
            "the certificates of PostgreSQL and of secret {name:?} do not fit: {objection}; correct the Secret"
        );
        return Trouble::new(TroubleReason::TlsFailed, message);
    }
    let Some(said) = error.as_db_error() else {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let message = format!(
            "no PostgreSQL answers as secret {name:?} describes it ({why}); correct it, its sslmode too, or check the network"
        );
        return Trouble::new(TroubleReason::Unreachable, message);
    };
    let (code, message) = (said.code(), said.message());
    match code.code().get(..2) {
        Some("28") => Trouble::new(
            TroubleReason::Unauthorized,
            format!("PostgreSQL refuses the credentials of secret {name:?} ({message}); correct it"),
        ),
        Some("3D") => secret.invalid(&format!("{message}; create the database or correct the name")),
        Some("42") if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            Trouble::new(TroubleReason::Unauthorized, format!("PostgreSQL refuses secret {name:?}: {message}"))
        }
        Some("57") => Trouble::new(TroubleReason::Unreachable, format!("PostgreSQL is not ready: {message}")),
        _ => Trouble::new(TroubleReason::Failing, format!("PostgreSQL says: {message}")),
    }
}

/// What TLS has against the other side, if that is why an attempt to connect failed.
fn objection(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(objection) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(objection.to_string());
        }
        next = error.source();
    }
    None
}
