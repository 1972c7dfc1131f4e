//! The producing machine, driven without a clock: every test is a list of inputs.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod builds;
mod chain;
mod pool;
