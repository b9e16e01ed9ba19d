//! The domain and the ports of the consumer-runtime, without IO.
