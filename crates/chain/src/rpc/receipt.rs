//! Receipts and logs in JSON.

use alloy_consensus::{Transaction as _, TxReceipt};
use alloy_primitives::{Address, B256, Bloom, Bytes, Log};
use serde::{Deserialize, Serialize};

use super::Inclusion;
use crate::{Receipt, Transaction, TxType};

/// A receipt as `eth_getTransactionReceipt` shows it, since Byzantium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RpcReceipt {
    /// The block's hash; none while it is pending.
    pub block_hash: Option<B256>,
    /// The block's number.
    #[serde(with = "alloy_serde::quantity")]
    pub block_number: u64,
    /// The contract that the transaction asked to create.
    pub contract_address: Option<Address>,
    /// The gas of the block up to and with it.
    #[serde(with = "alloy_serde::quantity")]
    pub cumulative_gas_used: u64,
    /// What it paid for each unit of gas.
    #[serde(with = "alloy_serde::quantity")]
    pub effective_gas_price: u128,
    /// Its blob gas.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub blob_gas_used: Option<u64>,
    /// What it paid for each unit of blob gas.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub blob_gas_price: Option<u128>,
    /// Who sent it.
    pub from: Address,
    /// Its gas.
    #[serde(with = "alloy_serde::quantity")]
    pub gas_used: u64,
    /// Its logs.
    pub logs: Vec<RpcLog>,
    /// The bloom filter over them.
    pub logs_bloom: Bloom,
    /// Whether it did what it was to do.
    #[serde(rename = "status", with = "alloy_serde::quantity")]
    pub success: bool,
    /// Whom it called.
    pub to: Option<Address>,
    /// Its hash.
    pub transaction_hash: B256,
    /// Where in the block it is.
    #[serde(with = "alloy_serde::quantity")]
    pub transaction_index: u64,
    /// Its type.
    #[serde(rename = "type", with = "tx_type")]
    pub tx_type: TxType,
}

/// A log as `eth_getLogs` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RpcLog {
    /// The contract that wrote it.
    pub address: Address,
    /// What it can be found by.
    pub topics: Vec<B256>,
    /// What it says.
    pub data: Bytes,
    /// The block's number.
    #[serde(with = "alloy_serde::quantity::opt")]
    pub block_number: Option<u64>,
    /// The transaction's hash.
    pub transaction_hash: Option<B256>,
    /// Where in the block the transaction is.
    #[serde(with = "alloy_serde::quantity::opt")]
    pub transaction_index: Option<u64>,
    /// The block's hash; none while it is pending.
    pub block_hash: Option<B256>,
    /// The block's timestamp, where the client shows it.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub block_timestamp: Option<u64>,
    /// Where in the block it is.
    #[serde(with = "alloy_serde::quantity::opt")]
    pub log_index: Option<u64>,
    /// Whether its block is no longer part of the chain.
    #[serde(default)]
    pub removed: bool,
}

impl RpcReceipt {
    /// The receipts of a block's first transactions, which may be all of them.
    ///
    /// Stops at the shorter of the two lists.
    pub fn of_block(
        inclusion: &Inclusion,
        transactions: &[Transaction],
        receipts: &[Receipt],
    ) -> Vec<Self> {
        let mut before = Before::default();
        transactions
            .iter()
            .zip(receipts)
            .map(|(transaction, receipt)| {
                let shown = Self::new(inclusion, transaction, receipt, before);
                before.transactions += 1;
                before.logs += receipt.logs.len() as u64;
                before.gas = receipt.cumulative_gas_used;
                shown
            })
            .collect()
    }

    fn new(
        inclusion: &Inclusion,
        transaction: &Transaction,
        receipt: &Receipt,
        before: Before,
    ) -> Self {
        let envelope = transaction.envelope();
        let created = envelope.is_create().then(|| transaction.signer().create(envelope.nonce()));
        let blob_gas_used = envelope.blob_gas_used();
        let logs = receipt.logs.iter().zip(before.logs..);
        Self {
            block_hash: inclusion.block_hash,
            block_number: inclusion.block_number,
            contract_address: created,
            cumulative_gas_used: receipt.cumulative_gas_used,
            effective_gas_price: envelope.effective_gas_price(inclusion.base_fee_per_gas),
            blob_gas_used,
            blob_gas_price: blob_gas_used.and(inclusion.blob_base_fee),
            from: transaction.signer(),
            gas_used: receipt.cumulative_gas_used.saturating_sub(before.gas),
            logs: logs
                .map(|(log, index)| {
                    RpcLog::new(inclusion, *transaction.hash(), before.transactions, log, index)
                })
                .collect(),
            logs_bloom: receipt.bloom(),
            success: receipt.success,
            to: envelope.to(),
            transaction_hash: *transaction.hash(),
            transaction_index: before.transactions,
            tx_type: receipt.tx_type,
        }
    }

    /// The receipt as the block commits to it.
    pub fn to_receipt(&self) -> Receipt {
        Receipt {
            tx_type: self.tx_type,
            success: self.success,
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.iter().map(RpcLog::to_log).collect(),
        }
    }
}

/// What the transactions before one add up to.
#[derive(Clone, Copy, Default)]
struct Before {
    transactions: u64,
    logs: u64,
    gas: u64,
}

impl RpcLog {
    fn new(
        inclusion: &Inclusion,
        transaction_hash: B256,
        transaction_index: u64,
        log: &Log,
        log_index: u64,
    ) -> Self {
        Self {
            address: log.address,
            topics: log.topics().to_vec(),
            data: log.data.data.clone(),
            block_number: Some(inclusion.block_number),
            transaction_hash: Some(transaction_hash),
            transaction_index: Some(transaction_index),
            block_hash: inclusion.block_hash,
            block_timestamp: Some(inclusion.block_timestamp),
            log_index: Some(log_index),
            removed: false,
        }
    }

    /// The log as the block commits to it. A log has at most four topics; more are kept, and then
    /// no block commits to it.
    pub fn to_log(&self) -> Log {
        Log::new_unchecked(self.address, self.topics.clone(), self.data.clone())
    }
}

mod tx_type {
    //! A transaction's type as a hexadecimal quantity.

    use alloy_consensus::Typed2718;
    use alloy_primitives::U8;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::TxType;

    pub(super) fn serialize<S: Serializer>(kind: &TxType, to: S) -> Result<S::Ok, S::Error> {
        U8::from(kind.ty()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TxType, D::Error> {
        TxType::try_from(U8::deserialize(from)?).map_err(D::Error::custom)
    }
}
