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
//! * [`mined`] — [`execute_mined`]: the same for blocks from before the merge.
//! * [`call`] — [`call::call`] and [`call::estimate_gas`]: transactions that are not kept.
//! * [`access_list`] — [`access_list::create_access_list`]: what such a transaction touches.
//! * [`simulate`] — [`simulate::simulate`]: blocks of such transactions.
//! * [`trace`] — what transactions do, step by step.
//! * [`error`] — why an execution stopped.

pub mod block;
pub mod error;

mod deposits;
pub mod executor;
pub mod mined;
pub mod outcome;
mod pol;
mod receipt;
pub mod validation;

pub mod access_list;
pub mod call;
pub mod simulate;
pub mod trace;

pub use block::NextBlock;
pub use call::{BlockContext, CallError};
pub use error::{BlockError, ExecutionError, TxError};
pub use executor::{Executed, Paused, Running};
pub use mined::execute_mined;
pub use outcome::Outcome;
pub use validation::{execute_block, execute_known_block};
