//! The centre as a whole, over channels and in-memory twins.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::result_large_err,
    reason = "the parts that the tests share are tests, too"
)]

#[path = "centre/agent.rs"]
mod agent;
#[path = "centre/authoring.rs"]
mod authoring;
#[path = "centre/crowds.rs"]
mod crowds;
#[path = "centre/endpoints.rs"]
mod endpoints;
#[path = "centre/fixture.rs"]
mod fixture;
#[path = "centre/frozen.rs"]
mod frozen;
#[path = "centre/lifecycle.rs"]
mod lifecycle;
#[path = "../../proto/tests/wire/lost.rs"]
mod lost;
#[path = "centre/moved.rs"]
mod moved;
#[path = "centre/process.rs"]
mod process;
#[path = "centre/recovered.rs"]
mod recovered;
#[path = "centre/replaced.rs"]
mod replaced;
#[path = "centre/replicas.rs"]
mod replicas;
#[path = "centre/resumed.rs"]
mod resumed;
#[path = "centre/sessions.rs"]
mod sessions;
#[path = "centre/skew.rs"]
mod skew;
#[path = "centre/tokens.rs"]
mod tokens;
