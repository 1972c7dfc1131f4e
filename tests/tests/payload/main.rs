//! How validators get their block, on the whole system: what beacon-kit's end-to-end tests promise, each
//! once with validators that fetch by themselves and once with validators behind sidecars.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod feed;
mod flow;
mod network;
mod rounds;
mod same;
mod scenario;
mod state;
mod traffic;
mod whitelist;
