//! Berachain's proof-of-liquidity transaction (BRIP-0004).
//!
//! From Prague1 on it is the first transaction of every block: a call by the system that pays the
//! previous block's proposer. Nobody signs it, and any node can build it from the header, so it is
//! checked by comparing hashes.
//!
//! Never decides whether a block must have one, and never executes it.

use alloy_consensus::{InMemorySize, Transaction, Typed2718};
use alloy_eips::{
    eip2718::{Decodable2718, Eip2718Error, Eip2718Result, Encodable2718, IsTyped2718},
    eip2930::AccessList,
    eip4788::SYSTEM_ADDRESS,
    eip7702::SignedAuthorization,
};
use alloy_primitives::{Address, B256, Bytes, ChainId, Sealable, TxKind, U256, hex, keccak256};
use alloy_rlp::{BufMut, Decodable, Encodable, RlpDecodable, RlpEncodable};

use crate::ProposerPublicKey;

/// The type byte of [`PolTx`].
pub const POL_TX_TYPE: u8 = 0x7e;

/// The gas of the call, whatever the block's limit.
pub const POL_GAS_LIMIT: u64 = 30_000_000;

/// `distributeFor(bytes)`.
const DISTRIBUTE_FOR: [u8; 4] = hex!("60644a6b");

/// The proof-of-liquidity transaction, with its fields in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, RlpEncodable, RlpDecodable)]
pub struct PolTx {
    /// The chain.
    pub chain_id: ChainId,
    /// The system.
    pub from: Address,
    /// The distributor, from the chain's configuration.
    pub to: Address,
    /// The number of the block before.
    pub nonce: u64,
    /// [`POL_GAS_LIMIT`].
    pub gas_limit: u64,
    /// The block's base fee.
    pub gas_price: u128,
    /// `distributeFor` of the previous block's proposer.
    pub input: Bytes,
}

impl PolTx {
    /// The one such transaction that the block may hold. There is none in the genesis.
    pub fn for_block(
        chain_id: ChainId,
        distributor: Address,
        block_number: u64,
        base_fee: u64,
        prev_proposer: &ProposerPublicKey,
    ) -> Self {
        Self {
            chain_id,
            from: SYSTEM_ADDRESS,
            to: distributor,
            nonce: block_number.saturating_sub(1),
            gas_limit: POL_GAS_LIMIT,
            gas_price: u128::from(base_fee),
            input: distribute_for(prev_proposer),
        }
    }
}

/// Selector, offset, length, and the key padded to whole words.
fn distribute_for(key: &ProposerPublicKey) -> Bytes {
    const WORD: usize = 32;
    let mut input = [0; 4 + 4 * WORD];
    input[..4].copy_from_slice(&DISTRIBUTE_FOR);
    input[4 + WORD - 1] = 0x20;
    input[4 + 2 * WORD - 1] = 48;
    input[4 + 2 * WORD..][..48].copy_from_slice(key.as_slice());
    Bytes::copy_from_slice(&input)
}

impl Typed2718 for PolTx {
    fn ty(&self) -> u8 {
        POL_TX_TYPE
    }
}

impl IsTyped2718 for PolTx {
    fn is_type(type_id: u8) -> bool {
        type_id == POL_TX_TYPE
    }
}

impl Encodable2718 for PolTx {
    fn encode_2718_len(&self) -> usize {
        1 + self.length()
    }

    fn encode_2718(&self, out: &mut dyn BufMut) {
        out.put_u8(POL_TX_TYPE);
        self.encode(out);
    }
}

impl Decodable2718 for PolTx {
    fn typed_decode(ty: u8, buf: &mut &[u8]) -> Eip2718Result<Self> {
        if ty != POL_TX_TYPE {
            return Err(Eip2718Error::UnexpectedType(ty));
        }
        Ok(Self::decode(buf)?)
    }

    fn fallback_decode(_buf: &mut &[u8]) -> Eip2718Result<Self> {
        Err(Eip2718Error::UnexpectedType(0))
    }
}

