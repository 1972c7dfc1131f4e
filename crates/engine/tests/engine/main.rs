//! The doors of this crate over real sockets, and payloads against blocks.

#![expect(clippy::unwrap_used, reason = "tests")]

mod arrangement;
mod client;
mod passthrough;
mod payload;
mod proxy;
