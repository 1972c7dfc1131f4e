//! Transactions that are not kept: `eth_call` and `eth_estimateGas`, answered as geth answers them.
//!
//! A call runs on the state after a block, in that block's environment, or in what its caller wants
//! the two to be. Nobody signed it, so its nonce and whether its sender has code are not checked.
//! Where it names no price, gas is free and the base fee is zero, also for the contract that asks;
//! where it names one, the sender must be able to pay it. Nothing is ever committed.

mod context;
mod error;
mod estimate;
mod overrides;
mod refusal;
mod request;

use alloy_evm::{Evm as _, EvmEnv, eth::EthEvmBuilder};
use alloy_primitives::{Bytes, Log};
use preconf_chain::ChainSpec;
use preconf_state::{Account, NeedState, Overlay, StateReader};
use revm::{
    context::{Cfg as _, TxEnv, result::ResultAndState},
    context_interface::result::{EVMError, ExecutionResult, HaltReason},
    inspector::NoOpInspector,
};

pub use self::{
    context::BlockContext,
    error::{CallError, INTERNAL_ERROR, INVALID_PARAMS, REVERTED, SERVER_ERROR, revert_text},
    estimate::estimate_gas,
    overrides::InvalidOverride,
    refusal::Refusal,
    request::CallRequest,
};
pub(crate) use self::{
    context::set_blob_base_fee,
    overrides::{StateChange, keep_warm, small},
    refusal::{check_nonce, check_payment},
};
use crate::executor::{Machine, Watch};

/// The most gas a call may use, as in geth and reth; an access list or an estimate executes it several
/// times, a simulation shares it among all its calls.
pub const GAS_CAP: u64 = 50_000_000;

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutcome {
    /// How it ended.
    pub status: CallStatus,
    /// What it returned, or the data it reverted with; for a creation, the contract's code.
    pub output: Bytes,
    /// The gas a transaction would have paid for.
    pub gas_used: u64,
    /// The most gas it had spent at any time, before refunds: what it needs to have.
    pub gas_spent: u64,
    /// What it logged.
    pub logs: Vec<Log>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// It returned.
    Success,
    /// It reverted, perhaps with data.
    Reverted,
    /// It failed and used all its gas.
    Halted(HaltReason),
}

impl CallOutcome {
    /// The message of the failure in geth's words, which wallets look for; `None` for a success.
    pub fn failure(&self) -> Option<String> {
        match &self.status {
            CallStatus::Success => None,
            CallStatus::Reverted => Some("execution reverted".to_owned()),
            CallStatus::Halted(reason) => Some(error::halt_text(reason)),
        }
    }

    /// What it returned, as `eth_call` answers.
    ///
    /// # Errors
    /// [`CallError::Reverted`] or [`CallError::Halted`] if it did not succeed.
    pub fn into_output(self) -> Result<Bytes, CallError> {
        match self.status {
            CallStatus::Success => Ok(self.output),
            CallStatus::Reverted => Err(CallError::Reverted(self.output)),
            CallStatus::Halted(reason) => Err(CallError::Halted(reason)),
        }
    }

    pub(crate) fn of(result: ExecutionResult) -> Self {
        let gas = *result.gas();
        let gas_used = gas.tx_gas_used();
        let gas_spent = gas.total_gas_spent().max(gas_used);
        let (status, output, logs) = match result {
            ExecutionResult::Success { output, logs, .. } => {
                (CallStatus::Success, output.into_data(), logs)
            }
            ExecutionResult::Revert { output, .. } => (CallStatus::Reverted, output, Vec::new()),
            ExecutionResult::Halt { reason, .. } => {
                (CallStatus::Halted(reason), Bytes::new(), Vec::new())
            }
        };
        Self { status, output, gas_used, gas_spent, logs }
    }
}

/// Executes a call on the state that `overlay` shows, in the environment of `context`.
///
/// # Errors
/// [`CallError::NeedState`] if state is not in memory: fetch and call again. A call that reverts or
/// halts is no error.
pub fn call<R: StateReader>(
    spec: &ChainSpec,
    context: &BlockContext,
    overlay: Overlay<R>,
    request: &CallRequest,
) -> Result<CallOutcome, CallError> {
    Simulation::new(spec, context, overlay, request)?.run(request.gas_limit())
}

impl CallRequest {
    /// The gas it runs with, unless something else limits it.
    pub(crate) fn gas_limit(&self) -> u64 {
        self.gas.unwrap_or(GAS_CAP).min(GAS_CAP)
    }
}

