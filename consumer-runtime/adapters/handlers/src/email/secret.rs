//! The SMTP server, as its Secret describes it.

use std::{fs, io, path::Path};

use lettre::{
    AsyncSmtpTransport, Tokio1Executor,
    transport::smtp::{
        AsyncSmtpTransportBuilder,
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use millrace_core::health::{Trouble, TroubleReason};

/// What the Secret says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct SmtpSecret {
    name: String,
    host: String,
    port: u16,
    tls: TlsMode,
    login: Option<(String, String)>,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TlsMode {
    StartTls,
    Implicit,
    None,
}

impl SmtpSecret {
    /// Reads the Secret that is mounted at `directory`.
    pub(crate) fn read(name: &str, directory: &Path) -> Result<Self, Trouble> {
        let key = |key: &str| read_key(name, directory, key);
        let host = key("host")?.ok_or_else(|| missing(name, "host"))?;
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
        let login = match (key("username")?, key("password")?) {
            (Some(username), Some(password)) => Some((username, password)),
            (None, None) => None,
            (Some(_), None) => return Err(missing(name, "password")),
            (None, Some(_)) => return Err(missing(name, "username")),
        };
        Ok(Self { name: name.to_owned(), host, port, tls, login })
    }

    /// A transport to that server.
    pub(crate) fn transport(&self) -> Result<AsyncSmtpTransportBuilder, Trouble> {
        let parameters = || {
            TlsParameters::new(self.host.clone())
                .map_err(|error| invalid(&self.name, &format!("its key \"host\" cannot be used with TLS: {error}")))
        };
        let tls = match self.tls {
            TlsMode::StartTls => Tls::Required(parameters()?),
            TlsMode::Implicit => Tls::Wrapper(parameters()?),
            TlsMode::None => Tls::None,
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host).port(self.port).tls(tls);
        Ok(match &self.login {
            Some((username, password)) => builder.credentials(Credentials::new(username.clone(), password.clone())),
            None => builder,
        })
    }
}

fn read_key(name: &str, directory: &Path, key: &str) -> Result<Option<String>, Trouble> {
    match fs::read_to_string(directory.join(key)) {
        // An editor's newline at the end is not part of a value.
        Ok(value) => Ok(Some(value.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(invalid(name, &format!("failed to read its key {key:?}: {error}"))),
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
    }
}
