//! Feed messages that are not flashblocks, for clients of the sub-protocol.

use alloy_primitives::{B256, FixedBytes};
use preconf_primitives::{
    AbandonReason, Abandoned, Digest, Position, Retracted, Retraction, RetractionCause, Sealed, Seq,
};
use preconf_signing::SignedStatement;
use serde::{Deserialize, Serialize};

use super::FrameError;
use crate::feed::{FeedItem, GoodbyeReason};

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StatementJson {
    Abandoned {
        session: u64,
        block_number: u64,
        last_digest: B256,
        reason: String,
        seal: FixedBytes<96>,
    },
    Sealed {
        session: u64,
        block_number: u64,
        last_digest: B256,
        block_hash: B256,
        state_root: B256,
        seal: FixedBytes<96>,
    },
    Retracted {
        session: u64,
        index: u64,
        block_number: u64,
        retractions: Vec<RetractionJson>,
        seal: FixedBytes<96>,
    },
    Gap {
        wanted: String,
        next: String,
    },
    Goodbye {
        reason: String,
        cursor: Option<String>,
    },
}

#[derive(Serialize, Deserialize)]
struct RetractionJson {
    transaction_hash: B256,
    cause: String,
}

/// Writes a message that is not a flashblock.
pub(super) fn encode(item: &FeedItem) -> String {
    let json = match item {
        FeedItem::Flashblock(signed) => return super::encode_flashblock(signed),
        FeedItem::Abandoned(SignedStatement { statement, seal }) => StatementJson::Abandoned {
            session: statement.seq.get(),
            block_number: statement.block_number,
            last_digest: statement.last_digest.get(),
            reason: statement.reason.as_str().to_owned(),
            seal: *seal,
        },
        FeedItem::Sealed(SignedStatement { statement, seal }) => StatementJson::Sealed {
            session: statement.seq.get(),
            block_number: statement.block_number,
            last_digest: statement.last_digest.get(),
            block_hash: statement.block_hash,
            state_root: statement.state_root,
            seal: *seal,
        },
        FeedItem::Retracted(SignedStatement { statement, seal }) => StatementJson::Retracted {
            session: statement.at.seq.get(),
            index: statement.at.index,
            block_number: statement.block_number,
            retractions: statement.retractions.iter().map(RetractionJson::from).collect(),
            seal: *seal,
        },
        FeedItem::Gap { wanted, next } => {
            StatementJson::Gap { wanted: wanted.to_string(), next: next.to_string() }
        }
        FeedItem::Goodbye { reason, cursor } => StatementJson::Goodbye {
            reason: reason.as_str().to_owned(),
            cursor: cursor.map(|cursor| cursor.to_string()),
        },
    };
    serde_json::to_string(&json).expect("maps with string keys and hex strings always serialise")
}

/// Reads a message that has a `type`.
pub(super) fn decode(json: &[u8]) -> Result<FeedItem, FrameError> {
    let statement: StatementJson = serde_json::from_slice(json).map_err(FrameError::Json)?;
    Ok(match statement {
        StatementJson::Abandoned { session, block_number, last_digest, reason, seal } => {
            let reason = named("reason", reason, AbandonReason::ALL, AbandonReason::as_str)?;
            let seq = Seq::new(session);
            let last_digest = Digest::new(last_digest);
            let statement = Abandoned { seq, block_number, last_digest, reason };
            FeedItem::Abandoned(SignedStatement { statement, seal })
        }
        StatementJson::Sealed {
            session,
            block_number,
            last_digest,
            block_hash,
            state_root,
            seal,
        } => {
            let seq = Seq::new(session);
            let last_digest = Digest::new(last_digest);
            let statement = Sealed { seq, block_number, last_digest, block_hash, state_root };
            FeedItem::Sealed(SignedStatement { statement, seal })
        }
        StatementJson::Retracted { session, index, block_number, retractions, seal } => {
            let retractions =
                retractions.into_iter().map(Retraction::try_from).collect::<Result<_, _>>()?;
            let at = Position::new(Seq::new(session), index);
            let statement = Retracted { at, block_number, retractions };
            FeedItem::Retracted(SignedStatement { statement, seal })
        }
        StatementJson::Gap { wanted, next } => {
            FeedItem::Gap { wanted: cursor("wanted", wanted)?, next: cursor("next", next)? }
        }
        StatementJson::Goodbye { reason, cursor: at } => FeedItem::Goodbye {
            reason: named("reason", reason, GoodbyeReason::ALL, GoodbyeReason::as_str)?,
            cursor: at.map(|at| cursor("cursor", at)).transpose()?,
        },
    })
}

fn cursor(field: &'static str, value: String) -> Result<Position, FrameError> {
    value.parse().map_err(|_| FrameError::Unknown { field, value })
}

fn named<T: Copy, const N: usize>(
    field: &'static str,
    value: String,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, FrameError> {
    let known = all.into_iter().find(|candidate| name(*candidate) == value);
    known.ok_or(FrameError::Unknown { field, value })
}

impl From<&Retraction> for RetractionJson {
    fn from(retraction: &Retraction) -> Self {
        let Retraction { transaction, cause } = *retraction;
        Self { transaction_hash: transaction, cause: cause.as_str().to_owned() }
    }
}

impl TryFrom<RetractionJson> for Retraction {
    type Error = FrameError;

    fn try_from(json: RetractionJson) -> Result<Self, FrameError> {
        let RetractionJson { transaction_hash, cause } = json;
        let cause = named("cause", cause, RetractionCause::ALL, RetractionCause::as_str)?;
        Ok(Self { transaction: transaction_hash, cause })
    }
}
