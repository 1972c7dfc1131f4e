//! The payload server: hands the validator whose turn it is the block that was preconfirmed.
//!
//! ```text
//! validator ──POST, JWT──▶ port ─▶ api ──gRPC──▶ builder
//!                                   │ ▲
//!                      validators, quota, turns ◀── CometBFT's RPC, or a consensus client over gRPC
//! ```
//!
//! * The `port` has beacon-kit's limits on connections, and its certificate.
//! * The `api` checks a request in beacon-kit's order and answers in its words.
//! * `validators` are two files; `turns` says who proposes a slot in its newest round.
//!
//! Invariants: nobody gets a payload who is not known by a secret, on the whitelist, and, as far as
//! is known, the proposer of that slot. What cannot be told within 200 ms is a refusal. The server
//! keeps no payloads: which block it is decides the builder, so that every replica serves the same.
//! A file that cannot be read anew changes nothing.

mod answer;
mod api;
mod asked;
mod cometbft;
mod config;
mod health;
mod listen;
mod metrics;
mod port;
mod quota;
mod reload;
mod serve;
mod setter;
mod tls;
mod turns;
mod validators;

pub use config::{Clock, Config, Prepared};
pub use metrics::register as register_metrics;
pub use serve::{Addresses, serve, start};
