//! The header of either chain.
//!
//! Decides the order of the fields in RLP, and with it the block hash. The fields after `nonce`
//! came with forks, each behind the one before, so a header is a list of 15 to 22 items. Ethereum
//! has 21 of them; the 22nd is Berachain's key of the previous block's proposer.
//!
//! Never decides which of them a block must have: that is [`crate::ChainSpec::validate_header`].

use alloy_consensus::{BlockHeader, InMemorySize, constants::EMPTY_OMMER_ROOT_HASH};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, FixedBytes, Sealable, U256, keccak256};
use alloy_rlp::{Decodable, RlpEncodable};
use alloy_trie::EMPTY_ROOT_HASH;
use serde::{Deserialize, Serialize};

/// A compressed BLS public key of a proposer.
pub type ProposerPublicKey = FixedBytes<48>;

/// A block's header.
///
/// In JSON it has the names of `eth_getBlockByNumber`. A `None` before a `Some` is not a header of
/// any fork; it can be hashed, and the hash is that of no block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, RlpEncodable)]
#[serde(rename_all = "camelCase")]
#[rlp(trailing)]
pub struct Header {
    /// The hash of the block before.
    pub parent_hash: B256,
    /// The hash of the list of ommers; empty since the merge.
    #[serde(rename = "sha3Uncles")]
    pub ommers_hash: B256,
    /// Who gets the tips.
    #[serde(rename = "miner")]
    pub beneficiary: Address,
    /// The root of the state after the block.
    pub state_root: B256,
    /// The root of the transactions.
    pub transactions_root: B256,
    /// The root of the receipts.
    pub receipts_root: B256,
    /// The bloom filter over the logs.
    pub logs_bloom: Bloom,
    /// Zero since the merge.
    pub difficulty: U256,
    /// How many blocks came before.
    #[serde(with = "alloy_serde::quantity")]
    pub number: u64,
    /// How much gas the block may use.
    #[serde(with = "alloy_serde::quantity")]
    pub gas_limit: u64,
    /// How much gas it used.
    #[serde(with = "alloy_serde::quantity")]
    pub gas_used: u64,
    /// Seconds since 1970.
    #[serde(with = "alloy_serde::quantity")]
    pub timestamp: u64,
    /// Up to 32 bytes of the builder's choice.
    pub extra_data: Bytes,
    /// The beacon chain's randomness since the merge.
    pub mix_hash: B256,
    /// Zero since the merge.
    pub nonce: B64,
    /// What each unit of gas costs, burned; since London.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub base_fee_per_gas: Option<u64>,
    /// The root of the withdrawals; since Shanghai.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawals_root: Option<B256>,
    /// The blob gas of the block's transactions; since Cancun.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub blob_gas_used: Option<u64>,
    /// What the blocks before used above the target; since Cancun.
    #[serde(default, with = "alloy_serde::quantity::opt", skip_serializing_if = "Option::is_none")]
    pub excess_blob_gas: Option<u64>,
    /// The root of the parent's beacon block; since Cancun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_beacon_block_root: Option<B256>,
    /// The hash of the requests to the consensus layer; since Prague.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_hash: Option<B256>,
    /// The key of the previous block's proposer; on Berachain, since Prague1.
    #[serde(
        default,
        rename = "parentProposerPubkey",
        alias = "prevProposerPubkey",
        skip_serializing_if = "Option::is_none"
    )]
    pub prev_proposer_pubkey: Option<ProposerPublicKey>,
}

impl Header {
    /// The block hash, computed anew.
    pub fn hash_slow(&self) -> B256 {
        keccak256(alloy_rlp::encode(self))
    }
}

impl Default for Header {
    /// The header of an empty block without any fork's fields.
    fn default() -> Self {
        Self {
            parent_hash: B256::ZERO,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: Address::ZERO,
            state_root: EMPTY_ROOT_HASH,
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: EMPTY_ROOT_HASH,
            logs_bloom: Bloom::ZERO,
            difficulty: U256::ZERO,
            number: 0,
            gas_limit: 0,
            gas_used: 0,
            timestamp: 0,
            extra_data: Bytes::new(),
            mix_hash: B256::ZERO,
            nonce: B64::ZERO,
            base_fee_per_gas: None,
            withdrawals_root: None,
            blob_gas_used: None,
            excess_blob_gas: None,
            parent_beacon_block_root: None,
            requests_hash: None,
            prev_proposer_pubkey: None,
        }
    }
}

