//! A consumer between a feed, an execution client and overlays that do what a test says.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod bad_input;
mod client;
mod faults;
mod feed;
mod pending;
mod v1;
mod world;

/// The chain and the sequencer with which the machine is tested, too.
#[path = "../../../../crates/pending/tests/support/mod.rs"]
mod support;
