//! The settings that every client has: where the brokers are, and how this side shows who it is.

use std::fs;

use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use sha2::{Digest, Sha256};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Addresses of some brokers, as `host:port`. They name the rest.
    pub bootstrap_servers: Vec<String>,
    /// How this side shows who it is, `None` where nobody asks.
    pub auth: Option<Auth>,
    /// TLS, `None` for none.
    pub tls: Option<TlsOptions>,
    /// Name of the client, shown by the brokers.
    pub name: String,
}

/// A user name and password, shown by SASL.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Secret with the keys `username` and `password`.
    pub secret: MountedSecret,
    /// How they are shown.
    pub mechanism: Mechanism,
}

/// How a user name and password are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mechanism {
    /// As they are.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

/// How the brokers are trusted, and how this side shows who it is.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Secret with the key `ca.crt`: the authorities that are trusted, in PEM; `None` for those of the system.
    pub ca: Option<MountedSecret>,
    /// Secret with the keys `tls.crt` and `tls.key`: the certificate and key of this side, in PEM.
    pub client: Option<MountedSecret>,
}

impl ConnectionOptions {
    /// The settings of a client, with what the Secrets hold now.
    ///
    /// # Errors
    /// `SecretMissing` or `SecretInvalid`.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Trouble> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap_servers.join(","))
            .set("client.id", &self.name)
            .set("security.protocol", self.security_protocol())
            // A broker that is back is found at once.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            // A half-open connection is found out by the requests on it, an idle one by this.
            .set("socket.keepalive.enable", "true")
            .set("log.connection.close", "false")
            // Partitions that are added later are found within this time; the library's own is 5 min.
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set_log_level(RDKafkaLogLevel::Warning);
        if let Some(auth) = &self.auth {
            auth.apply(&mut config)?;
        }
        if let Some(tls) = &self.tls {
            tls.apply(&mut config)?;
        }
        Ok(config)
    }

    /// What every client that reads goes by: nothing is committed or skipped by itself, and the end of a partition is told.
    ///
    /// # Errors
    /// `SecretMissing` or `SecretInvalid`.
    pub(crate) fn reader_config(&self, group: &str) -> Result<ClientConfig, Trouble> {
        let mut config = self.client_config()?;
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Also where the log no longer has what was committed. The library's own default would skip to the end.
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("enable.partition.eof", "true")
            // After a full queue the library would else look away for 1 s, whatever is taken from it meanwhile.
            .set("fetch.queue.backoff.ms", "10");
        Ok(config)
    }

    fn security_protocol(&self) -> &'static str {
        match (&self.auth, &self.tls) {
            (None, None) => "plaintext",
            (None, Some(_)) => "ssl",
            (Some(_), None) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// Tells what the Secrets hold from what they held before, without holding it.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let auth = self.auth.iter().flat_map(|auth| ["username", "password"].map(|key| auth.secret.path(key)));
        let tls = self.tls.iter().flat_map(|tls| {
            let client = tls.client.iter().flat_map(|client| ["tls.crt", "tls.key"].map(|key| client.path(key)));
            tls.ca.iter().map(|ca| ca.path("ca.crt")).chain(client)
        });
        let mut hasher = Sha256::new();
        for path in auth.chain(tls) {
            let content = fs::read(path).unwrap_or_default();
            hasher.update(content.len().to_le_bytes());
            hasher.update(content);
        }
        hasher.finalize().into()
    }
}

impl Auth {
    fn apply(&self, config: &mut ClientConfig) -> Result<(), Trouble> {
        let read = |key| self.secret.read(key)?.ok_or_else(|| self.secret.lacks(key));
        config
            .set("sasl.mechanism", self.mechanism.as_str())
            .set("sasl.username", read("username")?)
            .set("sasl.password", read("password")?);
        Ok(())
    }
}

impl Mechanism {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl TlsOptions {
    fn apply(&self, config: &mut ClientConfig) -> Result<(), Trouble> {
        let file = |secret: &MountedSecret, key: &str| {
            secret.read(key)?.ok_or_else(|| secret.lacks(key))?;
            Ok::<_, Trouble>(secret.path(key).display().to_string())
        };
        match &self.ca {
            Some(ca) => config.set("ssl.ca.location", file(ca, "ca.crt")?),
            None => config.set("ssl.ca.location", "probe"),
        };
        if let Some(client) = &self.client {
            config.set("ssl.certificate.location", file(client, "tls.crt")?);
            config.set("ssl.key.location", file(client, "tls.key")?);
        }
        Ok(())
    }
}
