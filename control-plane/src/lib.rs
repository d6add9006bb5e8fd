//! The centre: keeps what must survive in a store, decides what runs where, and talks to the
//! agents of the member clusters. Run by the `faultline` binary.

pub mod audit;
pub mod authored;
pub mod authority;
pub mod cache;
pub mod centre;
pub mod config;
pub mod driver;
pub mod engine;
pub mod enrolment;
pub mod format;
pub mod health;
mod leading;
pub mod link;
pub mod peers;
pub mod replica;
pub mod rest;
pub mod restored;
pub mod retention;
mod run;
pub mod store;

pub use config::Config;
pub use run::{Listeners, open, run, serve};
