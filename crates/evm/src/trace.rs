//! What transactions do, step by step: `debug_traceTransaction`, `debug_traceBlock*` and
//! `debug_traceCall`.
//!
//! A block is executed again by the same executor, only that somebody watches, so what is shown is
//! what happened. Offered are the struct logger, `callTracer`, `flatCallTracer`, `prestateTracer`,
//! `4byteTracer`, `noopTracer` and, for several of them at once, `muxTracer`; any other is refused by
//! its name. An answer, however many transactions it is about,
//! has at most [`MAX_STEPS`] steps and [`MAX_RECORDED_BYTES`]; one that would be larger stops and is
//! refused.

mod watcher;

use std::{collections::BTreeMap, sync::Arc};

use alloy_evm::{
    Evm as _, FromRecoveredTx,
    eth::{EthEvm, EthEvmBuilder},
};
use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_trace::geth::{
    AccountState, GethDebugTracingOptions, GethTrace, PreStateFrame, TraceResult,
};
use preconf_chain::{ChainSpec, PolTx, Transaction, TxEnvelope};
use preconf_state::{Key, NeedState, Overlay, StateReader};
use revm::{
    DatabaseRef, ExecuteEvm,
    bytecode::Bytecode,
    context::{
        ContextSetters, TxEnv,
        result::{EVMError, ExecutionResult, ResultAndState},
    },
    handler::MainnetHandler,
    inspector::InspectorHandler,
    state::AccountInfo,
};
use revm_inspectors::tracing::{DebugInspectorError, TransactionContext};

pub use self::watcher::{MAX_RECORDED_BYTES, MAX_STEPS};
use self::watcher::{SLOT_BYTES, Watcher};
use crate::{
    ExecutionError, NextBlock, Paused, Running, TxError,
    call::{BlockContext, CallError, CallRequest, INTERNAL_ERROR, SERVER_ERROR, Simulation},
    executor::Machine,
    pol,
};

/// What an account takes besides its code and its storage.
const ACCOUNT_BYTES: usize = 128;

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// State is missing from memory.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// No such tracer is offered.
    #[error("tracer {0:?} is not supported")]
    UnknownTracer(String),
    /// The tracer does not know what it is told.
    #[error("the configuration of the tracer cannot be read")]
    InvalidConfig,
    /// The block has no transaction at this position.
    #[error("the block has no transaction {0}")]
    NoTransaction(usize),
    /// The trace would be too large.
    #[error("the trace has more than {MAX_STEPS} steps or {MAX_RECORDED_BYTES} bytes")]
    TooLarge,
    /// What the chain adds to the block failed.
    #[error("executing the block")]
    Execution(#[source] ExecutionError),
    /// A transaction of the block is not part of it.
    #[error("executing the transaction")]
    Transaction(#[source] TxError),
    /// The call cannot be executed.
    #[error(transparent)]
    Call(CallError),
}

impl TraceError {
    /// The code by which JSON-RPC says it.
    pub fn code(&self) -> i64 {
        match self {
            Self::NeedState(_) | Self::Execution(_) | Self::Transaction(_) => INTERNAL_ERROR,
            Self::Call(error) => error.code(),
            Self::UnknownTracer(_)
            | Self::InvalidConfig
            | Self::NoTransaction(_)
            | Self::TooLarge => SERVER_ERROR,
        }
    }
}

/// A block whose transactions are known, on the state before it.
#[derive(Clone, Debug)]
pub struct TracedBlock<'a, R> {
    /// The chain's rules.
    pub spec: &'a Arc<ChainSpec>,
    /// The block's environment.
    pub environment: NextBlock,
    /// The block's hash.
    pub hash: Option<B256>,
    /// Its transactions.
    pub transactions: &'a [Transaction],
    /// The state before it.
    pub overlay: Overlay<R>,
}

/// Traces every transaction of a block.
///
/// # Errors
/// [`TraceError::NeedState`] if state is not in memory: fetch and trace again.
pub fn trace_block<R: StateReader + Clone>(
    block: TracedBlock<'_, R>,
    options: &GethDebugTracingOptions,
) -> Result<Vec<TraceResult>, TraceError> {
    let mut tracing = Tracing::begin(block, options)?;
    let mut traces = Vec::with_capacity(tracing.transactions.len());
    for (index, transaction) in tracing.transactions.iter().enumerate() {
        let result = tracing.trace(index, transaction)?;
        traces.push(TraceResult::new_success(result, Some(*transaction.hash())));
    }
    Ok(traces)
}

