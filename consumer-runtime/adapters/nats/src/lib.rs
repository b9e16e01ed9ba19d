//! Sources and dead letters on NATS JetStream and NATS core.
