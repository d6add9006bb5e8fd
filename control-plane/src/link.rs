//! The link to the agents: one session per cluster. All logic runs over bounded channels of
//! [`proto::wire`] messages; `grpc` only pumps them. State, not events: an agent is sent the
//! latest desired state, sends the latest observed, and a reconnect is a difference.

mod given_back;
pub mod grpc;
mod hub;
mod inbox;
mod ingest;
pub mod lane;
mod outgoing;
mod session;

pub use hub::{Hub, LinkConfig};
pub use session::{End, serve};
