//! The RPC overlay: Ethereum's JSON-RPC, from preconfirmed blocks where they have a say and from an
//! execution client where they do not.
//!
//! It follows a consumer's pending chain ([`serve`]) and keeps one immutable snapshot of it. Each
//! request is answered from exactly one snapshot over exactly one canonical block. Which method is
//! answered from where is one table (`methods`). Transactions go to the sequencer; where it has no
//! ingress, to the execution client, from whose pool the sequencer takes them.
//!
//! Invariants: without a fresh snapshot, answers are those of the execution client; what is forwarded
//! is never answered about another block than the snapshot's; a bad update changes nothing that is
//! served.
//!
//! Ready is who can answer, and so who can answer from the execution client alone: its silence ends
//! readiness, and its return restores it. A consumer that is gone, or a chain that pauses, does not:
//! all overlays lose them at once, and would leave nobody to fall back to. Only at the start a first
//! snapshot is waited for, and no longer than one may be old.
//!
//! It never executes a transaction of a block, only calls that nobody keeps; it holds no key, and
//! nothing that outlives it. Subscriptions are not offered yet.

mod answers;
mod client_check;
mod complaints;
mod config;
mod dispatch;
mod failure;
mod follow;
mod forward;
mod methods;
mod metrics;
mod params;
mod pin;
mod rpc;
mod serve;
mod server;
mod submit;
mod tags;
mod view;

#[cfg(test)]
#[path = "../tests/common/snapshots.rs"]
mod testing;

pub use config::Config;
pub use metrics::register as register_metrics;
pub use serve::{Prepared, serve, spawn};
pub use tags::Latest;

/// What a request is answered with.
type Answer = Result<Box<serde_json::value::RawValue>, failure::Failure>;
