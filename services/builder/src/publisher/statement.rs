//! What is said once about a session or a promise, and has to be signed.
//!
//! A statement is kept until the signer has signed it, and asked for again while the signer does
//! not answer: it signs identical statements once. It is given up only when it can never be signed
//! (the lease is lost, the signer refuses) or when a whole lease has passed without an answer.

use alloy_primitives::B256;
use preconf_primitives::{AbandonReason, Epoch, Position, Retracted, Seq};
use preconf_signing::SignerRefusalReason;
use preconf_wire::{
    feed::FeedItem,
    signer::{SealSession, SignerClient, SignerError},
};
use tokio::time::Instant;

/// A statement that the signer has not signed yet.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) statement: Statement,
    /// The flashblock that it follows on the feed.
    pub(super) at: Position,
    /// When it is given up.
    pub(super) until: Instant,
}

/// What is said.
#[derive(Debug)]
pub(super) enum Statement {
    /// These transactions are no longer promised.
    Retracted(Retracted),
    /// The session has become this block.
    Sealed { seq: Seq, block_hash: B256, state_root: B256 },
    /// The session has ended without a block.
    Abandoned { seq: Seq, reason: AbandonReason },
}

impl Statement {
    /// The label of metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Retracted(_) => "retracted",
            Self::Sealed { .. } => "sealed",
            Self::Abandoned { .. } => "abandoned",
        }
    }

    /// Has it signed, by the holder of the lease with this epoch.
    pub(super) async fn sign(
        &self,
        signer: &SignerClient,
        epoch: Epoch,
    ) -> Result<FeedItem, SignerError> {
        match self {
            Self::Retracted(retracted) => {
                signer.retract(epoch, retracted).await.map(FeedItem::Retracted)
            }
            Self::Sealed { seq, block_hash, state_root } => {
                let (seq, block_hash, state_root) = (*seq, *block_hash, *state_root);
                let request = SealSession { epoch, seq, block_hash, state_root };
                signer.seal(request).await.map(FeedItem::Sealed)
            }
            Self::Abandoned { seq, reason } => {
                signer.abandon(epoch, *seq, *reason).await.map(FeedItem::Abandoned)
            }
        }
    }
}

/// Why a statement was given up, as the label of metrics.
pub(super) fn cause(error: &SignerError) -> &'static str {
    match error {
        SignerError::Refused(refusal) if refusal.reason == SignerRefusalReason::LeaseLost => {
            LEASE_LOST
        }
        SignerError::Refused(_) => "refused",
        SignerError::Unavailable(_) => "unavailable",
        SignerError::Invalid(_) => "invalid",
    }
}

/// The cause of what is given up without asking.
pub(super) const LEASE_LOST: &str = "lease_lost";
