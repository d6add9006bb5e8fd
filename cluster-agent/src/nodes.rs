//! The agent's side of the links that node daemons dial.

pub mod authority;
pub mod server;
pub mod session;
