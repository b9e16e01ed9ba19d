//! The shared runtime of all EventConsumers.

fn main() {}
