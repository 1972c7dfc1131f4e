//! Why an execution stopped. `NeedState` is not a failure: fetch the keys and try again.

use std::error::Error;

use alloy_evm::block::{BlockExecutionError, BlockValidationError};
use alloy_primitives::B256;
use preconf_chain::{HeaderError, Prague3Violation};
use preconf_state::Key;
use revm::context_interface::result::InvalidTransaction;

/// What the block as a whole could not do.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// State is missing from memory. Nothing happened.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// The chain's own contracts failed or the block's environment is incomplete: no transaction
    /// can help, no block can be built here.
    #[error("executing what the chain adds to the block")]
    Failed(#[source] Box<BlockExecutionError>),
}

/// Why a transaction is not part of the block. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum TxError {
    /// State is missing from memory.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// It was executed before, or another one in its place.
    #[error("nonce {tx} is too low, the account is at {state}")]
    NonceTooLow {
        /// The transaction's nonce.
        tx: u64,
        /// The account's nonce.
        state: u64,
    },
    /// An earlier one of the same sender is missing.
    #[error("nonce {tx} is too high, the account is at {state}")]
    NonceTooHigh {
        /// The transaction's nonce.
        tx: u64,
        /// The account's nonce.
        state: u64,
    },
    /// Its gas limit is more than the block has left.
    #[error("gas limit {limit} exceeds the {available} left in the block")]
    ExceedsBlockGas {
        /// The transaction's gas limit.
        limit: u64,
        /// What the block has left.
        available: u64,
    },
    /// Its blobs are more than the block has room for.
    #[error("blob gas {blob_gas} exceeds the {available} left in the block")]
    ExceedsBlobGas {
        /// The transaction's blob gas.
        blob_gas: u64,
        /// What the block has left.
        available: u64,
    },
    /// Only the chain itself makes transactions of this type.
    #[error("transactions of type {0:#04x} cannot be sent")]
    Reserved(u8),
    /// It cannot be executed in this block and this state.
    #[error("the transaction is invalid")]
    Invalid(#[source] Box<InvalidTransaction>),
    /// The executor itself failed.
    #[error("executing the transaction")]
    Fatal(#[source] Box<dyn Error + Send + Sync>),
}

/// Why somebody else's block was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// State is missing from memory. Nothing happened.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// The header does not follow from its parent.
    #[error("the header does not follow from its parent")]
    Header(#[source] HeaderError),
    /// A signature is of nobody.
    #[error("recovering the sender of transaction {index}")]
    Sender {
        /// The transaction's position in the block.
        index: usize,
        /// Why it has no sender.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A transaction cannot be where it is.
    #[error("executing transaction {index} ({hash})")]
    Transaction {
        /// The transaction's position in the block.
        index: usize,
        /// The transaction's hash.
        hash: B256,
        /// What is wrong with it.
        #[source]
        source: TxError,
    },
    /// It has more bytes than its fork allows.
    #[error("the block has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// What its fork allows.
        max: usize,
    },
    /// It moved what may not move.
    #[error("the block breaks the rules of Prague3")]
    Prague3(#[source] Prague3Violation),
    /// What the chain adds to a block failed.
    #[error("executing the block")]
    Execution(#[source] ExecutionError),
    /// The header says something else than the execution.
    #[error("{field} is {claimed} in the header but {computed} by execution")]
    Mismatch {
        /// The header's field.
        field: &'static str,
        /// What the header says.
        claimed: String,
        /// What was found.
        computed: String,
    },
}

impl TxError {
    /// Sorts an executor's error by what its caller can do about it.
    pub(crate) fn from_executor(error: BlockExecutionError) -> Self {
        let refused = match error {
            BlockExecutionError::Validation(refused) => refused,
            failed @ BlockExecutionError::Internal(_) => return Self::Fatal(Box::new(failed)),
        };
        if let BlockValidationError::TransactionGasLimitMoreThanAvailableBlockGas {
            transaction_gas_limit: limit,
            block_available_gas: available,
        } = refused
        {
            return Self::ExceedsBlockGas { limit, available };
        }
        if let BlockValidationError::InvalidTx { error, .. } = &refused
            && let Some(invalid) = error.as_invalid_tx_err()
        {
            return Self::from_invalid(invalid);
        }
        Self::Fatal(Box::new(refused))
    }

    fn from_invalid(invalid: &InvalidTransaction) -> Self {
        if let InvalidTransaction::NonceTooLow { tx, state } = *invalid {
            return Self::NonceTooLow { tx, state };
        }
        if let InvalidTransaction::NonceTooHigh { tx, state } = *invalid {
            return Self::NonceTooHigh { tx, state };
        }
        Self::Invalid(Box::new(invalid.clone()))
    }
}
