//! Why a call has no answer, and what its caller is told.

use alloy_primitives::Bytes;
use alloy_sol_types::{Panic, Revert, SolError};
use preconf_state::Key;
use revm::context_interface::result::HaltReason;

use super::{InvalidOverride, Refusal};

/// The code of an answer that is a revert, for which wallets look.
pub const REVERTED: i64 = 3;
/// The code of what cannot be done, for the reason in the message.
pub const SERVER_ERROR: i64 = -32_000;
/// The code of what was not understood.
pub const INVALID_PARAMS: i64 = -32_602;
/// The code of our own mistakes.
pub const INTERNAL_ERROR: i64 = -32_603;

/// Why a call has no answer. A call that reverts has one, see
/// [`CallOutcome`](super::CallOutcome); [`CallOutcome::into_output`](super::CallOutcome::into_output)
/// and estimates turn it into an error.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// State is missing from memory.
    #[error("{} keys of state are not in memory", .0.len())]
    NeedState(Vec<Key>),
    /// The two ways to say a price exclude each other.
    #[error("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified")]
    ConflictingFees,
    /// Two fields say what the callee is given, and not the same.
    #[error(
        "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass \
         transaction call data"
    )]
    ConflictingInput,
    /// It is meant for another chain.
    #[error("chainId does not match node's (have={have}, want={want})")]
    WrongChain {
        /// The call's.
        have: u64,
        /// Ours.
        want: u64,
    },
    /// State or block cannot be what the caller wants.
    #[error(transparent)]
    Override(#[from] InvalidOverride),
    /// The call is not a transaction that could be executed.
    #[error("{0}")]
    Refused(Refusal),
    /// The sender cannot pay what the call transfers.
    #[error("insufficient funds for transfer")]
    InsufficientFunds,
    /// The transaction reverts, with this data.
    #[error("{}", revert_text(.0))]
    Reverted(Bytes),
    /// The transaction fails.
    #[error("{}", halt_text(.0))]
    Halted(HaltReason),
    /// The estimated transaction needs more gas than it may have.
    #[error("gas required exceeds allowance ({0})")]
    GasExceedsAllowance(u64),
    /// The executor itself failed.
    #[error("executing the call: {0}")]
    Failed(String),
}

impl CallError {
    /// The code by which JSON-RPC says it.
    pub fn code(&self) -> i64 {
        match self {
            Self::Reverted(_) => REVERTED,
            Self::ConflictingInput => INVALID_PARAMS,
            Self::NeedState(_) | Self::Failed(_) => INTERNAL_ERROR,
            Self::ConflictingFees
            | Self::WrongChain { .. }
            | Self::Override(_)
            | Self::Refused(_)
            | Self::InsufficientFunds
            | Self::Halted(_)
            | Self::GasExceedsAllowance(_) => SERVER_ERROR,
        }
    }

    /// What a revert came with.
    pub fn data(&self) -> Option<&Bytes> {
        if let Self::Reverted(data) = self { Some(data) } else { None }
    }
}

/// A revert in words: with its reason, if it gives one that can be read.
pub fn revert_text(data: &Bytes) -> String {
    let reason = match Revert::abi_decode(data) {
        Ok(revert) => Some(revert.reason),
        Err(_) => Panic::abi_decode(data).ok().map(|panic| panic_text(&panic)),
    };
    match reason {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".to_owned(),
    }
}

/// What the compiler's own checks found, in geth's words.
fn panic_text(panic: &Panic) -> String {
    let reason = match panic.code.saturating_to::<u64>() {
        0x00 => "generic panic",
        0x01 => "assert(false)",
        0x11 => "arithmetic underflow or overflow",
        0x12 => "division or modulo by zero",
        0x21 => "enum overflow",
        0x22 => "invalid encoded storage byte array accessed",
        0x31 => "out-of-bounds array access; popping on an empty array",
        0x32 => "out-of-bounds access of an array or bytesN",
        0x41 => "out of memory",
        0x51 => "uninitialized function",
        _ => return format!("unknown panic code: {:#x}", panic.code),
    };
    reason.to_owned()
}

/// A halt in geth's words, where it has them.
pub(crate) fn halt_text(reason: &HaltReason) -> String {
    match reason {
        HaltReason::OutOfGas(_) => "out of gas".to_owned(),
        HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode".to_owned(),
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID".to_owned(),
        HaltReason::InvalidJump => "invalid jump destination".to_owned(),
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
        HaltReason::StackUnderflow
        | HaltReason::StackOverflow
        | HaltReason::PrecompileError
        | HaltReason::PrecompileErrorWithContext(_)
        | HaltReason::OverflowPayment => reason.to_string(),
    }
}
