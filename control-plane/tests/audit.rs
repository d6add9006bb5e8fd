//! The audit from end to end: chains and checkpoints, the sink over failures and restarts, what
//! the leader signs for the dead and what it deletes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test"
)]

#[path = "audit/fixture.rs"]
mod fixture;
#[path = "audit/keeping.rs"]
mod keeping;
#[path = "store_contract/server.rs"]
#[expect(dead_code, reason = "the store's tests need more of it")]
mod server;
#[path = "audit/sinks.rs"]
mod sinks;
