//! The promises of the whole system, each in a module, on the whole system.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod late_peers;
mod program;
mod receipts;
mod traces;
