//! Stores of claims: JetStream key-value and memory.
