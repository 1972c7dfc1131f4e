//! Transactions that are not kept: `eth_call` and `eth_estimateGas`, answered as geth answers them.
//!
//! A call runs on the state after a block, in that block's environment. Nobody signed it, so its
//! nonce and whether its sender has code are not checked. Where it names no price, gas is free and
//! the base fee is zero, also for the contract that asks; where it names one, the sender must be
//! able to pay it. Nothing is ever committed.

mod estimate;

use alloy_consensus::constants::{
    EIP1559_TX_TYPE_ID, EIP2930_TX_TYPE_ID, EIP7702_TX_TYPE_ID, LEGACY_TX_TYPE_ID,
};
use alloy_eips::{eip2930::AccessList, eip7702::SignedAuthorization};
use alloy_evm::{
    Evm as _,
    eth::{EthEvm, EthEvmBuilder},
    precompiles::PrecompilesMap,
};
use alloy_primitives::{Address, Bytes, Log, TxKind, U256};
use preconf_chain::ChainSpec;
use preconf_state::{NeedState, Overlay, StateReader};
use revm::{
    context::{TxEnv, either::Either},
    context_interface::result::{EVMError, ExecutionResult, HaltReason},
    inspector::NoOpInspector,
};

pub use self::estimate::estimate_gas;
use crate::{BlockContext, CallError};

/// The most gas a call may use, as in geth and reth. It bounds what one request can cost.
pub const GAS_CAP: u64 = 50_000_000;

/// What `eth_call` is given. Whatever is absent has the default that geth gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// Who calls; the zero address if nobody is named.
    pub from: Option<Address>,
    /// Who is called; a contract is created if nobody is named.
    pub to: Option<Address>,
    /// The most gas to use; [`GAS_CAP`] applies in any case.
    pub gas: Option<u64>,
    /// Price of gas; excludes the two below.
    pub gas_price: Option<u128>,
    /// The most to pay for gas.
    pub max_fee_per_gas: Option<u128>,
    /// The most to pay beyond the base fee.
    pub max_priority_fee_per_gas: Option<u128>,
    /// What is transferred.
    pub value: Option<U256>,
    /// What the callee is given.
    pub data: Bytes,
    /// Ignored: the account's own nonce counts.
    pub nonce: Option<u64>,
    /// What is to be warm from the start.
    pub access_list: Option<AccessList>,
    /// Code to be set (EIP-7702).
    pub authorization_list: Option<Vec<SignedAuthorization>>,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutcome {
    /// How it ended.
    pub status: CallStatus,
    /// What it returned, or the data it reverted with; for a creation, the contract's code.
    pub output: Bytes,
    /// The gas a transaction would have paid for.
    pub gas_used: u64,
    /// Gas spent before refunds, which is what it needs to have.
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
            CallStatus::Halted(reason) => Some(halt_text(reason)),
        }
    }

    fn of(result: ExecutionResult) -> Self {
        let gas = *result.gas();
        let (gas_used, gas_spent) = (gas.tx_gas_used(), gas.total_gas_spent());
        match result {
            ExecutionResult::Success { output, logs, .. } => Self {
                status: CallStatus::Success,
                output: output.into_data(),
                gas_used,
                gas_spent,
                logs,
            },
            ExecutionResult::Revert { output, .. } => {
                let logs = Vec::new();
                Self { status: CallStatus::Reverted, output, gas_used, gas_spent, logs }
            }
            ExecutionResult::Halt { reason, .. } => Self {
                status: CallStatus::Halted(reason),
                output: Bytes::new(),
                gas_used,
                gas_spent,
                logs: Vec::new(),
            },
        }
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
    let mut simulation = Simulation::new(spec, context, overlay, request)?;
    let gas_limit = request.gas.unwrap_or(GAS_CAP).min(GAS_CAP);
    simulation.run(gas_limit)
}

/// A transaction that can be run again and again on the same state.
struct Simulation<R: StateReader> {
    evm: EthEvm<Overlay<R>, NoOpInspector, PrecompilesMap>,
    transaction: TxEnv,
}

impl<R: StateReader> Simulation<R> {
    fn new(
        spec: &ChainSpec,
        context: &BlockContext,
        overlay: Overlay<R>,
        request: &CallRequest,
    ) -> Result<Self, CallError> {
        let transaction = transaction(spec, request)?;
        let mut env = context.evm_env(spec);
        env.cfg_env.disable_nonce_check = true;
        env.cfg_env.disable_eip3607 = true;
        env.cfg_env.disable_block_gas_limit = true;
        // Only GAS_CAP bounds a call, not what one transaction may use in a block (EIP-7825).
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
        if transaction.gas_price == 0 {
            env.cfg_env.disable_base_fee = true;
            env.block_env.basefee = 0;
        }
        let evm = EthEvmBuilder::new(overlay, env).build();
        Ok(Self { evm, transaction })
    }

