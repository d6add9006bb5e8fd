//! The centre as a whole, over channels and in-memory twins.

#[path = "centre/agent.rs"]
mod agent;
#[path = "centre/fixture.rs"]
mod fixture;
#[path = "centre/slice.rs"]
mod slice;
