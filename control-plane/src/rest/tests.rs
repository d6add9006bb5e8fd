//! The API over a centre on the memory store with its driver running, as requests and answers.

mod described;
mod endpoints;
mod fixture;
mod happy;
mod health;
mod hostile;
mod once;
mod operators;
mod refused;
mod roles;
mod serve;
mod stream;
mod tags;
mod tls;
