//! The custom resources of Millrace, version `v1alpha1`.
//!
//! The doc comment of a field is its description in the CRD: what it means, its default and its limits.
#![deny(missing_docs)]
#![allow(unreachable_pub, reason = "KubeSchema derives public structs of its own inside functions")]

pub mod network;
pub mod replay;
mod rules;
pub mod scaling;
pub mod spec;
pub mod status;

pub use crate::{
    network::{NetworkPolicy, NetworkPolicyMode},
    replay::{
        ConsumerRef, DeadLetterReplay, DeadLetterReplaySpec, DeadLetterReplayStatus, DryRun, ListedLetter,
        ReplayFilter, ReplayRun, ReplayTarget,
    },
    scaling::{OnUnknownLag, Scaling, ScalingMode},
    spec::{EventConsumer, EventConsumerSpec, PodMetadata, PodSettings, PodTemplate, Resources, Toleration},
    status::{DeadLetters, EventConsumerStatus, Lag},
};
