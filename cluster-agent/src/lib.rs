//! One per member cluster: it dials the control plane, resolves what an experiment would hit here, enforces the
//! cluster owner's limits, and drives the node daemons. The `faultline` binary calls [`run_with`] (and the host
//! variant, [`host::run`]); nothing here names etcd, the kernel or the control plane's own types.

pub mod clock;
pub mod cluster;
pub mod config;
pub mod driver;
pub mod engine;
pub mod health;
pub mod host;
pub mod kubernetes;
pub mod leading;
pub mod link;
pub mod nodes;
pub mod probes;
pub mod run;

pub use config::Config;
pub use run::run_with;
