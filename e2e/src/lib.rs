//! What the scenario tests need around them: the lab of two real Kubernetes
//! clusters; and the benchmarks. Used by the `lab` and `bench` binaries and by
//! the tests in this crate's `tests/`; nothing else depends on it.

pub mod bench;
pub mod kernel;
pub mod lab;
pub mod product;
