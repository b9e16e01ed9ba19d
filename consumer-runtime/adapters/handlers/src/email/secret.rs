//! The SMTP server, as its Secret describes it.

use lettre::transport::smtp::{
    authentication::Credentials,
    client::{Certificate, TlsParameters},
};
use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;

/// What the Secret says.
#[derive(Eq, PartialEq)]
pub(crate) struct SmtpSecret {
    pub(crate) host: String,
    pub(crate) port: u16,
    mount: MountedSecret,
    tls: TlsMode,
    /// PEM of the authority that signed the server's certificate, where it is none that everybody trusts.
    authority: Option<String>,
    login: Option<(String, String)>,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TlsMode {
    StartTls,
    Implicit,
    None,
}

/// A server as the Secret describes it, with what is made once for all its connections: reading the roots that it trusts
/// takes time and memory.
pub(crate) struct Server {
    pub(crate) secret: SmtpSecret,
    tls: Option<TlsParameters>,
}

impl SmtpSecret {
    /// Reads the Secret that is mounted there.
    pub(crate) fn read(mount: &MountedSecret) -> Result<Self, Trouble> {
        let key = |key: &str| mount.read(key);
        let host = mount.require("host")?;
        let tls = match key("tls")?.as_deref() {
            None | Some("starttls") => TlsMode::StartTls,
            Some("implicit") => TlsMode::Implicit,
            Some("none") => TlsMode::None,
            Some(_) => return Err(mount.invalid("its key \"tls\" must be starttls, implicit or none")),
        };
        let port = match (key("port")?, tls) {
            (Some(port), _) => port.parse().map_err(|_| mount.invalid("its key \"port\" is not a port number"))?,
            (None, TlsMode::Implicit) => 465,
            (None, TlsMode::StartTls | TlsMode::None) => 587,
        };
        let authority = key("ca")?;
        let login = match (key("username")?, key("password")?) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (Some(_), None) => return Err(mount.lacks("password")),
            (None, Some(_)) => return Err(mount.lacks("username")),
        };
        Ok(Self { host, port, mount: mount.clone(), tls, authority, login })
    }
}

impl Server {
    /// The server that `secret` describes.
    pub(crate) fn new(secret: SmtpSecret) -> Result<Self, Trouble> {
        let tls = match secret.tls {
            TlsMode::None => None,
            TlsMode::StartTls | TlsMode::Implicit => Some(tls_parameters(&secret)?),
        };
        Ok(Self { secret, tls })
    }

    /// What protects the connection from its first byte.
    pub(crate) fn implicit_tls(&self) -> Option<TlsParameters> {
        self.tls.clone().filter(|_| self.secret.tls == TlsMode::Implicit)
    }

    /// What the connection must be upgraded to.
    pub(crate) fn start_tls(&self) -> Option<TlsParameters> {
        self.tls.clone().filter(|_| self.secret.tls == TlsMode::StartTls)
    }

    /// What to log in with.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let (username, password) = self.secret.login.as_ref()?;
        Some(Credentials::new(username.clone(), password.clone()))
    }
}

fn tls_parameters(secret: &SmtpSecret) -> Result<TlsParameters, Trouble> {
    let invalid_key = |key: &str, error: &dyn std::fmt::Display| {
        secret.mount.invalid(&format!("its key {key:?} cannot be used with TLS: {error}"))
    };
    let mut builder = TlsParameters::builder(secret.host.clone());
    if let Some(pem) = &secret.authority {
        // A text without a certificate is read as no certificates.
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid_key("ca", &"it holds no PEM certificate"));
        }
        let certificate = Certificate::from_pem(pem.as_bytes()).map_err(|error| invalid_key("ca", &error))?;
        builder = builder.add_root_certificate(certificate);
    }
    let key = if secret.authority.is_some() { "ca" } else { "host" };
    builder.build().map_err(|error| invalid_key(key, &error))
}

/// Without its password.
impl std::fmt::Debug for SmtpSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{} ({:?}, secret {:?})", self.host, self.port, self.tls, self.mount.name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use millrace_core::health::TroubleReason;

    use super::*;

    #[test]
    fn a_secret_that_cannot_be_used_says_which_key_and_why() {
        let mount = tempfile::tempdir().unwrap();
        let secret = MountedSecret { name: "smtp".to_owned(), directory: mount.path().to_owned() };
        let put = |key: &str, value: &str| fs::write(mount.path().join(key), value).unwrap();
        let read = || SmtpSecret::read(&secret);
        let reason = |trouble: Trouble| (trouble.reason, trouble.message);

        let (kind, message) = reason(read().unwrap_err());
        assert_eq!(kind, TroubleReason::SecretMissing);
        assert!(message.contains("\"smtp\"") && message.contains("\"host\""), "{message}");

        put("host", "mail.example.com\n");
        assert_eq!(read().unwrap().port, 587);
        put("tls", "implicit");
        assert_eq!(read().unwrap().port, 465);

        put("username", "shop");
        assert_eq!(read().unwrap_err().reason, TroubleReason::SecretMissing);
        put("password", "hunter2");
        put("port", "smtp");
        let (kind, message) = reason(read().unwrap_err());
        assert_eq!(kind, TroubleReason::SecretInvalid);
        assert!(message.contains("\"port\"") && !message.contains("hunter2"), "{message}");

        put("port", "465");
        for authority in ["none", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"] {
            put("ca", authority);
            let (kind, message) = reason(Server::new(read().unwrap()).err().unwrap());
            assert_eq!(kind, TroubleReason::SecretInvalid);
            assert!(message.contains("\"ca\""), "{message}");
        }
    }
}
