//! A consensus client's door: the Engine API proxy as a part of a process.
//!
//! Two services stand between a consensus client and its execution client. What they do there
//! differs; how the door is kept does not, and that is here: the flags, the secrets, threads of its
//! own, and the off switch, by signal and over gRPC.
//!
//! Invariants: nothing but forwarding runs on the door's threads, and its connections are its own,
//! so whatever blocks, fills or breaks the rest of the process does not delay it. It needs nobody
//! but the execution client. This crate decides nothing about a block.

mod args;
mod door;
mod errand;
mod secrets;
mod switch;
mod threads;

pub use args::DoorArgs;
pub use door::{Door, register_metrics};
pub use errand::PassthroughArgs;