/// Traces the transaction at one position of a block.
///
/// # Errors
/// As [`trace_block`]; [`TraceError::NoTransaction`] if there is none at this position.
pub fn trace_transaction<R: StateReader + Clone>(
    block: TracedBlock<'_, R>,
    index: usize,
    options: &GethDebugTracingOptions,
) -> Result<GethTrace, TraceError> {
    let mut tracing = Tracing::begin(block, options)?;
    let before = tracing.transactions.get(..index).unwrap_or_default();
    let transaction = tracing.transactions.get(index).ok_or(TraceError::NoTransaction(index))?;
    for transaction in before.iter().skip(tracing.running.transactions().len()) {
        tracing.skip(transaction)?;
    }
    tracing.trace(index, transaction)
}

/// Traces a call on the state that `overlay` shows, in the environment of `context`.
///
/// # Errors
/// As [`call`](crate::call::call).
pub fn trace_call<R: StateReader>(
    spec: &ChainSpec,
    context: &BlockContext,
    overlay: Overlay<R>,
    request: &CallRequest,
    options: &GethDebugTracingOptions,
) -> Result<GethTrace, TraceError> {
    let watcher = Watcher::new(options)?;
    let mut simulation = Simulation::new_in(spec, context, overlay, request, |builder| {
        builder.activate_inspector(watcher).build()
    })?;
    let gas_limit = request.gas_limit();
    let executed = simulation.execute(gas_limit);
    if simulation.inspector().is_full() {
        return Err(TraceError::TooLarge);
    }
    let executed = executed?;
    let form = simulation.form(gas_limit);
    read(simulation.machine(), &form, &executed, TransactionContext::default())
}

/// A block in the middle of being traced.
struct Tracing<'a, R: StateReader> {
    /// The block before the chain's own first transaction, where there is one.
    before_own: Option<Paused<R>>,
    running: Running<R, Watcher>,
    transactions: &'a [Transaction],
    hash: Option<B256>,
}

impl<'a, R: StateReader + Clone> Tracing<'a, R> {
    fn begin(
        block: TracedBlock<'a, R>,
        options: &GethDebugTracingOptions,
    ) -> Result<Self, TraceError> {
        let watcher = Watcher::new(options)?;
        let TracedBlock { spec, environment, hash, transactions, overlay } = block;
        let prepared = Paused::prepare(spec.clone(), environment, overlay)?;
        let paused = prepared.clone().reward_proposer()?;
        let before_own = Some(prepared).filter(|_| !paused.transactions().is_empty());
        let running = paused.resume_in(|builder| builder.inspector(watcher).build());
        Ok(Self { before_own, running, transactions, hash })
    }

    /// Executes a transaction that nobody wants to see.
    fn skip(&mut self, transaction: &Transaction) -> Result<(), TraceError> {
        self.running.machine().disable_inspector();
        self.running.execute(transaction)?;
        Ok(())
    }

    fn trace(&mut self, index: usize, transaction: &Transaction) -> Result<GethTrace, TraceError> {
        let machine = self.running.machine();
        machine.enable_inspector();
        machine.inspector_mut().restart()?;
        let mut position =
            TransactionContext::default().with_tx_index(index).with_tx_hash(*transaction.hash());
        position.block_hash = self.hash;
        if let TxEnvelope::Pol(own) = transaction.envelope()
            && let Some(before) = &self.before_own
        {
            return trace_own(before, own, machine.inspector_mut(), position);
        }
        let form = TxEnv::from_recovered_tx(transaction.envelope(), transaction.signer());
        let mut trace = Err(TraceError::NoTransaction(index));
        let executed = self.running.execute_as(transaction, form.clone(), |machine, executed| {
            trace = read(machine, &form, executed, position);
        });
        if self.running.machine().inspector().is_full() {
            return Err(TraceError::TooLarge);
        }
        executed?;
        trace
    }
}

