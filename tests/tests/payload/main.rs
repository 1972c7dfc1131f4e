//! How validators get their block, on the whole system: natively and through sidecars, in turns.
//!
//! Validator 0 fetches by itself, as beacon-kit does; validator 1 is behind a sidecar.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod flow;
mod load;
mod network;
mod rounds;
mod same;
mod scenario;
mod state;
mod whitelist;