/// Written by hand because the derived decoder takes the number zero, 0x80, for an absent field.
impl Decodable for Header {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let mut payload = alloy_rlp::Header::decode_bytes(buf, true)?;
        let rest = &mut payload;
        let header = Self {
            parent_hash: Decodable::decode(rest)?,
            ommers_hash: Decodable::decode(rest)?,
            beneficiary: Decodable::decode(rest)?,
            state_root: Decodable::decode(rest)?,
            transactions_root: Decodable::decode(rest)?,
            receipts_root: Decodable::decode(rest)?,
            logs_bloom: Decodable::decode(rest)?,
            difficulty: Decodable::decode(rest)?,
            number: Decodable::decode(rest)?,
            gas_limit: Decodable::decode(rest)?,
            gas_used: Decodable::decode(rest)?,
            timestamp: Decodable::decode(rest)?,
            extra_data: Decodable::decode(rest)?,
            mix_hash: Decodable::decode(rest)?,
            nonce: Decodable::decode(rest)?,
            base_fee_per_gas: decode_trailing(rest)?,
            withdrawals_root: decode_trailing(rest)?,
            blob_gas_used: decode_trailing(rest)?,
            excess_blob_gas: decode_trailing(rest)?,
            parent_beacon_block_root: decode_trailing(rest)?,
            requests_hash: decode_trailing(rest)?,
            prev_proposer_pubkey: decode_trailing(rest)?,
        };
        if !rest.is_empty() {
            return Err(alloy_rlp::Error::UnexpectedLength);
        }
        Ok(header)
    }
}

fn decode_trailing<T: Decodable>(payload: &mut &[u8]) -> alloy_rlp::Result<Option<T>> {
    if payload.is_empty() { Ok(None) } else { T::decode(payload).map(Some) }
}

impl Sealable for Header {
    fn hash_slow(&self) -> B256 {
        Self::hash_slow(self)
    }
}

impl InMemorySize for Header {
    fn size(&self) -> usize {
        size_of::<Self>() + self.extra_data.len()
    }
}

impl AsRef<Self> for Header {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl reth_primitives_traits::BlockHeader for Header {}

impl BlockHeader for Header {
    fn parent_hash(&self) -> B256 {
        self.parent_hash
    }

    fn ommers_hash(&self) -> B256 {
        self.ommers_hash
    }

    fn beneficiary(&self) -> Address {
        self.beneficiary
    }

    fn state_root(&self) -> B256 {
        self.state_root
    }

    fn transactions_root(&self) -> B256 {
        self.transactions_root
    }

    fn receipts_root(&self) -> B256 {
        self.receipts_root
    }

    fn withdrawals_root(&self) -> Option<B256> {
        self.withdrawals_root
    }

    fn logs_bloom(&self) -> Bloom {
        self.logs_bloom
    }

    fn difficulty(&self) -> U256 {
        self.difficulty
    }

    fn number(&self) -> u64 {
        self.number
    }

    fn gas_limit(&self) -> u64 {
        self.gas_limit
    }

    fn gas_used(&self) -> u64 {
        self.gas_used
    }

    fn timestamp(&self) -> u64 {
        self.timestamp
    }

    fn mix_hash(&self) -> Option<B256> {
        Some(self.mix_hash)
    }

    fn nonce(&self) -> Option<B64> {
        Some(self.nonce)
    }

    fn base_fee_per_gas(&self) -> Option<u64> {
        self.base_fee_per_gas
    }

    fn blob_gas_used(&self) -> Option<u64> {
        self.blob_gas_used
    }

    fn excess_blob_gas(&self) -> Option<u64> {
        self.excess_blob_gas
    }

    fn parent_beacon_block_root(&self) -> Option<B256> {
        self.parent_beacon_block_root
    }

    fn requests_hash(&self) -> Option<B256> {
        self.requests_hash
    }

    fn block_access_list_hash(&self) -> Option<B256> {
        None
    }

    fn slot_number(&self) -> Option<u64> {
        None
    }

    fn extra_data(&self) -> &Bytes {
        &self.extra_data
    }
}

#[cfg(test)]
mod tests {
    use alloy_rlp::{Encodable, Header as RlpHeader};
    use serde_json::Value;

    use super::*;
    use crate::testing::{chain, field};

