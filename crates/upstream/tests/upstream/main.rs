//! This crate against a scripted execution client, over real sockets.

#![expect(clippy::unwrap_used, reason = "tests")]

mod blocks;
mod client;
mod execution;
mod heads;
mod pool;
mod reads;
