//! The Secrets that a broker needs, as the client library wants them: a folder for each, with a file for each key. The folder is
//! in memory, and nobody else can read it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tracing::debug;

use crate::{context::answered, error::Error, validate::Valid};

/// The keys that are kept. Whatever else a Secret has is none of our business.
const KEYS: [&str; 8] = ["creds", "nkey", "token", "username", "password", "ca.crt", "tls.crt", "tls.key"];

/// Reads the Secrets that the broker of a consumer names, and no other, into `folder`, anew.
pub(super) async fn fetch(client: &Client, folder: &Path, valid: &Valid) -> Result<(), Error> {
    let broker = &valid.config.broker;
    let tls = broker.tls();
    let named = [
        ("broker", broker.auth_secret_ref()),
        ("broker-ca", tls.and_then(|tls| tls.ca_secret_ref.as_ref())),
        ("broker-client", tls.and_then(|tls| tls.client_secret_ref.as_ref())),
    ];
    forget(folder);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &valid.namespace);
    for (name, secret) in named.into_iter().filter_map(|(name, secret)| Some((name, secret?))) {
        // One that is not there leaves no folder, and the client says that it is missing.
        if let Some(secret) = answered("get a Secret of the broker", secrets.get_opt(&secret.name)).await? {
            keep(&folder.join(name), &secret)?;
        }
    }
    Ok(())
}

/// Removes what was read. There may be nothing.
pub(super) fn forget(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!(%error, "a folder of Secrets is left");
    }
}

fn keep(folder: &Path, secret: &Secret) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for (key, value) in secret.data.iter().flatten().filter(|(key, _)| KEYS.contains(&key.as_str())) {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(folder.join(key))?;
        file.write_all(&value.0)?;
    }
    Ok(())
}
