//! The signer's contract: what it is asked, what it answers, and why it refuses (D4).
//!
//! The signer signs structures, never bytes: it computes digests and messages itself, from these.

use std::time::Duration;

use alloy_primitives::B256;
use preconf_primitives::{Digest, Epoch, PayloadId, Position, Seq};

use crate::{PublicKey, Signature, v2::ContentHashes};

/// Who signs, for which chain, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The key.
    pub public_key: PublicKey,
    /// The chain its signatures are for.
    pub chain_id: u64,
    /// The newest epoch.
    pub epoch: Epoch,
    /// The last signed position; `None` before the first.
    pub position: Option<Position>,
    /// The last digest; zero before the first.
    pub digest: Digest,
    /// The number of the newest session; before the first, the one that numbering starts after.
    pub last_seq: Seq,
}

/// The right to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub epoch: Epoch,
    /// How long it lasts from when it was given or renewed.
    pub duration: Duration,
    /// The digest that the first flashblock of the next session names as its parent.
    pub last_digest: Digest,
}

/// Asks for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The lease.
    pub epoch: Epoch,
    /// The block to be built.
    pub block_number: u64,
    /// Its parent.
    pub parent_hash: B256,
    /// The session's id on the wire.
    pub payload_id: PayloadId,
}

/// A session that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSession {
    /// Its number.
    pub seq: Seq,
    /// The digest that index 0 names as its parent.
    pub parent_digest: Digest,
}

/// Asks for the two signatures of a flashblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignFlashblock {
    /// The lease.
    pub epoch: Epoch,
    /// Where it stands.
    pub position: Position,
    /// Its variable parts.
    pub hashes: ContentHashes,
    /// Milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// Whether the session ends here.
    pub is_last: bool,
    /// The digest before.
    pub parent_digest: Digest,
}

/// What was signed at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// The digest.
    pub digest: Digest,
    /// The v1 signature.
    pub signature: Signature,
    /// The v2 seal.
    pub seal: Signature,
}

/// Why the signer refuses. The numbers are those on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SignerRefusalReason {
    /// A higher epoch exists, or the lease ran out.
    LeaseLost = 1,
    /// Somebody else's lease has not run out.
    LeaseHeld = 2,
    /// The limit of sessions for this block number is reached.
    TooManySessions = 3,
    /// The session is not the open one.
    NotOpen = 4,
    /// Another content was signed at this position.
    Equivocation = 5,
    /// The position does not follow the last one.
    OutOfOrder = 6,
    /// The parent digest is not the last one.
    WrongParent = 7,
    /// The session has ended.
    Ended = 8,
    /// The block number is too far above the last sealed one.
    TooFar = 9,
}

impl SignerRefusalReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::LeaseLost,
        Self::LeaseHeld,
        Self::TooManySessions,
        Self::NotOpen,
        Self::Equivocation,
        Self::OutOfOrder,
        Self::WrongParent,
        Self::Ended,
        Self::TooFar,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }

    /// The name used in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeaseLost => "lease_lost",
            Self::LeaseHeld => "lease_held",
            Self::TooManySessions => "too_many_sessions",
            Self::NotOpen => "not_open",
            Self::Equivocation => "equivocation",
            Self::OutOfOrder => "out_of_order",
            Self::WrongParent => "wrong_parent",
            Self::Ended => "ended",
            Self::TooFar => "too_far",
        }
    }
}

/// The signer's refusal, with what it signed instead and what it expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signer refused: {}", .reason.as_str())]
pub struct SignerRefusal {
    /// Why.
    pub reason: SignerRefusalReason,
    /// What was signed at this position instead.
    pub evidence: Option<Box<Signatures>>,
    /// The position it expected.
    pub expected: Option<Position>,
}

impl SignerRefusal {
    /// A refusal without evidence.
    pub const fn new(reason: SignerRefusalReason) -> Self {
        Self { reason, evidence: None, expected: None }
    }
}
