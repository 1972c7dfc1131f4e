//! The limit of execution: alloy-evm's block executor alone, over a database in memory that has
//! everything, with transactions whose senders are known.

use std::{fmt, sync::Arc, time::Duration};

use alloy_consensus::{
    EthereumReceipt, EthereumTxEnvelope, TransactionEnvelope, TxEip4844, TxReceipt,
    proofs::{calculate_receipt_root, calculate_transaction_root},
    transaction::Recovered,
};
use alloy_evm::{
    Evm, EvmEnv,
    block::BlockExecutor,
    eth::{
        EthBlockExecutionCtx, EthBlockExecutor, EthEvmBuilder,
        receipt_builder::{ReceiptBuilder, ReceiptBuilderCtx},
    },
};
use preconf_chain::{ChainSpec, Header, Transaction, TxEnvelope};
use preconf_evm::{NextBlock, Paused};
use preconf_state::{Diff, MemoryState, Overlay, StateCache, StateReader};
use revm::{
    Database, DatabaseCommit,
    database::{CacheDB, EmptyDB},
};

use crate::{
    clock::on_this_thread,
    measure::{Wrong, same},
    world::World,
};

type EthereumTx = EthereumTxEnvelope<TxEip4844>;
type EthereumTxType = <EthereumTx as TransactionEnvelope>::TxType;
type Receipt = EthereumReceipt<EthereumTxType>;

/// A block to be executed at one go.
pub(crate) struct OneShot<'a> {
    world: &'a World,
    env: EvmEnv,
    block: NextBlock,
    transactions: Vec<Recovered<EthereumTx>>,
}

/// What came of it.
pub(crate) struct Executed<DB> {
    /// From the first system call to the last receipt.
    pub(crate) execution: Duration,
    /// What ends the block: system calls, and the roots of transactions and receipts.
    pub(crate) closing: Duration,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) db: DB,
}

impl<'a> OneShot<'a> {
    /// These transactions, in this order.
    pub(crate) fn new(world: &'a World, block: NextBlock, transactions: &[Transaction]) -> Self {
        let header = Header {
            beneficiary: block.fee_recipient,
            number: block.number,
            gas_limit: block.gas_limit,
            timestamp: block.timestamp,
            mix_hash: block.prev_randao,
            base_fee_per_gas: Some(block.base_fee_per_gas),
            excess_blob_gas: block.excess_blob_gas,
            ..Header::default()
        };
        let spec = &world.spec;
        let blob_params = spec.blob_params_at(block.timestamp);
        let env = EvmEnv::for_eth_block(&header, spec, spec.chain_id(), blob_params);
        Self { world, env, block, transactions: transactions.iter().map(ethereum).collect() }
    }

    /// Executes the block over a database that holds all of it.
    pub(crate) fn run<DB>(&self, db: DB) -> Executed<DB>
    where
        DB: Database + DatabaseCommit + fmt::Debug,
    {
        let ctx = EthBlockExecutionCtx {
            parent_hash: self.block.parent_hash,
            parent_beacon_block_root: self.block.parent_beacon_block_root,
            ommers: &[],
            withdrawals: None,
            extra_data: self.block.extra_data.clone(),
            tx_count_hint: Some(self.transactions.len()),
            slot_number: None,
        };
        let (execution, executor) = on_this_thread(|| {
            let evm = EthEvmBuilder::new(db, self.env.clone()).build();
            let mut executor = EthBlockExecutor::new(evm, ctx, &self.world.spec, Receipts);
            executor.apply_pre_execution_changes().expect("the system contracts are there");
            for transaction in &self.transactions {
                executor.execute_transaction(transaction).expect("the transactions are valid");
            }
            executor
        });
        let (closing, (evm, result)) = on_this_thread(|| {
            let (evm, result) = executor.finish().expect("the system contracts are there");
            let blooms: Vec<_> = result.receipts.iter().map(TxReceipt::with_bloom_ref).collect();
            calculate_receipt_root(&blooms);
            calculate_transaction_root(&self.transactions);
            drop(blooms);
            (evm, result)
        });
        Executed { execution, closing, receipts: result.receipts, db: evm.finish().0 }
    }
}

