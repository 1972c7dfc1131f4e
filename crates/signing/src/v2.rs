//! The seal: one signature over everything a flashblock says, and over all before it.
//!
//! ```text
//! message = keccak256(keccak256("PreconfSeal-v2" ‖ chain_id u64) ‖ digest)
//!
//! digest of a flashblock = keccak256("PreconfFlashblock-v2" ‖ seq u64 ‖ index u64 ‖ block_number u64
//!     ‖ payload_id[8] ‖ base_hash ‖ tx_hash ‖ withdrawals_hash ‖ is_last u8 ‖ published_at_ms u64
//!     ‖ keccak256(traceparent) ‖ parent_digest)
//! digest of an abandon   = keccak256("PreconfAbandon-v2" ‖ seq u64 ‖ block_number u64 ‖ reason u8
//!     ‖ last_digest)
//! digest of a sealed     = keccak256("PreconfSealed-v2" ‖ seq u64 ‖ block_number u64 ‖ last_digest
//!     ‖ block_hash ‖ state_root)
//! digest of a retraction = keccak256("PreconfRetract-v2" ‖ seq u64 ‖ index u64 ‖ block_number u64
//!     ‖ for each: transaction_hash ‖ cause u8)
//! ```
//! All integers are big endian. `base_hash` is keccak256 of the RLP list of base's fields in wire
//! order, an absent public key as the empty string; it is zero where there is no base.
//! `withdrawals_hash` is keccak256 of the RLP list of `[index, validator_index, address, amount]`.
//! `tx_hash` is that of [`v1`](crate::v1). An absent traceparent is the empty string.
//! `parent_digest` is the digest of index − 1; at index 0, the last digest of the session before.

use alloy_primitives::{B256, Keccak256, keccak256};
use alloy_rlp::{Encodable, Header};
use preconf_primitives::{
    Abandoned, Base, Digest, Flashblock, PayloadId, Position, Retracted, Sealed, Seq, Traceparent,
    Withdrawal,
};

use crate::v1;

/// The hashes by which a flashblock's variable parts enter its digest.
///
/// The signer receives these instead of the parts, and computes the digest itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHashes {
    /// [`base_hash`], or zero.
    pub base: B256,
    /// [`v1::transactions_hash`].
    pub transactions: B256,
    /// [`withdrawals_hash`].
    pub withdrawals: B256,
    /// [`traceparent_hash`].
    pub traceparent: B256,
}

impl ContentHashes {
    /// The hashes of a flashblock's parts.
    pub fn of(flashblock: &Flashblock) -> Self {
        let opening = flashblock.opening();
        Self {
            base: opening.map_or(B256::ZERO, |opening| base_hash(&opening.base)),
            transactions: v1::transactions_hash(flashblock.transactions()),
            withdrawals: withdrawals_hash(opening.map_or(&[], |opening| &opening.withdrawals)),
            traceparent: traceparent_hash(flashblock.traceparent()),
        }
    }
}

/// Everything a flashblock's digest is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Session and index.
    pub position: Position,
    /// The block that the session builds.
    pub block_number: u64,
    /// The session's id on the wire.
    pub payload_id: PayloadId,
    /// The variable parts.
    pub hashes: ContentHashes,
    /// Whether the session ends here.
    pub is_last: bool,
    /// Milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// The digest before.
    pub parent_digest: Digest,
}

impl Content {
    /// The content of a flashblock.
    pub fn of(flashblock: &Flashblock) -> Self {
        Self {
            position: flashblock.position(),
            block_number: flashblock.block_number(),
            payload_id: flashblock.payload_id(),
            hashes: ContentHashes::of(flashblock),
            is_last: flashblock.is_last(),
            published_at_ms: flashblock.published_at_ms(),
            parent_digest: flashblock.parent_digest(),
        }
    }

    /// The digest.
    pub fn digest(&self) -> Digest {
        let mut hasher = Keccak256::new();
        hasher.update(b"PreconfFlashblock-v2");
        update_position(&mut hasher, self.position);
        hasher.update(self.block_number.to_be_bytes());
        hasher.update(self.payload_id);
        hasher.update(self.hashes.base);
        hasher.update(self.hashes.transactions);
        hasher.update(self.hashes.withdrawals);
        hasher.update([u8::from(self.is_last)]);
        hasher.update(self.published_at_ms.to_be_bytes());
        hasher.update(self.hashes.traceparent);
        hasher.update(self.parent_digest.get());
        Digest::new(hasher.finalize())
    }
}

