//! The replicated state machine: streams, key-value buckets and consumers as deterministic code.
