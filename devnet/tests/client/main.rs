//! The embedded execution client, through its sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod berachain;
mod blobs;
mod building;
mod early;
mod engine_api;
mod filters;
mod harness;
mod heads;
mod import;
mod reads;
mod upstream;
