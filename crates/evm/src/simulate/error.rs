//! Why a simulation has no result, and what its caller is told.

use alloy_evm::{Evm as _, EvmEnv};
use alloy_primitives::Address;
use preconf_state::{Key, StateReader};
use revm::context::TxEnv;

use crate::{
    ExecutionError, TxError,
    call::{CallError, INTERNAL_ERROR, INVALID_PARAMS, InvalidOverride, Refusal},
    executor::{Machine, Watch},
};

/// Why a simulation has no result.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// State is missing from memory.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// There is nothing to simulate.
    #[error("empty input")]
    Empty,
    /// There are more than [`MAX_BLOCKS`](super::MAX_BLOCKS) blocks, gaps included.
    #[error("too many blocks")]
    TooManyBlocks,
    /// A block is not above the one before it.
    #[error("block numbers must be in order: {number} <= {last}")]
    NumberOrder {
        /// The block's number.
        number: u64,
        /// The number of the one before it.
        last: u64,
    },
    /// A block is not later than the one before it.
    #[error("block timestamps must be in order: {timestamp} <= {last}")]
    TimestampOrder {
        /// The block's timestamp.
        timestamp: u64,
        /// The timestamp of the one before it.
        last: u64,
    },
    /// The block has no room for what a call asks for.
    #[error("block gas limit reached: {used} >= {limit}")]
    BlockGasLimit {
        /// The gas that the block has used.
        used: u64,
        /// The most gas it may use.
        limit: u64,
    },
    /// A call cannot be executed.
    #[error("err: {refusal} (supplied gas {gas})")]
    Refused {
        /// Why not.
        refusal: Refusal,
        /// The gas it was given.
        gas: u64,
    },
    /// The chain itself calls this contract in each block, outside of what a request may use.
    #[error("the code of {0}, which the chain itself calls, cannot be overridden")]
    CalledByTheChain(Address),
    /// A call or an override means nothing.
    #[error(transparent)]
    Request(CallError),
    /// A call is not part of its block.
    #[error("executing a call")]
    Transaction(#[source] TxError),
    /// What the chain adds to a block failed.
    #[error("executing a block")]
    Execution(#[source] ExecutionError),
}

impl SimulateError {
    /// The code by which JSON-RPC says it.
    pub fn code(&self) -> i64 {
        match self {
            Self::Empty | Self::CalledByTheChain(_) => INVALID_PARAMS,
            Self::BlockGasLimit { .. } => -38_015,
            Self::NumberOrder { .. } => -38_020,
            Self::TimestampOrder { .. } => -38_021,
            Self::TooManyBlocks => -38_026,
            Self::Refused { refusal, .. } => refusal.code(),
            Self::Request(error) => error.code(),
            Self::NeedState(_) | Self::Transaction(_) | Self::Execution(_) => INTERNAL_ERROR,
        }
    }

    /// Sorts why a transaction is not part of its block.
    pub(super) fn of<R: StateReader, I: Watch<R>>(
        error: TxError,
        form: &TxEnv,
        machine: &Machine<R, I>,
    ) -> Self {
        match error {
            TxError::NeedState(keys) => Self::NeedState(keys),
            TxError::Invalid(invalid) => {
                let env = EvmEnv::new(machine.cfg_env().clone(), machine.block().clone());
                let refusal = Refusal::of(*invalid, form, &env);
                Self::Refused { refusal, gas: form.gas_limit }
            }
            TxError::NonceTooLow { .. }
            | TxError::NonceTooHigh { .. }
            | TxError::ExceedsBlockGas { .. }
            | TxError::ExceedsBlobGas { .. }
            | TxError::Reserved(_)
            | TxError::Fatal(_) => Self::Transaction(error),
        }
    }
}

impl From<CallError> for SimulateError {
    fn from(error: CallError) -> Self {
        if let CallError::NeedState(keys) = error {
            return Self::NeedState(keys);
        }
        Self::Request(error)
    }
}

impl From<InvalidOverride> for SimulateError {
    fn from(error: InvalidOverride) -> Self {
        Self::Request(error.into())
    }
}

impl From<ExecutionError> for SimulateError {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::NeedState(keys) => Self::NeedState(keys),
            error @ ExecutionError::Failed(_) => Self::Execution(error),
        }
    }
}
