//! The running sidecar between a consensus client and the devnet's execution client, with sequencers
//! that are right, wrong, slow or not there.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod choices;
mod client;
mod process;
mod requests;
mod sequencer;
mod world;
mod wrong;
