//! Why a transaction is not taken into the sequencer's pool.

use std::fmt;

/// Why a transaction is not taken. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TransactionRefusalReason {
    /// The bytes are not a transaction, or its signature is not valid.
    Malformed = 1,
    /// It is signed for another chain.
    WrongChain = 2,
    /// The pool has it.
    AlreadyKnown = 3,
    /// The sender has used this nonce.
    NonceTooLow = 4,
    /// Too many nonces of the sender are missing before it.
    NonceGapTooLarge = 5,
    /// It pays less than the minimum.
    Underpriced = 6,
    /// It pays too little more than the one it would replace.
    ReplacementUnderpriced = 7,
    /// The sender cannot pay for it.
    InsufficientFunds = 8,
    /// Its gas limit does not cover what every such transaction costs.
    IntrinsicGasTooLow = 9,
    /// Its gas limit is above that of a block.
    GasLimitTooHigh = 10,
    /// This chain, or this pool, does not take its type.
    UnsupportedType = 11,
    /// The pool is full of better ones.
    PoolFull = 12,
    /// It has too many bytes.
    Oversized = 13,
}

impl TransactionRefusalReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::WrongChain,
        Self::AlreadyKnown,
        Self::NonceTooLow,
        Self::NonceGapTooLarge,
        Self::Underpriced,
        Self::ReplacementUnderpriced,
        Self::InsufficientFunds,
        Self::IntrinsicGasTooLow,
        Self::GasLimitTooHigh,
        Self::UnsupportedType,
        Self::PoolFull,
        Self::Oversized,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// The words wallets know from other clients, and the label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "invalid transaction",
            Self::WrongChain => "invalid chain id for signer",
            Self::AlreadyKnown => "already known",
            Self::NonceTooLow => "nonce too low",
            Self::NonceGapTooLarge => "nonce gap too large",
            Self::Underpriced => "transaction underpriced",
            Self::ReplacementUnderpriced => "replacement transaction underpriced",
            Self::InsufficientFunds => "insufficient funds for gas * price + value",
            Self::IntrinsicGasTooLow => "intrinsic gas too low",
            Self::GasLimitTooHigh => "exceeds block gas limit",
            Self::UnsupportedType => "transaction type not supported",
            Self::PoolFull => "txpool is full",
            Self::Oversized => "oversized data",
        }
    }
}

/// A transaction that is not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TransactionRefusal {
    /// Why.
    pub reason: TransactionRefusalReason,
    /// The values that decided, for whoever reads the answer. May be empty.
    pub detail: String,
}

impl TransactionRefusal {
    /// A refusal for `reason` with the values that decided.
    pub fn new(reason: TransactionRefusalReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for TransactionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.as_str())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}
