//! The gateway: one feed in, any number of readers out.
//!
//! It follows the builder's feed, or another gateway's, and serves it over WebSocket to anyone and
//! over gRPC to consumers and further gateways. It verifies both signatures of every message and its
//! place in the order before it serves it, encodes it once, and keeps the last sessions so that a
//! reader can begin at the start of the current one or resume where it was.
//!
//! Invariants: what is served was signed by a configured key, for this chain, and follows what was
//! served before; every reader sees the same bytes in the same order; no reader can slow down
//! another, and one that does not keep up is closed with the cursor to resume from, never given a
//! hole in silence. What was missed is asked for again before anything that follows it is served;
//! what is replayed to readers is limited by where they come from.
//!
//! It never executes a transaction, never signs, and holds no state that outlives it.

mod budget;
mod config;
mod drain;
mod fanout;
mod frame;
mod grpc;
mod handshake;
mod held;
mod hub;
mod listener;
mod metrics;
mod order;
mod reader;
mod serve;
mod upstream;

pub use config::{Config, Limits};
pub use metrics::register as register_metrics;
pub use serve::{Addresses, serve, start};
