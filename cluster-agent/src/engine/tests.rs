//! The engine against a small world: tables for what must happen, random lives for what must never happen.

mod random;
mod tables;
mod world;
