//! A real gateway between a scripted builder and real WebSocket and gRPC readers.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops where it fails"
)]

mod builder;
mod sequencer;
mod world;

mod budget;
mod faults;
mod limits;
mod links;
mod process;
mod readers;

/// That of the chassis' own tests.
#[path = "../../../../crates/chassis/tests/authority/mod.rs"]
mod authority;
