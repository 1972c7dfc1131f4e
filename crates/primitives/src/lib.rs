//! The nouns both sides of every wire believe in.
//!
//! A sequencer opens a [`Session`] for the block it builds and publishes that block in signed
//! pieces, the [`Flashblock`]s. Each stands at one [`Position`]; positions are totally ordered, and
//! [`Progress::succession`] is the one rule that says what a flashblock is to a reader who has
//! accepted others before it.
//!
//! The types here cannot hold a value that breaks the protocol. This crate never does IO, never
//! reads a clock, and names neither serde nor prost: how a flashblock is written down is the
//! business of `wire`, and what a signature over it means is the business of `signing`.

mod flashblock;
mod position;
mod statement;
mod submission;
mod succession;
mod traceparent;

pub use flashblock::{
    Base, CUT_BYTES, Flashblock, FlashblockParts, InvalidFlashblock, MAX_EXTRA_DATA_BYTES,
    MAX_FLASHBLOCK_TRANSACTION_BYTES, MAX_FLASHBLOCK_TRANSACTIONS, MAX_WITHDRAWALS, Opening,
    PublicKeyBytes, Withdrawal,
};
pub use position::{Digest, Epoch, MAX_INDEX, PayloadId, Position, Seq, Session};
pub use statement::{AbandonReason, Abandoned, Retracted, Retraction, RetractionCause, Sealed};
pub use submission::{TransactionRefusal, TransactionRefusalReason};
pub use succession::{Arrival, Progress, Succession};
pub use traceparent::{InvalidTraceparent, Traceparent};
