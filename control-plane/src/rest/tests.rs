//! The API over a centre on the memory store with its driver running, as requests and answers.

mod described;
mod fixture;
mod happy;
mod health;
mod once;
mod operators;
mod refused;
mod roles;
mod serve;
mod stream;
mod tls;
