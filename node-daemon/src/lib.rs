//! One daemon per node: it makes a fault and, whatever happens, takes it away again. `step` is the closed
//! vocabulary of what it does to the node, `system` the door to kernel and runtime, `worker` the children
//! that are part of a fault while it lasts. `engine` decides, `driver` acts, `journal` remembers, `keeper`
//! and `recover` clean up after a daemon that died, `link` talks to the agent.

pub mod config;
pub mod driver;
pub mod engine;
pub mod fault;
pub mod health;
pub mod journal;
pub mod keeper;
pub mod link;
pub mod metrics;
pub mod recover;
pub mod resolve;
mod run;
mod spans;
pub mod step;
pub mod system;
pub mod worker;

pub use config::{Config, Resolver};
pub use link::dial::AgentLink;
pub use run::{probe, run, run_with, work};
