//! The receiving machine: verified flashblocks and canonical heads go in, the pending chain comes
//! out.
//!
//! In reading order:
//!
//! * [`snapshot`] — what the machine yields: immutable views of the pending chain, and the updates
//!   by which they travel.
//! * [`Machine`] — what follows what, what is executed when, and what readers are shown.
//! * [`Current`] — the newest snapshot for those who come later.
//!
//! This crate never awaits, never reads a clock, never verifies a signature (it takes only what was
//! verified) and never asks an execution client: state that is not in memory is named, and somebody
//! else fetches it.

mod current;
mod environment;
mod execution;
mod machine;
mod promises;
mod received;
mod repair;
mod session;
pub mod snapshot;

pub use current::Current;
pub use environment::next_block;
pub use execution::Refusal;
pub use machine::{
    CanonicalHead, Effect, Evidence, HeadRelation, HeadReport, Limits, MAX_DEPTH, Machine, Need,
    Reception, StatementReception, Step,
};
pub use promises::Audit;
pub use received::{Received, Undecodable};
pub use repair::REPLAY_PATIENCE;