impl Sealable for PolTx {
    fn hash_slow(&self) -> B256 {
        keccak256(self.encoded_2718())
    }
}

impl InMemorySize for PolTx {
    fn size(&self) -> usize {
        size_of::<Self>() + self.input.len()
    }
}

impl Transaction for PolTx {
    fn chain_id(&self) -> Option<ChainId> {
        Some(self.chain_id)
    }

    fn nonce(&self) -> u64 {
        self.nonce
    }

    fn gas_limit(&self) -> u64 {
        self.gas_limit
    }

    fn gas_price(&self) -> Option<u128> {
        Some(self.gas_price)
    }

    fn max_fee_per_gas(&self) -> u128 {
        self.gas_price
    }

    fn max_priority_fee_per_gas(&self) -> Option<u128> {
        None
    }

    fn max_fee_per_blob_gas(&self) -> Option<u128> {
        None
    }

    fn priority_fee_or_price(&self) -> u128 {
        self.gas_price
    }

    fn effective_gas_price(&self, _base_fee: Option<u64>) -> u128 {
        self.gas_price
    }

    fn is_dynamic_fee(&self) -> bool {
        false
    }

    fn kind(&self) -> TxKind {
        TxKind::Call(self.to)
    }

    fn is_create(&self) -> bool {
        false
    }

    fn value(&self) -> U256 {
        U256::ZERO
    }

    fn input(&self) -> &Bytes {
        &self.input
    }

    fn access_list(&self) -> Option<&AccessList> {
        None
    }

    fn blob_versioned_hashes(&self) -> Option<&[B256]> {
        None
    }

    fn authorization_list(&self) -> Option<&[SignedAuthorization]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{TxEnvelope, testing::field};

    fn vectors() -> Vec<Value> {
        serde_json::from_str(include_str!("../../testdata/pol_tx.json")).unwrap()
    }

    #[test]
    fn the_frozen_transactions_encode_and_hash_as_upstream() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let transaction = PolTx::for_block(
                field(&vector, "chain_id"),
                field(&vector, "to"),
                field(&vector, "block_number"),
                field(&vector, "gas_price"),
                &field(&vector, "prev_proposer_pubkey"),
            );
            let name = &vector["name"];
            assert_eq!(transaction.from, field::<Address>(&vector, "from"), "{name}");
            assert_eq!(transaction.nonce, field::<u64>(&vector, "nonce"), "{name}");
            assert_eq!(transaction.gas_limit, field::<u64>(&vector, "gas_limit"), "{name}");
            assert_eq!(transaction.input, field::<Bytes>(&vector, "input"), "{name}");
            let raw: Bytes = field(&vector, "raw");
            let envelope = TxEnvelope::from(transaction);
            assert_eq!(envelope.encoded_2718(), raw, "{name}");
            assert_eq!(envelope.encode_2718_len(), raw.len(), "{name}");
            assert_eq!(*envelope.hash(), field::<B256>(&vector, "hash"), "{name}");
            assert_eq!(TxEnvelope::decode_2718_exact(&raw).unwrap(), envelope, "{name}");
        }
    }

    #[test]
    fn another_type_byte_is_refused() {
        let mut raw: Vec<u8> = field::<Bytes>(&vectors()[0], "raw").to_vec();
        raw[0] = 0x7d;
        assert!(TxEnvelope::decode_2718_exact(&raw).is_err());
        assert!(PolTx::decode_2718_exact(&raw).is_err());
    }

    #[test]
    fn a_network_encoding_survives_the_way_through_a_block() {
        let raw: Bytes = field(&vectors()[0], "raw");
        let envelope = TxEnvelope::decode_2718_exact(&raw).unwrap();
        let rlp = alloy_rlp::encode(&envelope);
        assert_eq!(TxEnvelope::decode(&mut rlp.as_slice()).unwrap(), envelope);
    }
}
