//! The receiving machine, fed by a sequencer that really signs and really executes.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod audit;
mod chain;
mod need;
mod order;
mod random;
mod rebuild;
mod refusal;
mod rig;

#[path = "../support/mod.rs"]
mod support;
