//! The orchestration of the consumer-runtime over its ports.
