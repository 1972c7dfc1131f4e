//! The embedded execution client, through its sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod building;
mod engine_api;
mod harness;
mod heads;
mod reads;
mod upstream;
