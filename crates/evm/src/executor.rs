//! A block in the middle of being executed.
//!
//! [`Running`] holds an EVM and lives on its thread; [`Paused`] is the same block as plain data,
//! which can be sent, kept and copied. Going from one to the other costs about a microsecond.
//!
//! Invariants: every transaction is executed exactly once; a transaction that failed leaves no
//! trace, not even a warm account; receipts and transactions correspond one to one; the counters
//! never exceed the block's gas limit or its room for blobs.
//!
//! Never waits: what is not in memory is an error that names the keys.

use std::{borrow::Cow, fmt, sync::Arc};

use alloy_consensus::Transaction as _;
use alloy_eips::eip7685::Requests;
use alloy_evm::{
    Evm as _, EvmEnv, FromRecoveredTx,
    block::{
        BlockExecutionError, BlockExecutor, BlockValidationError, TxResult,
        state_changes::post_block_balance_increments,
    },
    eth::{EthBlockExecutionCtx, EthBlockExecutor, EthEvm, EthEvmBuilder, EthEvmContext, eip6110},
    precompiles::PrecompilesMap,
};
use alloy_hardforks::EthereumHardforks;
use preconf_chain::{ChainSpec, Receipt, Transaction, TxEnvelope};
use preconf_state::{Diff, Key, NeedState, Overlay, StateReader};
use revm::{
    Inspector,
    context::{TxEnv, result::ResultAndState},
    database_interface::DatabaseCommitExt,
    inspector::NoOpInspector,
};

use crate::{
    ExecutionError, NextBlock, Outcome, TxError, block::evm_env, deposits, outcome::Executions,
    pol, receipt::Receipts,
};

type Executor<R, I> = EthBlockExecutor<'static, Machine<R, I>, Arc<ChainSpec>, Receipts>;

/// An EVM on the state of a block, watched by an inspector.
pub(crate) type Machine<R, I> = EthEvm<Overlay<R>, I, PrecompilesMap>;

/// What can watch an execution, step by step.
pub trait Watch<R: StateReader>: Inspector<EthEvmContext<Overlay<R>>> {}

impl<R: StateReader, I: Inspector<EthEvmContext<Overlay<R>>>> Watch<R> for I {}

/// A block in the middle of being executed, at rest. Copies share what is already in the block.
#[derive(Clone, Debug)]
pub struct Paused<R> {
    spec: Arc<ChainSpec>,
    block: Arc<NextBlock>,
    env: EvmEnv,
    overlay: Overlay<R>,
    transactions: Arc<Vec<Transaction>>,
    receipts: Arc<Vec<Receipt>>,
    gas: Gas,
}

/// A block in the middle of being executed, with its EVM. Not `Send`.
///
/// Nothing watches it unless it is a simulation or a trace.
pub struct Running<R: StateReader, I = NoOpInspector> {
    block: Arc<NextBlock>,
    transactions: Vec<Transaction>,
    executor: Executor<R, I>,
    /// The most blob gas that fits, if the fork has blobs at all.
    max_blob_gas: Option<u64>,
}

/// What a transaction did, in short; its receipt is the last of [`Running::receipts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Gas it paid for.
    pub gas_used: u64,
    /// Whether it did what it was meant to; otherwise it only paid.
    pub success: bool,
}

/// The counters of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Gas {
    cumulative: u64,
    regular: u64,
    state: u64,
    blob: u64,
}

impl<R: StateReader> Paused<R> {
    /// Begins a block: makes the changes that come before its transactions (EIP-2935, EIP-4788)
    /// and, where the chain begins its blocks with a transaction of its own, executes that.
    ///
    /// What `overlay` changed so far belongs to the blocks below.
    ///
    /// # Errors
    /// [`ExecutionError::NeedState`] names what has to be fetched before trying again, with a fresh
    /// overlay; besides the read that failed it names the others that every block makes.
    pub fn begin(
        spec: Arc<ChainSpec>,
        block: NextBlock,
        overlay: Overlay<R>,
    ) -> Result<Self, ExecutionError> {
        Self::prepare(spec, block, overlay)?.reward_proposer()
    }

