//! The id under which a Berachain execution client builds a payload.
//!
//! It is the first 8 bytes of the SHA-256 of the parent and of what the consensus client asked for,
//! so one request has one id, and who knows the id can check the request. No version is mixed in.
//! What was hashed changed between revisions; [`PayloadIdInput::variants`] has them all.
//!
//! Never binds the block's own gas limit, its base fee or its extra data, and only to 64 bits.

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B64, B256};
use sha2::{Digest, Sha256};

use crate::ProposerPublicKey;

/// What a payload id is computed from. What is absent is not hashed; an empty list of withdrawals
/// is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadIdInput<'a> {
    /// The hash of the parent.
    pub parent_hash: B256,
    /// The time of the block, in seconds.
    pub timestamp: u64,
    /// The beacon chain's randomness.
    pub prev_randao: B256,
    /// Who gets the tips.
    pub fee_recipient: Address,
    /// The withdrawals; since Shanghai.
    pub withdrawals: Option<&'a [Withdrawal]>,
    /// The root of the parent's beacon block; since Cancun.
    pub parent_beacon_block_root: Option<B256>,
    /// The gas limit that the consensus client wants to arrive at, if it named one.
    pub target_gas_limit: Option<u64>,
    /// The key of the previous block's proposer; since Prague1.
    pub prev_proposer_pubkey: Option<&'a ProposerPublicKey>,
}

/// Which revisions of the execution client compute an id in which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadIdVariant {
    /// The newest: everything that is there.
    Full,
    /// Those that do not know a target gas limit, or were not told one.
    WithoutGasLimit,
    /// The oldest, as Ethereum's: without the proposer's key.
    Ethereum,
}

impl PayloadIdVariant {
    /// All of them, the newest first.
    pub const ALL: [Self; 3] = [Self::Full, Self::WithoutGasLimit, Self::Ethereum];
}

impl PayloadIdInput<'_> {
    /// The id as the newest revision computes it.
    pub fn id(&self) -> B64 {
        self.id_as(PayloadIdVariant::Full)
    }

    /// The id as one revision computes it.
    pub fn id_as(&self, variant: PayloadIdVariant) -> B64 {
        let (target_gas_limit, key) = match variant {
            PayloadIdVariant::Full => (self.target_gas_limit, self.prev_proposer_pubkey),
            PayloadIdVariant::WithoutGasLimit => (None, self.prev_proposer_pubkey),
            PayloadIdVariant::Ethereum => (None, None),
        };
        let mut hash = Sha256::new();
        hash.update(self.parent_hash);
        hash.update(self.timestamp.to_be_bytes());
        hash.update(self.prev_randao);
        hash.update(self.fee_recipient);
        if let Some(withdrawals) = self.withdrawals {
            let mut list = Vec::new();
            alloy_rlp::encode_list(withdrawals, &mut list);
            hash.update(list);
        }
        if let Some(root) = self.parent_beacon_block_root {
            hash.update(root);
        }
        if let Some(gas_limit) = target_gas_limit {
            hash.update([1]);
            hash.update(gas_limit.to_be_bytes());
        }
        if let Some(key) = key {
            hash.update(key);
        }
        B64::from_slice(&hash.finalize()[..B64::len_bytes()])
    }

    /// Every id that some revision computes, the newest first. Two are equal where what tells them
    /// apart is absent.
    pub fn variants(&self) -> impl Iterator<Item = (PayloadIdVariant, B64)> {
        PayloadIdVariant::ALL.into_iter().map(|variant| (variant, self.id_as(variant)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::field;

    struct Vector {
        withdrawals: Option<Vec<Withdrawal>>,
        key: Option<ProposerPublicKey>,
        json: Value,
    }

    impl Vector {
        fn input(&self) -> PayloadIdInput<'_> {
            PayloadIdInput {
                parent_hash: field(&self.json, "parent"),
                timestamp: field(&self.json, "timestamp"),
                prev_randao: field(&self.json, "prev_randao"),
                fee_recipient: field(&self.json, "fee_recipient"),
                withdrawals: self.withdrawals.as_deref(),
                parent_beacon_block_root: field(&self.json, "parent_beacon_block_root"),
                target_gas_limit: field(&self.json, "target_gas_limit"),
                prev_proposer_pubkey: self.key.as_ref(),
            }
        }
    }

    fn vectors() -> Vec<Vector> {
        let vectors: Vec<Value> =
            serde_json::from_str(include_str!("../testdata/payload_id.json")).unwrap();
        vectors
            .into_iter()
            .map(|json| Vector {
                withdrawals: field(&json, "withdrawals"),
                key: field(&json, "prev_proposer_pubkey"),
                json,
            })
            .collect()
    }

    #[test]
    fn the_frozen_ids_are_those_of_upstream() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 6);
        for vector in vectors {
            let name = &vector.json["name"];
            assert_eq!(vector.input().id(), field::<B64>(&vector.json, "payload_id"), "{name}");
        }
    }

    #[test]
    fn an_older_revision_does_not_see_what_it_does_not_know() {
        let vectors = vectors();
        let ([.., with_key, newest], [.., without_key, _, _]) = (&vectors[..], &vectors[..]) else {
            panic!("too few vectors")
        };
        let newest = newest.input();
        assert_eq!(newest.id_as(PayloadIdVariant::WithoutGasLimit), with_key.input().id());
        let oldest = PayloadIdInput { withdrawals: Some(&[]), ..newest };
        assert_eq!(oldest.id_as(PayloadIdVariant::Ethereum), without_key.input().id());
    }

    #[test]
    fn the_variants_of_a_whole_request_differ() {
        let vectors = vectors();
        let mut ids: Vec<B64> = vectors[5].input().variants().map(|(_, id)| id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }
}
