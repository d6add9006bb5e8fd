//! The contract of Faultline: wire messages, the validated model, REST types
//! and error codes. Everything else depends on this crate; it depends on no
//! other folder and does no I/O.

pub mod api;
pub mod assignment;
pub mod audit;
pub mod catalogue;
pub mod ceiling;
pub mod cluster;
pub mod crd;
pub mod endpoints;
pub mod experiment;
pub mod exposition;
pub mod fault;
pub mod grant;
pub mod halt;
pub mod hash;
pub mod ids;
pub mod injection;
pub mod operator;
pub mod plan;
pub mod probe;
pub mod problem;
pub mod quantity;
pub mod record;
pub mod rest;
pub mod run;
pub mod selector;
pub mod status;
pub mod strict;
pub mod trace;
pub mod validate;
pub mod wire;
pub mod workloads;
