//! Executing: (chain, environment, state, transactions) → outcome.
//!
//! A block is executed one transaction at a time and each transaction once. Between transactions
//! it can be paused, frozen for publication, copied for "what if it were sealed now", and resumed.
//! Execution touches memory only: a read that is not there becomes a `NeedState` error, after which
//! nothing of the failed step remains. In reading order:
//!
//! * [`block`] — [`NextBlock`]: everything about a block that is known before its transactions.
//! * [`executor`] — [`Paused`] and [`Running`]: a block in the middle of being executed.
//! * [`outcome`] — [`Outcome`]: an executed block, and its header.
//! * [`validation`] — [`execute_block`]: a finished block of somebody else's, in one go.
//! * [`call`] — [`call::call`] and [`call::estimate_gas`]: transactions that are not kept.
//! * [`error`] — why an execution stopped.

pub mod block;
pub mod error;

pub mod executor;
pub mod outcome;
mod receipt;
pub mod validation;

pub mod call;

pub use block::{BlockContext, NextBlock};
pub use error::{BlockError, CallError, ExecutionError, TxError};
pub use executor::{Executed, Paused, Running};
pub use outcome::Outcome;
pub use validation::execute_block;
