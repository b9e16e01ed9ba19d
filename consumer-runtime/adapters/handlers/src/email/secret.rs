//! The SMTP server, as its Secret describes it.

use std::{fs, io, path::Path};

use lettre::transport::smtp::{
    authentication::Credentials,
    client::{Certificate, TlsParameters},
};
use millrace_core::health::{Trouble, TroubleReason};

/// What the Secret says.
#[derive(Eq, PartialEq)]
pub(crate) struct SmtpSecret {
    pub(crate) host: String,
    pub(crate) port: u16,
    name: String,
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
    /// Reads the Secret that is mounted at `directory`.
    pub(crate) fn read(name: &str, directory: &Path) -> Result<Self, Trouble> {
        let key = |key: &str| read_key(name, directory, key);
        let host = key("host")?.filter(|host| !host.is_empty()).ok_or_else(|| missing(name, "host"))?;
        let tls = match key("tls")?.as_deref() {
            None | Some("starttls") => TlsMode::StartTls,
            Some("implicit") => TlsMode::Implicit,
            Some("none") => TlsMode::None,
            Some(_) => return Err(invalid(name, "its key \"tls\" must be starttls, implicit or none")),
        };
        let port = match (key("port")?, tls) {
            (Some(port), _) => port.parse().map_err(|_| invalid(name, "its key \"port\" is not a port number"))?,
            (None, TlsMode::Implicit) => 465,
            (None, TlsMode::StartTls | TlsMode::None) => 587,
        };
        let authority = key("ca")?;
        let login = match (key("username")?, key("password")?) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (Some(_), None) => return Err(missing(name, "password")),
            (None, Some(_)) => return Err(missing(name, "username")),
        };
        Ok(Self { host, port, name: name.to_owned(), tls, authority, login })
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
        invalid(&secret.name, &format!("its key {key:?} cannot be used with TLS: {error}"))
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

fn read_key(name: &str, directory: &Path, key: &str) -> Result<Option<String>, Trouble> {
    match fs::read_to_string(directory.join(key)) {
        // An editor's newline at the end is not part of a value.
        Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(invalid(name, &format!("failed to read its key {key:?}: {error}"))),
    }
}

/// Without its password.
impl std::fmt::Debug for SmtpSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{} ({:?}, secret {:?})", self.host, self.port, self.tls, self.name)
    }
}

fn missing(name: &str, key: &str) -> Trouble {
    Trouble::new(
        TroubleReason::SecretMissing,
        format!("secret {name:?} does not exist or has no key {key:?}; create it or add the key"),
    )
}

fn invalid(name: &str, problem: &str) -> Trouble {
    Trouble::new(TroubleReason::SecretInvalid, format!("secret {name:?} cannot be used: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_used_says_which_key_and_why() {
        let mount = tempfile::tempdir().unwrap();
        let put = |key: &str, value: &str| fs::write(mount.path().join(key), value).unwrap();
        let read = || SmtpSecret::read("smtp", mount.path());
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
