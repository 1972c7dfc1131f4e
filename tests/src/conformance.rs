//! The `conformance` program: execution that nobody has to take on trust.
//!
//! It runs public test suites, from a clone of them, against the code that consumers run, or against
//! any endpoint.
//!
//! * [`cli`] — its commands and exit codes.
//! * [`replay`] — a chain that others made, cut into flashblocks.
//! * [`blocktests`] — ethereum/tests `BlockchainTests`, valid blocks and invalid ones.
//! * [`rpc`] — the requests and responses of ethereum/execution-apis.
//! * [`crate::random`] — random blocks, executed in different ways.

pub mod blocktests;
pub mod cli;
mod failure;
pub mod import;
mod output;
pub mod replay;
pub mod rpc;

pub use failure::Failure;
pub use output::Output;
