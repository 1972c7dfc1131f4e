//! The validator's sidecar: stands between a validator's consensus client and its execution client,
//! and has the validator propose the block that was preconfirmed, if there is one and it is good.
//!
//! ```text
//! consensus client ──▶ engine door ──────────────▶ execution client
//!                        │                              ▲
//!              getPayload, after forkchoiceUpdated      │ getPayload, newPayload
//!                        ▼                              │
//!                     sidecar ──────────────────────────┘
//!                        │
//!                    sequencers ──POST, JWT──▶ payload servers, in order
//! ```
//!
//! * `race` and `breaker` decide whom to ask and when; `fetch` asks.
//! * `checks` compares what was fetched with what the validator was going to build.
//! * `execution` asks the execution client whether it is valid; the door, for its own.
//! * `credentials` reads the files that both sides are known by, again when they change.
//! * `sidecar` chooses.
//!
//! Invariants: a payload is handed out only if it is the execution client's own, as it came, or if
//! nothing about it differs from what the consensus client wants and the execution client has called
//! it VALID. The choice is made within the budget; whatever fails, panics or hangs, the execution
//! client's own payload is what is left.

mod breaker;
mod checks;
mod config;
mod credentials;
mod execution;
mod fetch;
mod metrics;
mod race;
mod serve;
mod sidecar;
mod wanted;

pub use config::{Config, FeeRecipients, Prepared};
pub use metrics::register as register_metrics;
pub use serve::{serve, start};
