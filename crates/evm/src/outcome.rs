//! An executed block, and the header that follows from it.

use std::sync::Arc;

use alloy_consensus::{
    BlockBody, ReceiptWithBloom, TxReceipt,
    proofs::{calculate_receipt_root, calculate_withdrawals_root, ordered_trie_root_with_encoder},
};
use alloy_eips::{eip4895::Withdrawals, eip7685::Requests};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bloom};
use preconf_chain::{Block, ChainSpec, Header, Receipt, Transaction};
use preconf_state::{Diff, Overlay};

use crate::NextBlock;

/// A block after its last step. Only a state root is missing to make it a block.
#[derive(Clone, Debug)]
pub struct Outcome<R> {
    spec: Arc<ChainSpec>,
    /// The block's environment.
    pub block: NextBlock,
    /// Its transactions.
    pub transactions: Arc<Vec<Transaction>>,
    /// Their receipts.
    pub receipts: Vec<Receipt>,
    /// Its requests to the consensus layer.
    pub requests: Requests,
    /// Gas used.
    pub gas_used: u64,
    /// Blob gas used.
    pub blob_gas_used: u64,
    /// The state after the block.
    pub overlay: Overlay<R>,
    /// What changed after the last transaction.
    pub closing: Arc<Diff>,
}

/// What an executor leaves behind, apart from state.
pub(crate) struct Executions {
    pub(crate) block: NextBlock,
    pub(crate) transactions: Arc<Vec<Transaction>>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) requests: Requests,
    pub(crate) gas_used: u64,
    pub(crate) blob_gas_used: u64,
}

impl<R> Outcome<R> {
    pub(crate) fn new(
        spec: Arc<ChainSpec>,
        executions: Executions,
        overlay: Overlay<R>,
        closing: Arc<Diff>,
    ) -> Self {
        let Executions { block, transactions, receipts, requests, gas_used, blob_gas_used } =
            executions;
        Self {
            spec,
            block,
            transactions,
            receipts,
            requests,
            gas_used,
            blob_gas_used,
            overlay,
            closing,
        }
    }

    /// The block's header, given the root of the state after it. Builds the tries of transactions,
    /// receipts and withdrawals, so it is worth calling once.
    pub fn header(&self, state_root: B256) -> Header {
        let timestamp = self.block.timestamp;
        let shanghai = self.spec.is_shanghai_active_at_timestamp(timestamp);
        let cancun = self.spec.is_cancun_active_at_timestamp(timestamp);
        let prague = self.spec.is_prague_active_at_timestamp(timestamp);
        let receipts: Vec<ReceiptWithBloom<&Receipt>> =
            self.receipts.iter().map(TxReceipt::with_bloom_ref).collect();
        let transactions_root = ordered_trie_root_with_encoder(
            self.transactions.as_slice(),
            |transaction: &Transaction, buffer| buffer.extend_from_slice(transaction.encoded()),
        );
        Header {
            state_root,
            transactions_root,
            receipts_root: calculate_receipt_root(&receipts),
            logs_bloom: receipts.iter().fold(Bloom::ZERO, |all, one| all | one.logs_bloom),
            gas_used: self.gas_used,
            withdrawals_root: shanghai.then(|| calculate_withdrawals_root(&self.block.withdrawals)),
            blob_gas_used: cancun.then_some(self.blob_gas_used),
            requests_hash: prague.then(|| self.requests_hash()),
            ..self.block.header(&self.spec)
        }
    }

    /// The block, given the root of the state after it.
    pub fn block(&self, state_root: B256) -> Block {
        let shanghai = self.spec.is_shanghai_active_at_timestamp(self.block.timestamp);
        let transactions = self.transactions.iter().map(|tx| tx.envelope().clone()).collect();
        let withdrawals = shanghai.then(|| Withdrawals::new(self.block.withdrawals.clone()));
        Block {
            header: self.header(state_root),
            body: BlockBody { transactions, ommers: Vec::new(), withdrawals },
        }
    }

    /// The hash that commits to the requests (EIP-7685).
    pub fn requests_hash(&self) -> B256 {
        self.requests.requests_hash()
    }

    /// Everything the block changed.
    pub fn diff(&self) -> Diff {
        self.overlay.block_diff()
    }
}
