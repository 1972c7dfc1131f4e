//! What is signed, and how a signature is checked.
//!
//! Two schemes live side by side on every flashblock:
//!
//! * **v1**, the upstream one: `signature` covers chain id, block number, payload id, index and the
//!   transactions of this flashblock ([`v1`]).
//! * **v2**, ours: `seal` covers the [`Digest`](preconf_primitives::Digest) of every field, which
//!   names the digest before it, so that nothing is altered, dropped or reordered unseen ([`v2`]).
//!   The statements that end a session or take something back are sealed the same way.
//!
//! A [`Verified`] value can only be made by checking a signature here; whatever serves or executes
//! flashblocks takes that type. Batching, caching of keys and counting are the caller's.
//!
//! This crate never holds a private key. It computes the messages that the signer signs.

mod bls;
mod contract;
pub mod v1;
pub mod v2;
mod verify;

pub use bls::{BadSignature, InvalidPublicKey, PublicKey, SIGNATURE_DST, Signature};
pub use contract::{
    Head, Lease, OpenSession, OpenedSession, SignFlashblock, Signatures, SignerRefusal,
    SignerRefusalReason,
};
pub use verify::{Checked, Refusal, SignedFlashblock, SignedStatement, Verified, Verifier};