    /// Begins a block, up to the chain's own first transaction.
    pub(crate) fn prepare(
        spec: Arc<ChainSpec>,
        block: NextBlock,
        mut overlay: Overlay<R>,
    ) -> Result<Self, ExecutionError> {
        overlay.begin_block();
        if let Some(parent) = block.number.checked_sub(1) {
            overlay.set_block_hash(parent, block.parent_hash);
        }
        let env = evm_env(&spec, &block.header(&spec));
        let paused = Self {
            spec,
            block: Arc::new(block),
            env,
            overlay,
            transactions: Arc::default(),
            receipts: Arc::default(),
            gas: Gas::default(),
        };
        let mut running = paused.resume();
        let applied = running.executor.apply_pre_execution_changes();
        running.check(applied)?;
        Ok(running.pause())
    }

    /// Executes the chain's own first transaction, on Berachain since Prague1.
    pub(crate) fn reward_proposer(self) -> Result<Self, ExecutionError> {
        let Self { spec, block, env, overlay, transactions, receipts, gas } = self;
        let reward = spec.pol_transaction(
            block.number,
            block.timestamp,
            block.base_fee_per_gas,
            block.prev_proposer_pubkey.as_ref(),
        );
        let reward = reward.map_err(|missing| {
            ExecutionError::Failed(Box::new(BlockExecutionError::other(missing)))
        })?;
        let Some(reward) = reward else {
            return Ok(Self { spec, block, env, overlay, transactions, receipts, gas });
        };
        let (mut overlay, called) = pol::distribute(&reward, overlay, env.clone());
        let receipt = settle(&mut overlay, &block, &spec, called)?;
        let sender = reward.from;
        let reward = Transaction::from_envelope(reward.into(), sender);
        let (transactions, receipts) = (Arc::new(vec![reward]), Arc::new(vec![receipt]));
        Ok(Self { spec, block, env, overlay, transactions, receipts, gas })
    }

    /// Puts the block back into an EVM.
    pub fn resume(self) -> Running<R> {
        self.resume_in(EthEvmBuilder::build)
    }

    /// Puts the block back into an EVM of the caller's making.
    pub(crate) fn resume_in<I: Watch<R>>(
        self,
        build: impl FnOnce(EthEvmBuilder<Overlay<R>>) -> Machine<R, I>,
    ) -> Running<R, I> {
        let Self { spec, block, env, overlay, transactions, receipts, gas } = self;
        let max_blob_gas =
            spec.blob_params_at(block.timestamp).map(|params| params.max_blob_gas_per_block());
        let ctx = EthBlockExecutionCtx {
            parent_hash: block.parent_hash,
            parent_beacon_block_root: block.parent_beacon_block_root,
            ommers: &[],
            withdrawals: Some(Cow::Owned(block.withdrawals.clone())),
            extra_data: block.extra_data.clone(),
            tx_count_hint: None,
            slot_number: None,
        };
        let evm = build(EthEvmBuilder::new(overlay, env));
        let mut executor = EthBlockExecutor::new(evm, ctx, spec, Receipts);
        executor.receipts = Arc::unwrap_or_clone(receipts);
        executor.cumulative_tx_gas_used = gas.cumulative;
        executor.block_regular_gas_used = gas.regular;
        executor.block_state_gas_used = gas.state;
        executor.blob_gas_used = gas.blob;
        let transactions = Arc::unwrap_or_clone(transactions);
        Running { block, transactions, executor, max_blob_gas }
    }

    /// Ends the block: collects the requests to the consensus layer (EIP-6110, EIP-7002, EIP-7251)
    /// and pays the withdrawals.
    ///
    /// # Errors
    /// [`ExecutionError::NeedState`] names what has to be fetched before trying again, with a copy
    /// that was made before.
    pub fn finish(self) -> Result<Outcome<R>, ExecutionError> {
        // Nothing is added to them, so they need not be copied if they are shared.
        let transactions = self.transactions.clone();
        let mut running = Self { transactions: Arc::default(), ..self }.resume();
        running.freeze();
        let closed = close(&mut running.executor);
        let requests = running.check(closed)?;
        let closing = running.freeze();
        let Self { spec, block, overlay, receipts, gas, .. } = running.pause();
        Ok(Outcome::new(
            spec,
            Executions {
                block: Arc::unwrap_or_clone(block),
                transactions,
                receipts: Arc::unwrap_or_clone(receipts),
                requests,
                gas_used: gas.cumulative,
                blob_gas_used: gas.blob,
            },
            overlay,
            closing,
        ))
    }