    fn run(&mut self, gas_limit: u64) -> Result<CallOutcome, CallError> {
        let transaction = TxEnv { gas_limit, ..self.transaction.clone() };
        let result = self.evm.transact_raw(transaction);
        let missing = self.evm.db_mut().take_missing();
        if !missing.is_empty() {
            return Err(CallError::NeedState(missing));
        }
        match result {
            Ok(executed) => Ok(CallOutcome::of(executed.result)),
            Err(EVMError::Transaction(invalid)) => Err(CallError::Invalid(Box::new(invalid))),
            Err(EVMError::Database(NeedState(key))) => Err(CallError::NeedState(vec![key])),
            Err(error @ (EVMError::Header(_) | EVMError::Custom(_) | EVMError::CustomAny(_))) => {
                Err(CallError::Failed(error.to_string()))
            }
        }
    }

    /// Reads the state that the call runs on.
    fn read<T>(
        &self,
        read: impl FnOnce(&Overlay<R>) -> Result<T, NeedState>,
    ) -> Result<T, CallError> {
        read(self.evm.db()).map_err(|NeedState(key)| CallError::NeedState(vec![key]))
    }
}

/// The request as a transaction, without its gas limit.
fn transaction(spec: &ChainSpec, request: &CallRequest) -> Result<TxEnv, CallError> {
    let dynamic = request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
    if dynamic && request.gas_price.is_some() {
        return Err(CallError::ConflictingFees);
    }
    let authorizations = request.authorization_list.clone().unwrap_or_default();
    let tx_type = if !authorizations.is_empty() {
        EIP7702_TX_TYPE_ID
    } else if dynamic {
        EIP1559_TX_TYPE_ID
    } else if request.access_list.is_some() {
        EIP2930_TX_TYPE_ID
    } else {
        LEGACY_TX_TYPE_ID
    };
    let price = request.gas_price.or(request.max_fee_per_gas).unwrap_or_default();
    let tip = match request.gas_price {
        Some(price) => price,
        None => request.max_priority_fee_per_gas.unwrap_or_default(),
    };
    Ok(TxEnv {
        tx_type,
        caller: request.from.unwrap_or_default(),
        gas_price: price,
        gas_priority_fee: (tx_type >= EIP1559_TX_TYPE_ID).then_some(tip),
        kind: request.to.map_or(TxKind::Create, TxKind::Call),
        value: request.value.unwrap_or_default(),
        data: request.data.clone(),
        nonce: request.nonce.unwrap_or_default(),
        chain_id: Some(spec.chain_id()),
        access_list: request.access_list.clone().unwrap_or_default(),
        authorization_list: authorizations.into_iter().map(Either::Left).collect(),
        ..TxEnv::default()
    })
}

/// A halt in geth's words, where it has them.
pub(crate) fn halt_text(reason: &HaltReason) -> String {
    match reason {
        HaltReason::OutOfGas(_) => "out of gas".to_owned(),
        HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode".to_owned(),
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID".to_owned(),
        HaltReason::OutOfOffset => "return data out of bounds".to_owned(),
        HaltReason::CreateCollision => "contract address collision".to_owned(),
        HaltReason::NonceOverflow => "nonce uint64 overflow".to_owned(),
        HaltReason::CreateContractSizeLimit => "max code size exceeded".to_owned(),
        HaltReason::CreateInitCodeSizeLimit => "max initcode size exceeded".to_owned(),
        HaltReason::CreateContractStartingWithEF => {
            "invalid code: must not begin with 0xef".to_owned()
        }
        HaltReason::StateChangeDuringStaticCall | HaltReason::CallNotAllowedInsideStatic => {
            "write protection".to_owned()
        }
        HaltReason::OutOfFunds => "insufficient balance for transfer".to_owned(),
        HaltReason::CallTooDeep => "max call depth exceeded".to_owned(),
        HaltReason::InvalidJump
        | HaltReason::StackUnderflow
        | HaltReason::StackOverflow
        | HaltReason::PrecompileError
        | HaltReason::PrecompileErrorWithContext(_)
        | HaltReason::OverflowPayment => reason.to_string(),
    }
}