/// A transaction that can be run again and again on the same state.
pub(crate) struct Simulation<R: StateReader, I = NoOpInspector> {
    evm: Machine<R, I>,
    env: EvmEnv,
    /// The most gas that a transaction of a block may have (EIP-7825). Calls may have more.
    fork_gas_cap: u64,
    transaction: TxEnv,
}

impl<R: StateReader> Simulation<R> {
    pub(crate) fn new(
        spec: &ChainSpec,
        context: &BlockContext,
        overlay: Overlay<R>,
        request: &CallRequest,
    ) -> Result<Self, CallError> {
        Self::new_in(spec, context, overlay, request, EthEvmBuilder::build)
    }
}

impl<R: StateReader, I: Watch<R>> Simulation<R, I> {
    /// As [`Simulation::new`], in an EVM of the caller's making.
    pub(crate) fn new_in(
        spec: &ChainSpec,
        context: &BlockContext,
        mut overlay: Overlay<R>,
        request: &CallRequest,
        build: impl FnOnce(EthEvmBuilder<Overlay<R>>) -> Machine<R, I>,
    ) -> Result<Self, CallError> {
        let transaction = request.form(spec)?;
        let mut env = context.evm_env(spec);
        env.cfg_env.disable_nonce_check = true;
        env.cfg_env.disable_eip3607 = true;
        env.cfg_env.disable_block_gas_limit = true;
        let fork_gas_cap = env.cfg_env.tx_gas_limit_cap();
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
        if transaction.gas_price == 0 {
            env.cfg_env.disable_base_fee = true;
            env.block_env.basefee = 0;
        }
        let blobs = request.max_fee_per_blob_gas.is_some() || !transaction.blob_hashes.is_empty();
        if blobs && transaction.max_fee_per_blob_gas == 0 {
            set_blob_base_fee(&mut env, 0);
        }
        context.set_block_hashes(&mut overlay);
        let builder = EthEvmBuilder::new(overlay, env.clone());
        let evm = match context.precompiles(&env) {
            None => build(builder),
            Some(precompiles) => {
                let mut evm = build(builder.precompiles(precompiles));
                keep_warm(&mut evm, *env.spec_id());
                evm
            }
        };
        Ok(Self { evm, env, fork_gas_cap, transaction })
    }

    fn run(&mut self, gas_limit: u64) -> Result<CallOutcome, CallError> {
        Ok(CallOutcome::of(self.execute(gas_limit)?.result))
    }

    /// Runs it, and returns also what it would have changed.
    pub(crate) fn execute(&mut self, gas_limit: u64) -> Result<ResultAndState, CallError> {
        let form = self.form(gas_limit);
        let sender = self.sender()?;
        check_payment(&form, &self.env, &sender).map_err(CallError::Refused)?;
        let result = self.evm.transact_raw(form.clone());
        let missing = self.evm.db_mut().take_missing();
        if !missing.is_empty() {
            return Err(CallError::NeedState(missing));
        }
        match result {
            Ok(executed) => Ok(executed),
            Err(EVMError::Transaction(invalid)) => {
                Err(CallError::Refused(Refusal::of(invalid, &form, &self.env)))
            }
            Err(EVMError::Database(NeedState(key))) => Err(CallError::NeedState(vec![key])),
            Err(error @ (EVMError::Header(_) | EVMError::Custom(_) | EVMError::CustomAny(_))) => {
                Err(CallError::Failed(error.to_string()))
            }
        }
    }

    /// The transaction as the EVM takes it.
    pub(crate) fn form(&self, gas_limit: u64) -> TxEnv {
        TxEnv { gas_limit, ..self.transaction.clone() }
    }

    /// The account that calls.
    fn sender(&self) -> Result<Account, CallError> {
        let sender = self.transaction.caller;
        Ok(self.read(|state| state.account(sender))?.unwrap_or_default())
    }

    /// Who watched.
    pub(crate) fn inspector(&self) -> &I {
        self.evm.inspector()
    }

    /// Its EVM, between runs.
    pub(crate) fn machine(&mut self) -> &mut Machine<R, I> {
        &mut self.evm
    }

    /// Reads the state that the call runs on.
    fn read<T>(
        &self,
        read: impl FnOnce(&Overlay<R>) -> Result<T, NeedState>,
    ) -> Result<T, CallError> {
        read(self.evm.db()).map_err(|NeedState(key)| CallError::NeedState(vec![key]))
    }
}
