//! What a transaction left behind.

use crate::TxType;

/// The receipt of either chain; its type may be 0x7e.
pub type Receipt = alloy_consensus::EthereumReceipt<TxType>;
