//! The producing machine: attributes and transactions go in, flashblocks and blocks come out.
//!
//! [`Submission`] is a transaction as it comes, with its blobs; [`Pool`] holds what waits, [`Build`] is one block in the making, [`Cadence`] says when a
//! flashblock is due, and [`Assembler`] ties them together. Everything here is synchronous and
//! deterministic: time is an argument, state is in memory or missing, and what is to be signed,
//! published, fetched or sealed comes out as an [`Effect`] for the driver.
//!
//! This crate never awaits, never signs, and never asks an execution client.

mod assembler;
mod build;
mod bytes;
mod cadence;
mod intrinsic;
mod owed;
mod pool;
mod promises;
mod settled;
mod sidecar;
#[cfg(test)]
mod testing;

pub use assembler::{Assembler, BuildId, Completion, Effect, Wake};
pub use build::{
    BoxError, Build, Cut, Exhausted, Failure, Finished, MAX_STATE_ROUNDS, Step, Timing,
};
pub use cadence::Cadence;
pub use intrinsic::check_gas_limit;
pub use pool::{DropCause, Fees, Pool, PoolLimits, Selection, check_sender};
pub use promises::{Located, Promised};
pub use settled::CanonicalBlock;
pub use sidecar::{
    Sidecar, SidecarError, SidecarForm, Submission, Unproved, is_blob_transaction,
    load_trusted_setup, prove_blobs,
};
