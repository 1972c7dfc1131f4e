//! The sequencer's builder: it stands between a consensus client and its execution client, builds
//! the next block in signed pieces, and hands out exactly that block.
//!
//! ```text
//! consensus client ──▶ engine proxy ──▶ execution client
//!                        │  ▲
//!              orders to build, payloads asked for and sealed
//!                        ▼  │
//! overlay ──▶ ingress ─▶ sequencer ◀──▶ build thread (memory only)
//!                        │
//!                    publisher ──▶ signer
//!                        ▼
//!                       feed ──▶ gateways
//! ```
//!
//! * The [`build`] thread executes; it never awaits and never signs.
//! * The [`sequencer`] gives it orders, reads the state it misses, and seals what it completes: the
//!   sealed block has been called VALID by the execution client before anybody gets it.
//! * The [`publisher`] has each flashblock signed and then puts it on the [`feed`].
//! * Validators get the same sealed block by way of [`payloads`] as the consensus client does.
//! * Whatever of this fails, the execution client's own payload is handed out instead; the door of
//!   the Engine API has threads of its own, and an operator can have it do nothing else.
//!
//! What was promised is kept: a builder that was killed reads it in its [`journal`], and a standby
//! hears it on the feed; either goes on where the one before stopped, once it has the lease.
//!
//! This service holds no key.

mod build;
mod config;
mod feed;
mod ingress;
mod journal;
mod metrics;
mod payloads;
mod publisher;
mod sealing;
mod sequencer;
mod serve;
mod speculation;
mod standby;
#[cfg(test)]
mod testing;

pub use config::{Config, Prepared};
pub use metrics::register as register_metrics;
pub use serve::serve;