    fn frozen() -> (Header, Value) {
        let vectors: Vec<Value> =
            serde_json::from_str(include_str!("../testdata/header.json")).unwrap();
        let fields = &vectors[0]["fields"];
        let number = |name| field::<u64>(fields, name);
        let hash = |name| field::<B256>(fields, name);
        let header = Header {
            parent_hash: hash("parent_hash"),
            ommers_hash: hash("ommers_hash"),
            beneficiary: field(fields, "beneficiary"),
            state_root: hash("state_root"),
            transactions_root: hash("transactions_root"),
            receipts_root: hash("receipts_root"),
            logs_bloom: Bloom::ZERO,
            difficulty: U256::from(number("difficulty")),
            number: number("number"),
            gas_limit: number("gas_limit"),
            gas_used: number("gas_used"),
            timestamp: number("timestamp"),
            extra_data: field(fields, "extra_data"),
            mix_hash: hash("mix_hash"),
            nonce: field(fields, "nonce"),
            base_fee_per_gas: Some(number("base_fee_per_gas")),
            withdrawals_root: Some(hash("withdrawals_root")),
            blob_gas_used: Some(number("blob_gas_used")),
            excess_blob_gas: Some(number("excess_blob_gas")),
            parent_beacon_block_root: Some(hash("parent_beacon_block_root")),
            requests_hash: Some(hash("requests_hash")),
            prev_proposer_pubkey: Some(field(fields, "prev_proposer_pubkey")),
        };
        (header, vectors[0].clone())
    }

    /// The RLP list of a header's items with another one behind them.
    fn with_item(header: &Header, item: &[u8]) -> Vec<u8> {
        let encoded = alloy_rlp::encode(header);
        let items = RlpHeader::decode_bytes(&mut encoded.as_slice(), true).unwrap();
        let mut payload = items.to_vec();
        item.encode(&mut payload);
        let mut list = Vec::new();
        RlpHeader { list: true, payload_length: payload.len() }.encode(&mut list);
        list.extend(payload);
        list
    }

    #[test]
    fn the_frozen_header_encodes_and_hashes_as_upstream() {
        let (header, vector) = frozen();
        let rlp: Bytes = field(&vector, "rlp");
        assert_eq!(alloy_rlp::encode(&header), rlp);
        assert_eq!(header.length(), rlp.len());
        assert_eq!(Header::decode(&mut rlp.as_ref()).unwrap(), header);
        assert_eq!(header.hash_slow(), field::<B256>(&vector, "hash"));
    }

    #[test]
    fn without_the_proposers_key_the_hash_is_that_of_21_fields() {
        let (header, vector) = frozen();
        let header = Header { prev_proposer_pubkey: None, ..header };
        assert_eq!(header.hash_slow(), field::<B256>(&vector, "hash_without_pubkey_21_fields"));
        let rlp = alloy_rlp::encode(&header);
        assert_eq!(Header::decode(&mut rlp.as_slice()).unwrap(), header);
    }

    #[test]
    fn a_zero_is_not_an_absent_field() {
        let base = Header { base_fee_per_gas: Some(0), ..Header::default() };
        let rlp = alloy_rlp::encode(&base);
        assert_eq!(Header::decode(&mut rlp.as_slice()).unwrap().base_fee_per_gas, Some(0));
    }

    #[test]
    fn every_header_of_the_public_chain_names_the_hash_of_the_one_before() {
        let blocks = chain();
        assert_eq!(blocks.len(), 54);
        for pair in blocks.windows(2) {
            assert_eq!(pair[1].header.parent_hash, pair[0].header.hash_slow());
        }
    }

    #[test]
    fn a_22nd_field_that_is_not_a_key_is_refused() {
        let header = Header { prev_proposer_pubkey: None, ..frozen().0 };
        assert!(Header::decode(&mut with_item(&header, &[1; 48]).as_slice()).is_ok());
        for length in [0, 32, 47, 49] {
            let rlp = with_item(&header, &vec![1; length]);
            assert!(Header::decode(&mut rlp.as_slice()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_23rd_field_is_refused() {
        let rlp = with_item(&frozen().0, &[1; 32]);
        assert_eq!(Header::decode(&mut rlp.as_slice()), Err(alloy_rlp::Error::UnexpectedLength));
    }

    #[test]
    fn a_gap_before_a_field_is_hashed_without_panic() {
        let header = Header { requests_hash: None, ..frozen().0 };
        assert_ne!(header.hash_slow(), frozen().0.hash_slow());
    }

    #[test]
    fn in_json_the_key_has_the_name_of_upstream_and_its_older_one_is_read() {
        let (header, _) = frozen();
        let json = serde_json::to_value(&header).unwrap();
        assert!(json["parentProposerPubkey"].is_string());
        let older = json.to_string().replace("parentProposerPubkey", "prevProposerPubkey");
        assert_eq!(serde_json::from_str::<Header>(&older).unwrap(), header);
    }
}