/// The digest of a flashblock.
pub fn flashblock_digest(flashblock: &Flashblock) -> Digest {
    Content::of(flashblock).digest()
}

/// The digest of a session's end without a block.
pub fn abandoned_digest(abandoned: &Abandoned) -> Digest {
    let Abandoned { seq, block_number, last_digest, reason } = abandoned;
    let mut hasher = Keccak256::new();
    hasher.update(b"PreconfAbandon-v2");
    update_session(&mut hasher, *seq, *block_number);
    hasher.update([reason.number()]);
    hasher.update(last_digest.get());
    Digest::new(hasher.finalize())
}

/// The digest of a session's end with a block.
pub fn sealed_digest(sealed: &Sealed) -> Digest {
    let Sealed { seq, block_number, last_digest, block_hash, state_root } = sealed;
    let mut hasher = Keccak256::new();
    hasher.update(b"PreconfSealed-v2");
    update_session(&mut hasher, *seq, *block_number);
    hasher.update(last_digest.get());
    hasher.update(block_hash);
    hasher.update(state_root);
    Digest::new(hasher.finalize())
}

/// The digest of a list of retractions.
pub fn retracted_digest(retracted: &Retracted) -> Digest {
    let Retracted { at, block_number, retractions } = retracted;
    let mut hasher = Keccak256::new();
    hasher.update(b"PreconfRetract-v2");
    update_position(&mut hasher, *at);
    hasher.update(block_number.to_be_bytes());
    for retraction in retractions {
        hasher.update(retraction.transaction);
        hasher.update([retraction.cause.number()]);
    }
    Digest::new(hasher.finalize())
}

/// The domain of a chain's seals.
pub fn domain(chain_id: u64) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(b"PreconfSeal-v2");
    hasher.update(chain_id.to_be_bytes());
    hasher.finalize()
}

/// The message that a seal over `digest` signs.
pub fn message(domain: B256, digest: Digest) -> B256 {
    let mut preimage = [0; 64];
    preimage[..32].copy_from_slice(domain.as_slice());
    preimage[32..].copy_from_slice(digest.get().as_slice());
    keccak256(preimage)
}

/// keccak256 of the RLP list of base's fields in wire order.
pub fn base_hash(base: &Base) -> B256 {
    let Base {
        parent_beacon_block_root,
        parent_hash,
        fee_recipient,
        prev_randao,
        block_number,
        gas_limit,
        timestamp,
        extra_data,
        base_fee_per_gas,
        prev_proposer_pubkey,
    } = base;
    let public_key: &[u8] = prev_proposer_pubkey.as_ref().map_or(&[], |key| key.as_slice());
    let fields: [&dyn Encodable; 10] = [
        parent_beacon_block_root,
        parent_hash,
        fee_recipient,
        prev_randao,
        block_number,
        gas_limit,
        timestamp,
        extra_data,
        base_fee_per_gas,
        &public_key,
    ];
    keccak256(rlp_list(&fields))
}

/// keccak256 of the RLP list of the withdrawals.
pub fn withdrawals_hash(withdrawals: &[Withdrawal]) -> B256 {
    let items: Vec<Vec<u8>> = withdrawals
        .iter()
        .map(|withdrawal| {
            let Withdrawal { index, validator_index, address, amount_gwei } = withdrawal;
            rlp_list(&[index, validator_index, address, amount_gwei])
        })
        .collect();
    let payload = items.concat();
    let mut out = Vec::with_capacity(payload.len() + 4);
    Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend_from_slice(&payload);
    keccak256(out)
}

/// keccak256 of the traceparent's text, of nothing where there is none.
pub fn traceparent_hash(traceparent: Option<&Traceparent>) -> B256 {
    keccak256(traceparent.map_or("", Traceparent::as_str))
}

fn rlp_list(fields: &[&dyn Encodable]) -> Vec<u8> {
    let payload_length = fields.iter().map(|field| field.length()).sum();
    let mut out = Vec::with_capacity(payload_length + 4);
    Header { list: true, payload_length }.encode(&mut out);
    for field in fields {
        field.encode(&mut out);
    }
    out
}

fn update_position(hasher: &mut Keccak256, position: Position) {
    hasher.update(position.seq.get().to_be_bytes());
    hasher.update(position.index.to_be_bytes());
}

fn update_session(hasher: &mut Keccak256, seq: Seq, block_number: u64) {
    hasher.update(seq.get().to_be_bytes());
    hasher.update(block_number.to_be_bytes());
}
