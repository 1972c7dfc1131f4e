//! Somebody else's block, executed in one go and compared with what its header says.
//!
//! Everything in the header is checked here except the state root, which needs a trie.

use std::sync::Arc;

use alloy_consensus::{
    crypto::RecoveryError,
    proofs::{calculate_ommers_root, calculate_withdrawals_root},
    transaction::SignerRecoverable,
};
use alloy_eips::{eip4895::Withdrawals, eip7685::Requests};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use alloy_rlp::Encodable;
use preconf_chain::{Block, ChainSpec, Header, Transaction, TxEnvelope};
use preconf_state::{Overlay, StateReader};

use crate::{BlockError, ExecutionError, NextBlock, Outcome, Paused, TxError};

/// Executes `block` on the state after `parent`. `requests`, where the block came with them, must
/// be those that the execution finds.
///
/// # Errors
/// [`BlockError::NeedState`] if state is not in memory, anything else if the block is invalid.
pub fn execute_block<R: StateReader>(
    spec: &Arc<ChainSpec>,
    parent: &Header,
    block: &Block,
    requests: Option<&Requests>,
    overlay: Overlay<R>,
) -> Result<Outcome<R>, BlockError> {
    execute_known_block(spec, parent, block, requests, overlay, |_| None)
}

/// As [`execute_block`]; where a transaction is `known` by its hash, its sender is not recovered
/// again.
///
/// # Errors
/// As [`execute_block`].
pub fn execute_known_block<R: StateReader>(
    spec: &Arc<ChainSpec>,
    parent: &Header,
    block: &Block,
    requests: Option<&Requests>,
    overlay: Overlay<R>,
    known: impl Fn(&B256) -> Option<Transaction>,
) -> Result<Outcome<R>, BlockError> {
    spec.validate_header(&block.header, parent).map_err(BlockError::Header)?;
    check_length(spec, block)?;
    compare_bodies(block)?;
    let withdrawals = block.body.withdrawals.clone().map(Withdrawals::into_inner);
    let next = NextBlock::from_header(&block.header, withdrawals.unwrap_or_default());
    let outcome = execute_transactions(spec, next, &block.body.transactions, overlay, known)?;
    if let Some(requests) = requests {
        compare("requests", requests, &outcome.requests)?;
    }
    compare_headers(&block.header, &outcome.header(block.header.state_root))?;
    let logs = outcome.receipts.iter().flat_map(|receipt| &receipt.logs);
    spec.check_logs(block.header.timestamp, logs).map_err(BlockError::Prague3)?;
    Ok(outcome)
}

/// A block must not be longer than what its fork allows (EIP-7934).
fn check_length(spec: &ChainSpec, block: &Block) -> Result<(), BlockError> {
    let bytes = block.length();
    match spec.max_block_bytes_at(block.header.timestamp) {
        Some(max) if bytes > max => Err(BlockError::TooLarge { bytes, max }),
        Some(_) | None => Ok(()),
    }
}

/// Executes a block from its beginning to its end. Where the chain begins its blocks with a
/// transaction of its own, the first one must be exactly that.
pub(crate) fn execute_transactions<R: StateReader>(
    spec: &Arc<ChainSpec>,
    next: NextBlock,
    transactions: &[TxEnvelope],
    overlay: Overlay<R>,
    known: impl Fn(&B256) -> Option<Transaction>,
) -> Result<Outcome<R>, BlockError> {
    let number = next.number;
    let paused = Paused::begin(spec.clone(), next, overlay).map_err(block_error)?;
    let mut running = paused.resume();
    let own = running.transactions();
    for (index, own) in own.iter().enumerate() {
        let claimed = transactions.get(index).map(|envelope| *envelope.hash());
        compare("first transaction", &claimed, &Some(*own.hash()))?;
    }
    let own = own.len();
    let recovered = recover(spec, number, transactions.get(own..).unwrap_or_default(), known);
    for (index, recovered) in (own..).zip(recovered) {
        let sender = |source| BlockError::Sender { index, source: Box::new(source) };
        let transaction = recovered.map_err(sender)?;
        match running.execute(&transaction) {
            Ok(_) => (),
            Err(TxError::NeedState(keys)) => return Err(BlockError::NeedState(keys)),
            Err(source) => {
                return Err(BlockError::Transaction { index, hash: *transaction.hash(), source });
            }
        }
    }
    running.pause().finish().map_err(block_error)
}

/// What a body holds besides transactions is what its header says, or nothing.
fn compare_bodies(block: &Block) -> Result<(), BlockError> {
    let Block { header, body } = block;
    let withdrawals_root = body.withdrawals.as_deref().map(|list| calculate_withdrawals_root(list));
    compare("withdrawals root", &header.withdrawals_root, &withdrawals_root)?;
    compare("ommers hash", &header.ommers_hash, &calculate_ommers_root(&body.ommers))
}

/// The transactions with their senders: those that are not known are recovered on all cores.
fn recover(
    spec: &ChainSpec,
    number: u64,
    envelopes: &[TxEnvelope],
    known: impl Fn(&B256) -> Option<Transaction>,
) -> impl Iterator<Item = Result<Transaction, RecoveryError>> {
    let known: Vec<_> = envelopes.iter().map(|envelope| known(envelope.hash())).collect();
    let missing = envelopes.iter().zip(&known).filter(|(_, known)| known.is_none());
    let missing = missing.map(|(envelope, _)| envelope.clone()).collect();
    // EIP-2 came with Homestead.
    let mut recovered = match spec.is_homestead_active_at_block(number) {
        true => Transaction::recover_all(missing, TxEnvelope::recover_signer),
        false => Transaction::recover_all(missing, TxEnvelope::recover_signer_unchecked),
    }
    .into_iter();
    known.into_iter().map_while(move |known| known.map(Ok).or_else(|| recovered.next()))
}

fn block_error(error: ExecutionError) -> BlockError {
    match error {
        ExecutionError::NeedState(keys) => BlockError::NeedState(keys),
        error @ ExecutionError::Failed(_) => BlockError::Execution(error),
    }
}

/// Names the first field that differs, the telling ones first.
fn compare_headers(claimed: &Header, computed: &Header) -> Result<(), BlockError> {
    compare("gas used", &claimed.gas_used, &computed.gas_used)?;
    compare("receipts root", &claimed.receipts_root, &computed.receipts_root)?;
    compare("logs bloom", &claimed.logs_bloom, &computed.logs_bloom)?;
    compare("transactions root", &claimed.transactions_root, &computed.transactions_root)?;
    compare("withdrawals root", &claimed.withdrawals_root, &computed.withdrawals_root)?;
    compare("blob gas used", &claimed.blob_gas_used, &computed.blob_gas_used)?;
    compare("requests hash", &claimed.requests_hash, &computed.requests_hash)?;
    // What is left cannot differ unless the header has a field that its fork does not know.
    compare("header", claimed, computed)
}

pub(crate) fn compare<T: PartialEq + std::fmt::Debug>(
    field: &'static str,
    claimed: &T,
    computed: &T,
) -> Result<(), BlockError> {
    if claimed == computed {
        return Ok(());
    }
    Err(BlockError::Mismatch {
        field,
        claimed: format!("{claimed:?}"),
        computed: format!("{computed:?}"),
    })
}
