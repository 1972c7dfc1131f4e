//! The consumer: it verifies a feed, executes it on what the execution client says, and serves the
//! pending chain to overlays.
//!
//! What happens when is decided by one pure machine, [`preconf_pending::Machine`]. Everything here
//! brings it its input and carries out what it wants:
//!
//! ```text
//! feed ──▶ verify ──▶ executor (the machine, on a thread of its own) ──▶ hub ──▶ overlays
//!                      ▲ heads   ▲ state ▲ content of canonical blocks
//!                      └─────────┴───────┴──── execution client
//! ```
//!
//! A feed with seals is trusted by its seals. A bera-reth sequencer signs less, and numbers nothing:
//! with the policy `v1` its sessions are numbered here, its payload ids are checked to bind what its
//! signatures do not, and what is lost on the way stays lost, since it cannot be asked for.
//!
//! Invariants: nothing unverified reaches the machine, and messages keep their order; the thread
//! that executes never waits for a peer; every queue is bounded; an overlay that does not keep up is
//! let go and slows nobody down.
//!
//! It holds no key, changes nothing at the execution client, and nothing that it holds outlives it.

mod audit;
mod config;
mod execution_client;
mod executor;
mod feed;
mod heads;
mod hub;
mod link;
mod metrics;
mod payload_id;
mod serve;
mod state;
mod v1;
mod verify;

pub use config::{Config, PayloadIdCheck, Policy};
pub use metrics::register as register_metrics;
pub use serve::{Prepared, serve, spawn};
