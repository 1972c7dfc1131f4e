//! A block in JSON.

use std::fmt;

use alloy_consensus::BlockBody;
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{B256, U64};
use alloy_rlp::Encodable;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use thiserror::Error;

use super::{Inclusion, RpcTransaction};
use crate::{Block, Header, Transaction, transactions_root};

/// A block as `eth_getBlockByNumber` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RpcBlock {
    /// The block's hash.
    pub hash: B256,
    /// Its header.
    #[serde(flatten)]
    pub header: Header,
    /// How many bytes its RLP has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<U64>,
    /// The hashes of its ommers.
    #[serde(default)]
    pub uncles: Vec<B256>,
    /// Its transactions.
    pub transactions: RpcTransactions,
    /// Its withdrawals, since Shanghai.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawals: Option<Vec<Withdrawal>>,
}

/// The transactions of a block, as they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcTransactions {
    /// Their hashes. A block without transactions is read as this.
    Hashes(Vec<B256>),
    /// All of them.
    Full(Vec<RpcTransaction>),
}

/// Why what was shown is not a block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RpcBlockError {
    /// Only the hashes of the transactions were shown.
    #[error("the block was shown without its transactions")]
    HashesOnly,
    /// The header does not hash to what it says, so one of its fields is not known or not right.
    #[error("the header hashes to {computed}, not to {shown}")]
    Hash {
        /// What it says.
        shown: B256,
        /// What the fields hash to.
        computed: B256,
    },
    /// The transactions are not those of the header.
    #[error("the transactions are not those of the header")]
    Transactions,
    /// The withdrawals are not those of the header.
    #[error("the withdrawals are not those of the header")]
    Withdrawals,
}

impl RpcBlock {
    /// A block with the hashes of its transactions.
    pub fn with_hashes(block: &Block, hash: B256) -> Self {
        let hashes = block.body.transactions.iter().map(|transaction| *transaction.hash());
        Self::new(block, hash, RpcTransactions::Hashes(hashes.collect()))
    }

    /// A block with its transactions, whose senders are known.
    pub fn with_transactions(block: &Block, hash: B256, transactions: &[Transaction]) -> Self {
        let inclusion = Inclusion {
            block_hash: Some(hash),
            block_number: block.header.number,
            block_timestamp: block.header.timestamp,
            base_fee_per_gas: block.header.base_fee_per_gas,
            blob_base_fee: None,
        };
        let full = transactions
            .iter()
            .zip(0..)
            .map(|(transaction, index)| RpcTransaction::included(transaction, &inclusion, index));
        Self::new(block, hash, RpcTransactions::Full(full.collect()))
    }

    fn new(block: &Block, hash: B256, transactions: RpcTransactions) -> Self {
        Self {
            hash,
            header: block.header.clone(),
            size: Some(U64::from(block.length())),
            uncles: block.body.ommers.iter().map(Header::hash_slow).collect(),
            transactions,
            withdrawals: block.body.withdrawals.as_ref().map(|list| list.to_vec()),
        }
    }

    /// The block and its transactions with the senders that were shown, after checking that they
    /// are what the hash says. Ommers are left out.
    ///
    /// # Errors
    ///
    /// If only hashes were shown, or something is not what the hash says.
    pub fn to_block(&self) -> Result<(Block, Vec<Transaction>), RpcBlockError> {
        let shown = match &self.transactions {
            RpcTransactions::Full(transactions) => transactions.as_slice(),
            RpcTransactions::Hashes(hashes) if hashes.is_empty() => &[],
            RpcTransactions::Hashes(_) => return Err(RpcBlockError::HashesOnly),
        };
        let computed = self.header.hash_slow();
        if computed != self.hash {
            return Err(RpcBlockError::Hash { shown: self.hash, computed });
        }
        let transactions: Vec<_> = shown.iter().map(RpcTransaction::to_transaction).collect();
        let encoded: Vec<_> = transactions.iter().map(Transaction::encoded).collect();
        if transactions_root(&encoded) != self.header.transactions_root {
            return Err(RpcBlockError::Transactions);
        }
        let body = BlockBody {
            transactions: shown.iter().map(|shown| shown.transaction.clone()).collect(),
            ommers: Vec::new(),
            withdrawals: self.withdrawals.clone().map(Into::into),
        };
        if body.calculate_withdrawals_root() != self.header.withdrawals_root {
            return Err(RpcBlockError::Withdrawals);
        }
        Ok((Block::new(self.header.clone(), body), transactions))
    }
}

impl Serialize for RpcTransactions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hashes(hashes) => hashes.serialize(serializer),
            Self::Full(transactions) => transactions.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RpcTransactions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// Written by hand so that a transaction that cannot be read is reported for what it is.
struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = RpcTransactions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of transactions, or of their hashes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut hashes = Vec::new();
        let mut full = Vec::new();
        while let Some(entry) = list.next_element()? {
            match entry {
                Entry::Hash(hash) => hashes.push(hash),
                Entry::Full(transaction) => full.push(*transaction),
            }
        }
        match (hashes.is_empty(), full.is_empty()) {
            (_, true) => Ok(RpcTransactions::Hashes(hashes)),
            (true, false) => Ok(RpcTransactions::Full(full)),
            (false, false) => Err(de::Error::custom("transactions and hashes in one list")),
        }
    }
}

enum Entry {
    Hash(B256),
    Full(Box<RpcTransaction>),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a transaction or its hash")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        text.parse().map(Entry::Hash).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        RpcTransaction::deserialize(MapAccessDeserializer::new(map)).map(|t| Entry::Full(t.into()))
    }
}
