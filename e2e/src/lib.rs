//! End-to-end scenarios and the demo on a real cluster.