/// Traces the transaction that the chain makes itself, which is a call by the system.
fn trace_own<R: StateReader + Clone>(
    before: &Paused<R>,
    transaction: &PolTx,
    watcher: &mut Watcher,
    position: TransactionContext,
) -> Result<GethTrace, TraceError> {
    let form = pol::form(transaction);
    let builder = EthEvmBuilder::new(before.overlay().clone(), before.env().clone());
    let mut evm = builder.activate_inspector(std::mem::take(watcher)).build();
    let mut inner = evm.into_inner();
    inner.set_tx(form.clone());
    let called: Result<ExecutionResult, EVMError<NeedState>> =
        MainnetHandler::default().inspect_run_system_call(&mut inner);
    let state = inner.finalize();
    evm = EthEvm::new(inner, true);
    let trace = match called {
        Ok(result) => read(&mut evm, &form, &ResultAndState::new(result, state), position),
        Err(EVMError::Database(NeedState(key))) => Err(TraceError::NeedState(vec![key])),
        Err(error) => Err(CallError::Failed(error.to_string()).into()),
    };
    *watcher = std::mem::take(evm.inspector_mut());
    if watcher.is_full() { Err(TraceError::TooLarge) } else { trace }
}

/// What was seen of an execution that is not committed yet.
fn read<R: StateReader>(
    machine: &mut Machine<R, Watcher>,
    form: &TxEnv,
    executed: &ResultAndState,
    position: TransactionContext,
) -> Result<GethTrace, TraceError> {
    let block = machine.block().clone();
    let (overlay, watcher, _) = machine.components_mut();
    let mut state = Shown(overlay);
    let trace = watcher.debug().get_result(Some(position), form, &block, executed, &mut state);
    if let Ok(GethTrace::PreStateTracer(accounts)) = &trace {
        watcher.count(bytes_of(accounts));
    }
    trace.map(without_nothing).map_err(|error| match error {
        DebugInspectorError::Database(NeedState(key)) => TraceError::NeedState(vec![key]),
        DebugInspectorError::InvalidTracerConfig
        | DebugInspectorError::UnsupportedTracer
        | DebugInspectorError::JsTracerNotEnabled
        | DebugInspectorError::MuxInspector(_) => TraceError::InvalidConfig,
    })
}

/// How large what the tracer of states shows is.
fn bytes_of(accounts: &PreStateFrame) -> usize {
    let shown: [Option<&BTreeMap<Address, AccountState>>; 2] = match accounts {
        PreStateFrame::Default(mode) => [Some(&mode.0), None],
        PreStateFrame::Diff(mode) => [Some(&mode.pre), Some(&mode.post)],
    };
    let accounts = shown.into_iter().flatten().flat_map(BTreeMap::values);
    let bytes = |account: &AccountState| {
        let code = account.code.as_ref().map_or(0, |code| code.len());
        ACCOUNT_BYTES + code + account.storage.len() * SLOT_BYTES
    };
    accounts.map(bytes).sum()
}

/// Leaves out of each step what there is none of, as geth does.
fn without_nothing(mut trace: GethTrace) -> GethTrace {
    if let GethTrace::Default(frame) = &mut trace {
        for step in &mut frame.struct_logs {
            step.refund_counter = step.refund_counter.filter(|refund| *refund > 0);
            step.memory = step.memory.take().filter(|memory| !memory.is_empty());
            step.return_data = step.return_data.take().filter(|data| !data.is_empty());
        }
    }
    trace
}

/// State that is only looked at.
struct Shown<'a, R>(&'a Overlay<R>);

impl<R: StateReader> DatabaseRef for Shown<'_, R> {
    type Error = NeedState;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, NeedState> {
        Ok(self.0.account(address)?.map(AccountInfo::from))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, NeedState> {
        self.0.code(hash)
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        self.0.slot(address, slot)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, NeedState> {
        StateReader::block_hash(self.0, number)
    }
}

impl From<ExecutionError> for TraceError {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::NeedState(keys) => Self::NeedState(keys),
            error @ ExecutionError::Failed(_) => Self::Execution(error),
        }
    }
}

impl From<TxError> for TraceError {
    fn from(error: TxError) -> Self {
        if let TxError::NeedState(keys) = error {
            return Self::NeedState(keys);
        }
        Self::Transaction(error)
    }
}

impl From<CallError> for TraceError {
    fn from(error: CallError) -> Self {
        if let CallError::NeedState(keys) = error {
            return Self::NeedState(keys);
        }
        Self::Call(error)
    }
}
