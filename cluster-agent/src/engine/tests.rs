//! The engine against a small world: tables for what must happen, random lives for what must never happen.

mod binding;
mod ceiling;
mod losses;
mod random;
mod tables;
mod tempo;
mod unsuited;
mod world;
