//! What the machine says: what it wants done, and what became of what it was given.

use std::sync::Arc;

use alloy_primitives::B256;
use preconf_primitives::{Position, Seq};
use preconf_state::{Key, StateCache};

use crate::{
    execution::Refusal,
    received::Received,
    snapshot::{ExecutedFlashblock, Update},
};

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Connect to the feed again and ask for everything from this position on.
    RequestReplay(Position),
    /// Tell everybody who follows the pending chain.
    Publish(Arc<Update>),
    /// Fetch transactions and receipts of this canonical block and say [`Machine::content`](super::Machine::content).
    FetchCanonical(B256),
}

/// State that the execution waits for. It replaces every need before it.
#[derive(Clone, Debug)]
pub struct Need {
    /// Names it for [`Machine::state_arrived`](super::Machine::state_arrived).
    pub id: u64,
    /// Where it is missing, which is also the block to read it at.
    pub cache: StateCache,
    /// What is missing.
    pub keys: Vec<Key>,
    /// The session that waits for it.
    pub seq: Seq,
}

/// Two contents at one position, or two pasts of one position, both sealed.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What was accepted before at this position, or before it.
    pub known: Option<Received>,
    /// What contradicts it.
    pub other: Received,
}

/// What became of a flashblock.
#[derive(Clone, Debug)]
pub enum Reception {
    /// It is part of its session.
    Accepted,
    /// Its block is canonical already, or its session was forgotten.
    Late,
    /// It was accepted before.
    Duplicate,
    /// A newer session has replaced its own.
    Stale,
    /// It comes after the end of its session.
    AfterLast,
    /// It contradicts what was signed before.
    Equivocation(Box<Evidence>),
    /// What is before it is missing, from this position on.
    Gap(Position),
    /// There is no room for its session.
    NoRoom,
}

impl Reception {
    /// The name used in logs and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::AfterLast => "after_last",
            Self::Equivocation(_) => "equivocation",
            Self::Gap(_) => "gap",
            Self::NoRoom => "no_room",
        }
    }
}

/// What became of a statement about a session.
#[derive(Clone, Debug)]
pub enum StatementReception {
    /// It was taken note of.
    Accepted,
    /// It was known.
    Duplicate,
    /// Nothing is known of its session.
    Unknown,
    /// Flashblocks that it is about are missing, from this position on.
    Gap(Position),
    /// It contradicts the flashblocks of its session.
    Contradiction,
    /// The flashblocks of the session make another block than was sealed.
    Diverged(Refusal),
}

impl StatementReception {
    /// The name used in logs and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Unknown => "unknown",
            Self::Gap(_) => "gap",
            Self::Contradiction => "contradiction",
            Self::Diverged(_) => "diverged",
        }
    }
}

/// What one step of work came to.
#[derive(Clone, Debug)]
pub enum Step {
    /// There is nothing to do until something arrives.
    Idle,
    /// The execution waits for [`Machine::need`](super::Machine::need).
    Waiting,
    /// A session was begun.
    Opened(Seq),
    /// A flashblock was executed.
    Executed(Arc<ExecutedFlashblock>),
    /// A session was executed to its end.
    Closed(Seq),
    /// A session goes no further.
    Refused {
        /// The first flashblock that is not executed.
        position: Position,
        /// Why.
        refusal: Refusal,
    },
}