    /// The EVM's view of the block.
    pub(crate) fn env(&self) -> &EvmEnv {
        &self.env
    }

    /// The EVM's view of the block, for those who simulate what no block could hold.
    pub(crate) fn env_mut(&mut self) -> &mut EvmEnv {
        &mut self.env
    }

    /// The block's environment.
    pub fn block(&self) -> &NextBlock {
        &self.block
    }

    /// The receipts of the transactions so far.
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// The transactions so far.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// The transactions so far, to be kept without a copy of the list.
    pub fn shared_transactions(&self) -> Arc<Vec<Transaction>> {
        self.transactions.clone()
    }

    /// Gas used so far.
    pub fn gas_used(&self) -> u64 {
        self.gas.cumulative
    }

    /// Blob gas used so far.
    pub fn blob_gas_used(&self) -> u64 {
        self.gas.blob
    }

    /// The state after the last transaction.
    pub fn overlay(&self) -> &Overlay<R> {
        &self.overlay
    }

    /// The rules it is executed by.
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.spec
    }
}

impl<R: StateReader, I: Watch<R>> Running<R, I> {
    /// Executes a transaction and adds it to the block.
    ///
    /// # Errors
    /// Says why it is not in the block; then nothing of it remains.
    pub fn execute(&mut self, transaction: &Transaction) -> Result<Executed, TxError> {
        let form = TxEnv::from_recovered_tx(transaction.envelope(), transaction.signer());
        self.execute_as(transaction, form, |_, _| ())
    }

    /// Executes a transaction in a form of the caller's making, and shows what it did before it
    /// becomes part of the block.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(crate) fn execute_as(
        &mut self,
        transaction: &Transaction,
        form: TxEnv,
        see: impl FnOnce(&mut Machine<R, I>, &ResultAndState),
    ) -> Result<Executed, TxError> {
        self.check_kind(transaction)?;
        let parts = (form, transaction.recovered());
        let executed = self.executor.execute_transaction_without_commit(parts);
        // Looked at even if the transaction went through: no result may rest on a failed read.
        let missing = self.executor.evm.db_mut().take_missing();
        if !missing.is_empty() {
            return Err(TxError::NeedState(missing));
        }
        let executed = executed.map_err(TxError::from_executor)?;
        let success = executed.result().result.is_success();
        see(&mut self.executor.evm, executed.result());
        let gas_used = self.executor.commit_transaction(executed).tx_gas_used();
        self.transactions.push(transaction.clone());
        Ok(Executed { gas_used, success })
    }

    /// Makes room for about this many more transactions, so that lists and tables need not grow
    /// while they are executed.
    pub fn reserve(&mut self, transactions: usize) {
        self.transactions.reserve(transactions);
        self.executor.receipts.reserve(transactions);
        // Who sends and who receives is often somebody who did before.
        self.executor.evm.db_mut().reserve(transactions / 2);
    }

    /// Closes what changed since the last freeze, for publication.
    pub fn freeze(&mut self) -> Arc<Diff> {
        self.executor.evm.db_mut().freeze()
    }

    /// Takes the block out of its EVM.
    pub fn pause(self) -> Paused<R> {
        let Self { block, transactions, executor, .. } = self;
        let gas = Gas {
            cumulative: executor.cumulative_tx_gas_used,
            regular: executor.block_regular_gas_used,
            state: executor.block_state_gas_used,
            blob: executor.blob_gas_used,
        };
        let (overlay, env) = executor.evm.finish();
        Paused {
            spec: executor.spec,
            block,
            env,
            overlay,
            transactions: Arc::new(transactions),
            receipts: Arc::new(executor.receipts),
            gas,
        }
    }

    /// The block's environment.
    pub fn block(&self) -> &NextBlock {
        &self.block
    }

    /// The receipts of the transactions so far.
    pub fn receipts(&self) -> &[Receipt] {
        &self.executor.receipts
    }

    /// The transactions so far.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// Gas used so far.
    pub fn gas_used(&self) -> u64 {
        self.executor.cumulative_tx_gas_used
    }

    /// Blob gas used so far.
    pub fn blob_gas_used(&self) -> u64 {
        self.executor.blob_gas_used
    }

    /// The state after the last transaction.
    pub fn overlay(&self) -> &Overlay<R> {
        self.executor.evm.db()
    }

    /// The rules it is executed by.
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.executor.spec
    }

    /// Its EVM, between transactions.
    pub(crate) fn machine(&mut self) -> &mut Machine<R, I> {
        &mut self.executor.evm
    }

    /// Refuses what the executor would take although a block may not hold it.
    fn check_kind(&self, transaction: &Transaction) -> Result<(), TxError> {
        match transaction.envelope() {
            TxEnvelope::Pol(_) => return Err(TxError::Reserved(preconf_chain::POL_TX_TYPE)),
            TxEnvelope::Ethereum(_) => (),
        }
        let blob_gas = transaction.envelope().blob_gas_used().unwrap_or_default();
        let Some(max_blob_gas) = self.max_blob_gas else { return Ok(()) };
        let available = max_blob_gas.saturating_sub(self.executor.blob_gas_used);
        if blob_gas > available {
            return Err(TxError::ExceedsBlobGas { blob_gas, available });
        }
        Ok(())
    }

    fn check<T>(&mut self, step: Result<T, BlockExecutionError>) -> Result<T, ExecutionError> {
        settle(self.executor.evm.db_mut(), &self.block, &self.executor.spec, step)
    }
}

