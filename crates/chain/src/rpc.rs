//! Blocks, transactions, receipts and logs as JSON-RPC shows them.
//!
//! Decides the one JSON form of each, that of the execution APIs; it is written for wallets and
//! read from execution clients. Fields that are not known are ignored on reading.
//!
//! What is read is not believed: [`RpcTransaction`] computes the hash from the fields, and
//! [`RpcBlock::to_block`] the block hash and the roots.

mod block;
mod receipt;
mod transaction;

pub use block::{RpcBlock, RpcBlockError, RpcTransactions};
pub use receipt::{RpcLog, RpcReceipt};
pub use transaction::{InvalidRpcTransaction, RpcTransaction};

use alloy_primitives::B256;

/// The block that transactions, receipts and logs are shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// Its hash; none while it is pending.
    pub block_hash: Option<B256>,
    /// Its number.
    pub block_number: u64,
    /// Its timestamp.
    pub block_timestamp: u64,
    /// Its base fee.
    pub base_fee_per_gas: Option<u64>,
    /// What each unit of blob gas costs in it.
    pub blob_base_fee: Option<u128>,
}

#[cfg(test)]
mod tests;
