//! Credentials from a mounted Secret. They are read again for each connection, so a Secret that is rotated is used from
//! the next one on.

use async_nats::{Auth, AuthError, ConnectOptions};
use millrace_core::health::{Trouble, TroubleReason};
use millrace_secret::MountedSecret;
use nkeys::KeyPair;

/// What a Secret holds.
enum Credentials {
    /// A NATS credentials file: a user JWT and the key that it was issued for.
    Creds {
        jwt: String,
        key: KeyPair,
    },
    Nkey(KeyPair),
    Token(String),
    Login {
        username: String,
        password: String,
    },
}

/// Options of a connection that shows the credentials of this Secret.
///
/// # Errors
/// `SecretMissing` when no key is there now, `SecretInvalid` when the keys cannot be used.
pub(crate) fn options(secret: &MountedSecret) -> Result<ConnectOptions, Trouble> {
    Credentials::read(secret)?;
    let secret = secret.clone();
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let answer = Credentials::read(&secret)
            .map_err(|trouble| AuthError::new(trouble.message))
            .and_then(|credentials| credentials.answer(&nonce));
        std::future::ready(answer)
    }))
}

impl Credentials {
    fn read(secret: &MountedSecret) -> Result<Self, Trouble> {
        if let Some(creds) = secret.read("creds")? {
            let (jwt, seed) = parse_creds(&creds).ok_or_else(|| {
                secret.invalid("its key \"creds\" is not a NATS credentials file with a user JWT and a seed")
            })?;
            return Ok(Self::Creds { jwt: jwt.to_owned(), key: key(secret, "creds", seed)? });
        }
        if let Some(seed) = secret.read("nkey")? {
            return Ok(Self::Nkey(key(secret, "nkey", &seed)?));
        }
        if let Some(token) = secret.read("token")? {
            return Ok(Self::Token(token));
        }
        match (secret.read("username")?, secret.read("password")?) {
            (Some(username), Some(password)) => Ok(Self::Login { username, password }),
            (None, None) => Err(Trouble::new(
                TroubleReason::SecretMissing,
                format!(
                    "secret {:?} does not exist or has none of the keys creds, nkey, token, username and password; create it",
                    secret.name
                ),
            )),
            (Some(_), None) => Err(secret.lacks("password")),
            (None, Some(_)) => Err(secret.lacks("username")),
        }
    }

    /// What the server is told. A key signs the server's nonce.
    fn answer(self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let sign = |key: &KeyPair| key.sign(nonce).map(Some).map_err(AuthError::new);
        let mut auth = Auth::new();
        match self {
            Self::Creds { jwt, key } => {
                auth.signature = sign(&key)?;
                auth.jwt = Some(jwt);
            }
            Self::Nkey(key) => {
                auth.signature = sign(&key)?;
                auth.nkey = Some(key.public_key());
            }
            Self::Token(token) => auth.token = Some(token),
            Self::Login { username, password } => {
                auth.username = Some(username);
                auth.password = Some(password);
            }
        }
        Ok(auth)
    }
}

fn key(secret: &MountedSecret, name: &str, seed: &str) -> Result<KeyPair, Trouble> {
    // The library's own words might show a part of the seed.
    KeyPair::from_seed(seed.trim())
        .map_err(|_| secret.invalid(&format!("the seed in its key {name:?} is not an nkey seed")))
}

/// The JWT and the seed of a credentials file: the lines that stand between two lines of dashes.
fn parse_creds(creds: &str) -> Option<(&str, &str)> {
    let lines: Vec<&str> = creds.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_rule = |line: &str| line.starts_with("---");
    let mut enclosed = lines.windows(3).filter_map(|lines| match lines {
        [before, line, after] if is_rule(before) && !is_rule(line) && is_rule(after) => Some(*line),
        _ => None,
    });
    Some((enclosed.next()?, enclosed.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_is_read_as_the_nats_tools_write_it() {
        let creds = "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
                     ************************* IMPORTANT *************************\n\
                     NKEY Seed printed below can be used to sign and prove identity.\n\n\
                     -----BEGIN USER NKEY SEED-----\r\nSUAIO3FH\r\n------END USER NKEY SEED------\r\n\n****\n";

        assert_eq!(parse_creds(creds), Some(("eyJ0.eyJq.c2ln", "SUAIO3FH")));
        for broken in ["", "eyJ0", "-----\neyJ0\n-----\n", "-----\n-----\n-----\n"] {
            assert_eq!(parse_creds(broken), None, "{broken:?}");
        }
    }
}