/// Tells a read that failed from a step that failed. The executor turns both into text.
fn settle<R: StateReader, T>(
    overlay: &mut Overlay<R>,
    block: &NextBlock,
    spec: &ChainSpec,
    step: Result<T, BlockExecutionError>,
) -> Result<T, ExecutionError> {
    let mut missing = overlay.take_missing();
    if missing.is_empty() {
        return step.map_err(|error| ExecutionError::Failed(Box::new(error)));
    }
    for key in block.keys(spec) {
        missing.extend(missing_behind(overlay, key));
    }
    missing.sort_unstable();
    missing.dedup();
    Err(ExecutionError::NeedState(missing))
}

impl<R: StateReader, I: Watch<R>> fmt::Debug for Running<R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("block", &self.block)
            .field("transactions", &self.transactions.len())
            .field("gas_used", &self.gas_used())
            .finish_non_exhaustive()
    }
}

/// What comes after the transactions. Written out because the executor's own `finish` consumes the
/// database also when it fails, and with it the keys that were missing.
fn close<R: StateReader, I: Watch<R>>(
    executor: &mut Executor<R, I>,
) -> Result<Requests, BlockExecutionError> {
    let mut requests = Requests::default();
    let block = executor.evm.block().clone();
    let timestamp = block.timestamp.saturating_to();
    if executor.spec.is_prague_active_at_timestamp(timestamp) {
        let deposits = deposits::requested(&executor.spec, timestamp, &executor.receipts)?;
        if !deposits.is_empty() {
            requests.push_request_with_type(eip6110::DEPOSIT_REQUEST_TYPE, deposits);
        }
        executor.system_caller.append_post_execution_changes(&mut executor.evm, &mut requests)?;
    }
    let payments = post_block_balance_increments(
        &executor.spec,
        block,
        executor.ctx.ommers,
        executor.ctx.withdrawals.as_deref(),
    );
    executor
        .evm
        .db_mut()
        .increment_balances(payments)
        .map_err(|NeedState(_)| BlockValidationError::IncrementBalanceFailed)?;
    Ok(requests)
}

/// What is missing to read a key, and, where it is an account, its code.
fn missing_behind(state: &impl StateReader, key: Key) -> Option<Key> {
    let read = match key {
        Key::Account(address) => match state.account(address) {
            Ok(Some(account)) => state.code(account.code_hash).map(drop),
            read => read.map(drop),
        },
        Key::Slot(address, slot) => state.slot(address, slot).map(drop),
        Key::Code(hash) => state.code(hash).map(drop),
        Key::BlockHash(number) => state.block_hash(number).map(drop),
    };
    read.err().map(|NeedState(key)| key)
}
