//! The doors of this crate over real sockets, and payloads against blocks.

#![expect(clippy::unwrap_used, reason = "tests")]

mod client;
mod payload;
mod proxy;
