//! Publishing events to NATS JetStream and NATS core.
