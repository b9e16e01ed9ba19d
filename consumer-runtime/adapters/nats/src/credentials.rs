//! Credentials from a mounted Secret.

use async_nats::ConnectOptions;
use millrace_core::health::{Trouble, TroubleReason};

use crate::secret::MountedSecret;

/// Adds the credentials that the Secret holds now to `options`.
///
/// # Errors
/// `SecretMissing` when no key is there, `SecretInvalid` when the keys cannot be used.
pub(crate) fn apply(secret: &MountedSecret, options: ConnectOptions) -> Result<ConnectOptions, Trouble> {
    if let Some(creds) = secret.read("creds")? {
        return options
            .credentials(&creds)
            .map_err(|error| secret.invalid(&format!("its key \"creds\" is not a NATS credentials file: {error}")));
    }
    if let Some(seed) = secret.read("nkey")? {
        return Ok(options.nkey(seed));
    }
    if let Some(token) = secret.read("token")? {
        return Ok(options.token(token));
    }
    match (secret.read("username")?, secret.read("password")?) {
        (Some(username), Some(password)) => Ok(options.user_and_password(username, password)),
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
