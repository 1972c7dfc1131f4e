//! The upstream signature (bera-reth, `BerachainPreconf-v1`).
//!
//! ```text
//! domain  = keccak256("BerachainPreconf-v1" ‖ chain_id u64)
//! tx_hash = keccak256(for each transaction of this flashblock: length u64 ‖ EIP-2718 bytes)
//! message = keccak256(domain ‖ block_number u64 ‖ payload_id[8] ‖ index u64 ‖ tx_hash)
//! ```
//! All integers are big endian. It binds neither the base, nor withdrawals, nor `is_last`, nor the
//! past; the seal does ([`v2`](crate::v2)).

use alloy_primitives::{B256, Bytes, Keccak256, keccak256};
use preconf_primitives::PayloadId;

const DOMAIN: &[u8] = b"BerachainPreconf-v1";

/// The domain of a chain: keeps signatures of one chain from meaning anything on another.
pub fn domain(chain_id: u64) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(DOMAIN);
    hasher.update(chain_id.to_be_bytes());
    hasher.finalize()
}

/// The hash over the transactions of one flashblock.
pub fn transactions_hash(transactions: &[Bytes]) -> B256 {
    let mut hasher = Keccak256::new();
    for transaction in transactions {
        hasher.update((transaction.len() as u64).to_be_bytes());
        hasher.update(transaction);
    }
    hasher.finalize()
}

/// The message that `signature` signs.
pub fn message(
    domain: B256,
    block_number: u64,
    payload_id: PayloadId,
    index: u64,
    transactions_hash: B256,
) -> B256 {
    let mut preimage = [0; 88];
    preimage[..32].copy_from_slice(domain.as_slice());
    preimage[32..40].copy_from_slice(&block_number.to_be_bytes());
    preimage[40..48].copy_from_slice(payload_id.as_slice());
    preimage[48..56].copy_from_slice(&index.to_be_bytes());
    preimage[56..].copy_from_slice(transactions_hash.as_slice());
    keccak256(preimage)
}
