//! The identity of the pods.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{build::metadata, validate::Valid};

/// One account for each consumer, without a token: the runtime asks nothing of the API server.
pub(super) fn build(valid: &Valid) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(valid),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
