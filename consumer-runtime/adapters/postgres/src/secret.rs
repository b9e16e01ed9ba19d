//! The mounted Secret that describes the database. It is read again for each connection, so one that is rotated is used
//! from the next connection on.

use millrace_core::health::{Trouble, TroubleReason};
use millrace_secret::MountedSecret;
use tokio_postgres::{Config, config::SslMode};

/// What a Secret says of a database: whom to connect to and as whom, and how that is protected.
pub(crate) struct Described {
    pub(crate) config: Config,
    /// PEM of the authorities that are trusted; `None` for those of the system.
    pub(crate) authorities: Option<String>,
    /// PEM of the certificate and key of this side.
    pub(crate) identity: Option<(String, String)>,
}

/// Reads what it says of a database.
pub(crate) fn describe(secret: &MountedSecret) -> Result<Described, Trouble> {
    let (mut config, mode) = match secret.read("url")? {
        Some(url) => parse_url(secret, &url)?,
        None => (read_parts(secret)?, secret.read("sslmode")?),
    };
    config.ssl_mode(ssl_mode(secret, mode.as_deref())?);
    let identity = match (secret.read("tls.crt")?, secret.read("tls.key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(secret.lacks("tls.key")),
        (None, Some(_)) => return Err(secret.lacks("tls.crt")),
    };
    Ok(Described { config, authorities: secret.read("ca.crt")?, identity })
}

/// The configuration that a URL stands for, and its `sslmode`. The words of TLS are taken out: they are ours to read,
/// and files that they may name are not here.
fn parse_url(secret: &MountedSecret, url: &str) -> Result<(Config, Option<String>), Trouble> {
    // The library's own words might show a part of the URL.
    let invalid =
        || secret.invalid("its key \"url\" is not a URL of the form postgres://user:password@host:5432/database");
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(invalid());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut mode = None;
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert" | "sslcert" | "sslkey", _)) => {}
            _ => kept.push(pair),
        }
    }
    let config: Config = format!("{base}?{}", kept.join("&")).parse().map_err(|_| invalid())?;
    if config.get_hosts().is_empty() || config.get_user().is_none() {
        return Err(invalid());
    }
    Ok((config, mode))
}

fn read_parts(secret: &MountedSecret) -> Result<Config, Trouble> {
    let Some(host) = secret.read("host")? else {
        return Err(Trouble::new(
            TroubleReason::SecretMissing,
            format!(
                "secret {:?} does not exist or has neither the key \"url\" nor the keys host, user, password and \
                 dbname; create it",
                secret.name
            ),
        ));
    };
    let mut config = Config::new();
    config
        .host(host)
        .user(secret.require("user")?)
        .password(secret.require("password")?)
        .dbname(secret.require("dbname")?);
    if let Some(port) = secret.read("port")? {
        config.port(port.parse().map_err(|_| secret.invalid("its key \"port\" is not a port number"))?);
    }
    Ok(config)
}

/// How the connection is protected: fully, unless the Secret says that it is not to be.
fn ssl_mode(secret: &MountedSecret, mode: Option<&str>) -> Result<SslMode, Trouble> {
    match mode {
        None | Some("require" | "verify-full") => Ok(SslMode::Require),
        Some("disable") => Ok(SslMode::Disable),
        Some(_) => Err(secret.invalid(
            "its sslmode must be verify-full or require, which both check the server's certificate and host name, \
             or disable",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio_postgres::config::Host;

    use super::*;

    fn secret(keys: &[(&str, &str)]) -> (tempfile::TempDir, MountedSecret) {
        let folder = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            fs::write(folder.path().join(key), value).unwrap();
        }
        let secret = MountedSecret { name: "shop-db".to_owned(), directory: folder.path().to_owned() };
        (folder, secret)
    }

    fn refused(keys: &[(&str, &str)]) -> (TroubleReason, String) {
        let trouble = describe(&secret(keys).1).err().expect("it is refused");
        (trouble.reason, trouble.message)
    }

    #[test]
    fn a_url_and_single_keys_describe_the_same_database() {
        let (_folder, by_url) = secret(&[("url", "postgres://shop:s3cret@db.shop.svc:6432/orders?sslmode=disable\n")]);
        let (_parts, by_parts) = secret(&[
            ("host", "db.shop.svc"),
            ("port", "6432"),
            ("user", "shop"),
            ("password", "s3cret"),
            ("dbname", "orders"),
            ("sslmode", "disable"),
        ]);
        for secret in [by_url, by_parts] {
            let config = describe(&secret).unwrap().config;
            assert_eq!(config.get_hosts(), [Host::Tcp("db.shop.svc".to_owned())]);
            assert_eq!((config.get_ports(), config.get_user()), (&[6432][..], Some("shop")));
            assert_eq!((config.get_password(), config.get_dbname()), (Some(&b"s3cret"[..]), Some("orders")));
            assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        }
    }

    #[test]
    fn the_connection_is_protected_unless_the_secret_says_otherwise() {
        for (suffix, expected) in [
            ("", SslMode::Require),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-full&sslrootcert=/a/b", SslMode::Require),
            ("?connect_timeout=3&sslmode=disable", SslMode::Disable),
        ] {
            let (_folder, secret) = secret(&[("url", &format!("postgresql://a:b@c/d{suffix}"))]);
            assert_eq!(describe(&secret).unwrap().config.get_ssl_mode(), expected, "{suffix}");
        }
        let (reason, message) = refused(&[("url", "postgres://a:b@c/d?sslmode=prefer")]);
        assert_eq!(reason, TroubleReason::SecretInvalid);
        assert!(message.contains("sslmode"), "{message}");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_no_password_shown() {
        let (reason, message) = refused(&[]);
        assert_eq!(reason, TroubleReason::SecretMissing);
        assert!(message.contains("\"shop-db\"") && message.contains("\"url\""), "{message}");
        assert_eq!(refused(&[("host", "h"), ("user", "u"), ("password", "p")]).0, TroubleReason::SecretMissing);
        let url = "postgres://a:b@c/d";
        assert_eq!(refused(&[("url", url), ("tls.crt", "x")]).0, TroubleReason::SecretMissing);
        for url in ["mysql://a:s3cret@b/c", "postgres://a:s3cret@b:port/c", "postgres:///c?s3cret=1", "s3cret"] {
            let (reason, message) = refused(&[("url", url)]);
            assert_eq!(reason, TroubleReason::SecretInvalid, "{url}");
            assert!(message.contains("\"url\"") && !message.contains("s3cret"), "{message}");
        }
    }
}
