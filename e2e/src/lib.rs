//! What the scenario tests need around them: the lab of two real Kubernetes
//! clusters. Used by the `lab` binary and by the tests in this crate's
//! `tests/`; nothing else depends on it.

pub mod kernel;
pub mod lab;
pub mod product;
