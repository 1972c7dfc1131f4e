//! What the machine decides, and what it records.

use alloy_primitives::B256;
use preconf_primitives::{Abandoned, Digest, Epoch, PayloadId, Position, Sealed, Seq, Session};
use preconf_signing::{SignerRefusalReason, v2::Content};

use super::{Checkpoint, Grant};

/// What comes of a request that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// It is new: commit it before anything that was made of it leaves.
    New(T),
    /// It was recorded before, with the same content.
    Known(T),
}

impl<T> Decision<T> {
    /// What was decided.
    pub const fn get(&self) -> &T {
        match self {
            Self::New(record) | Self::Known(record) => record,
        }
    }

    /// What was decided, giving up whether it is new.
    pub fn into_inner(self) -> T {
        match self {
            Self::New(record) | Self::Known(record) => record,
        }
    }
}

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: SignerRefusalReason,
    /// What is recorded instead, or what the refusal follows from.
    pub evidence: Option<Box<Entry>>,
    /// The position that could have been signed.
    pub expected: Option<Position>,
}

impl Refused {
    /// A refusal that its reason explains.
    pub const fn new(reason: SignerRefusalReason) -> Self {
        Self { reason, evidence: None, expected: None }
    }
}

/// A flashblock on record: what its two signatures are computed from, and how it is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Session and index.
    pub position: Position,
    /// The block that the session builds.
    pub block_number: u64,
    /// The session's id on the wire.
    pub payload_id: PayloadId,
    /// The hash of its transactions.
    pub transactions: B256,
    /// The digest before.
    pub parent_digest: Digest,
    /// Its digest.
    pub digest: Digest,
    /// Whether the session ends here.
    pub is_last: bool,
}

impl Entry {
    /// The entry of a flashblock with this content.
    pub fn of(content: &Content) -> Self {
        Self {
            position: content.position,
            block_number: content.block_number,
            payload_id: content.payload_id,
            transactions: content.hashes.transactions,
            parent_digest: content.parent_digest,
            digest: content.digest(),
            is_last: content.is_last,
        }
    }
}

/// A session on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub session: Session,
    /// The digest that its index 0 names as its parent.
    pub parent_digest: Digest,
}

/// A list of retractions on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetractionList {
    /// The digest of the list.
    pub digest: Digest,
}

/// One line of the record. Committing all of them in order leads to the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A lease was given, renewed or given back.
    Lease(Grant),
    /// A session was opened.
    Session(Opened),
    /// A flashblock is signed.
    Flashblock(Entry),
    /// A session ended without a block.
    Abandoned(Abandoned),
    /// A session ended with a block.
    Sealed(Sealed),
    /// Transactions are taken back.
    Retracted(RetractionList),
    /// All that the records before it led to, and do not say themselves.
    Checkpoint(Checkpoint),
}

/// A record that cannot follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// An epoch below the newest.
    #[error("epoch {epoch} was given after {newest}")]
    Epoch {
        /// What is recorded.
        epoch: Epoch,
        /// The newest epoch before.
        newest: Epoch,
    },
    /// A session number that is not above all others.
    #[error("session {seq} was opened after {newest}")]
    Session {
        /// What is recorded.
        seq: Seq,
        /// The newest session before.
        newest: Seq,
    },
    /// Something happened in a session that another one had followed.
    #[error("session {0} is not the newest")]
    NotNewest(Seq),
    /// Something happened in a session after it was sealed or abandoned.
    #[error("session {0} has ended")]
    Ended(Seq),
    /// A position other than the next one.
    #[error("{found} was signed where {expected} follows")]
    Hole {
        /// What is recorded.
        found: Position,
        /// The position after the last one.
        expected: Position,
    },
    /// A flashblock that does not follow the one before.
    #[error("{0} does not follow what was signed before")]
    Order(Position),
}

impl From<Grant> for Record {
    fn from(grant: Grant) -> Self {
        Self::Lease(grant)
    }
}

impl From<Opened> for Record {
    fn from(opened: Opened) -> Self {
        Self::Session(opened)
    }
}

impl From<Entry> for Record {
    fn from(entry: Entry) -> Self {
        Self::Flashblock(entry)
    }
}

impl From<Abandoned> for Record {
    fn from(abandoned: Abandoned) -> Self {
        Self::Abandoned(abandoned)
    }
}

impl From<Sealed> for Record {
    fn from(sealed: Sealed) -> Self {
        Self::Sealed(sealed)
    }
}

impl From<RetractionList> for Record {
    fn from(list: RetractionList) -> Self {
        Self::Retracted(list)
    }
}
