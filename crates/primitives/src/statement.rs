//! What a sequencer signs besides flashblocks: how a session ended, and what it takes back.

use alloy_primitives::B256;

use crate::{Digest, Position, Seq};

/// A session that ends without a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The session.
    pub seq: Seq,
    /// The block it was building.
    pub block_number: u64,
    /// The digest of its last flashblock; of the session before, if it published none.
    pub last_digest: Digest,
    /// Why it ended.
    pub reason: AbandonReason,
}

/// Why a session ended without a block. The numbers are those on the wire and in the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AbandonReason {
    /// The consensus client chose another head.
    HeadChanged = 1,
    /// The consensus client sent other attributes for the same head.
    AttributesChanged = 2,
    /// The block could not be sealed; the execution client's own payload was handed out.
    SealFailed = 3,
    /// The execution client did not call the head valid.
    HeadNotValid = 4,
    /// Executing the block failed.
    ExecutionFailed = 5,
    /// The signer could not be reached or refused.
    SignerUnavailable = 6,
    /// Another builder holds the lease.
    LeaseLost = 7,
    /// The builder was told to stop.
    Shutdown = 8,
    /// Nobody asked for the block before its deadline.
    Expired = 9,
    /// The builder was told to leave all blocks to the execution client, or told itself so.
    Passthrough = 10,
}

impl AbandonReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::HeadChanged,
        Self::AttributesChanged,
        Self::SealFailed,
        Self::HeadNotValid,
        Self::ExecutionFailed,
        Self::SignerUnavailable,
        Self::LeaseLost,
        Self::Shutdown,
        Self::Expired,
        Self::Passthrough,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// The name used in JSON, logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HeadChanged => "head_changed",
            Self::AttributesChanged => "attributes_changed",
            Self::SealFailed => "seal_failed",
            Self::HeadNotValid => "head_not_valid",
            Self::ExecutionFailed => "execution_failed",
            Self::SignerUnavailable => "signer_unavailable",
            Self::LeaseLost => "lease_lost",
            Self::Shutdown => "shutdown",
            Self::Expired => "expired",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A session whose block was handed to the consensus client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The session.
    pub seq: Seq,
    /// The block.
    pub block_number: u64,
    /// The digest of its last flashblock.
    pub last_digest: Digest,
    /// The hash of the sealed block.
    pub block_hash: B256,
    /// The state root of the sealed block.
    pub state_root: B256,
}

/// Transactions that were preconfirmed and are no longer promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retracted {
    /// The position up to which the feed had come when the sequencer said so.
    pub at: Position,
    /// The block that had promised them.
    pub block_number: u64,
    /// What is taken back, each with its cause.
    pub retractions: Vec<Retraction>,
}

/// One transaction that is no longer promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retraction {
    /// The transaction.
    pub transaction: B256,
    /// Why.
    pub cause: RetractionCause,
}

/// Why a preconfirmed transaction is taken back. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetractionCause {
    /// Another block was chosen in place of the one that promised it.
    BlockReplaced = 1,
    /// It can no longer be executed after what came before it.
    NoLongerValid = 2,
    /// It does not fit into the rebuilt block.
    NoRoom = 3,
    /// It is in the block, with another outcome.
    OutcomeChanged = 4,
}

impl RetractionCause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Self; 4] =
        [Self::BlockReplaced, Self::NoLongerValid, Self::NoRoom, Self::OutcomeChanged];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The cause with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.number() == number)
    }

    /// The name used in JSON, logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlockReplaced => "block_replaced",
            Self::NoLongerValid => "no_longer_valid",
            Self::NoRoom => "no_room",
            Self::OutcomeChanged => "outcome_changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_means_the_reason_that_has_it() {
        for reason in AbandonReason::ALL {
            assert_eq!(AbandonReason::from_number(reason.number()), Some(reason));
        }
        for cause in RetractionCause::ALL {
            assert_eq!(RetractionCause::from_number(cause.number()), Some(cause));
        }
        assert_eq!(AbandonReason::from_number(0), None);
        assert_eq!(RetractionCause::from_number(5), None);
    }
}