/// Executes the block at one go over an overlay of our own, on a cache that holds all of it.
///
/// The difference to what the consumer does is what the cuts cost.
pub(crate) fn run_overlaid(
    spec: &Arc<ChainSpec>,
    block: NextBlock,
    state: StateCache,
    transactions: &[Transaction],
) -> Result<(Duration, Paused<StateCache>), Wrong> {
    let (execution, paused) = on_this_thread(|| {
        let paused = Paused::begin(spec.clone(), block, Overlay::new(state))
            .map_err(|error| Wrong(error.to_string()))?;
        let mut running = paused.resume();
        for transaction in transactions {
            running.execute(transaction).map_err(|error| Wrong(error.to_string()))?;
        }
        Ok(running.pause())
    });
    Ok((execution, paused?))
}

/// Fails unless ours has the receipts of one-shot execution.
pub(crate) fn same_receipts<'a>(
    ours: impl Iterator<Item = &'a preconf_chain::Receipt>,
    limit: &[Receipt],
) -> Result<(), Wrong> {
    let ours: Vec<_> = ours.collect();
    same("the number of receipts", &ours.len(), &limit.len())?;
    for (at, (ours, limit)) in ours.iter().zip(limit).enumerate() {
        same(format!("the success of {at}"), &ours.success, &limit.success)?;
        same(format!("the gas of {at}"), &ours.cumulative_gas_used, &limit.cumulative_gas_used)?;
        same(format!("the logs of {at}"), &ours.logs, &limit.logs)?;
        same(format!("the failure of {at}"), &limit.success, &true)?;
    }
    Ok(())
}

/// Fails unless ours has every account and every slot of one-shot execution.
pub(crate) fn same_state(ours: &impl StateReader, limit: &CacheDB<EmptyDB>) -> Result<(), Wrong> {
    for (address, held) in &limit.cache.accounts {
        let account = ours.account(*address).map_err(|need| Wrong(need.to_string()))?;
        let account = account.unwrap_or_default();
        same(format!("the nonce of {address}"), &account.nonce, &held.info.nonce)?;
        same(format!("the balance of {address}"), &account.balance, &held.info.balance)?;
        for (slot, value) in &held.storage {
            let read = ours.slot(*address, *slot).map_err(|need| Wrong(need.to_string()))?;
            same(format!("slot {slot} of {address}"), &read, value)?;
        }
    }
    Ok(())
}

/// The state that a diff over the whole state leads to.
pub(crate) fn overlaid(
    world: &World,
    diffs: impl Iterator<Item = Arc<Diff>>,
) -> Overlay<&MemoryState> {
    let mut overlay = Overlay::new(&world.state);
    diffs.for_each(|diff| overlay.push_layer(diff));
    overlay
}

fn ethereum(transaction: &Transaction) -> Recovered<EthereumTx> {
    match transaction.envelope() {
        TxEnvelope::Ethereum(envelope) => {
            Recovered::new_unchecked(envelope.clone(), transaction.signer())
        }
        TxEnvelope::Pol(_) => unreachable!("nobody can send one"),
    }
}

/// Receipts without a bloom, as ours; alloy's own builder computes one for each.
#[derive(Clone, Copy, Debug)]
struct Receipts;

impl ReceiptBuilder for Receipts {
    type Transaction = EthereumTx;
    type Receipt = Receipt;

    fn build_receipt<E: Evm>(&self, ctx: ReceiptBuilderCtx<'_, EthereumTxType, E>) -> Receipt {
        Receipt {
            tx_type: ctx.tx_type,
            success: ctx.result.is_success(),
            cumulative_gas_used: ctx.cumulative_gas_used,
            logs: ctx.result.into_logs(),
        }
    }
}
