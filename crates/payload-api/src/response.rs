//! The answer: a block that the validator can propose as it is.
//!
//! Written as beacon-kit writes it, to the byte; read as beacon-kit reads it, but a list where one
//! is needed is not `null`, and neither is anything in a list, and no list is longer than a block could
//! have it: whatever the answer says, decoding it needs no more memory than a few times its size.

use alloy_eips::{eip4844::Blob, eip4895::Withdrawal, eip7594::CELLS_PER_EXT_BLOB};
use alloy_primitives::{Address, B256, Bloom, Bytes, FixedBytes, U256};
use alloy_rpc_types_engine::{
    BlobsBundleV1, BlobsBundleV2, ExecutionPayloadV1, ExecutionPayloadV2, ExecutionPayloadV3,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

use crate::{
    bounded::{Bounded, or_empty},
    client::shortened,
    error_body::line,
    fork::ForkVersion,
};

/// The most transactions of a block that is read: more than fit into one of a billion gas.
const MAX_TRANSACTIONS: usize = 65_536;
/// The most withdrawals (EIP-4895: 16 on Ethereum; room for other chains).
const MAX_WITHDRAWALS: usize = 256;
/// The most execution requests: each has another type, of one byte (EIP-7685).
const MAX_REQUESTS: usize = 256;
/// The most blobs: 32 MiB of JSON, and more than any chain has.
const MAX_BLOBS: usize = 128;
/// The most proofs: one for each cell.
const MAX_PROOFS: usize = MAX_BLOBS * CELLS_PER_EXT_BLOB;

/// A block, and what a proposer needs besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadResponse {
    /// The fork that it is for.
    pub fork_version: ForkVersion,
    /// The block.
    pub execution_payload: ExecutionPayloadV3,
    /// Its blobs.
    pub blobs_bundle: BlobsBundle,
    /// What it earns its fee recipient, in Wei.
    pub block_value: U256,
    /// Its execution requests, each with its type byte.
    pub execution_requests: Vec<Bytes>,
}

/// The blobs of a block, in the order of its transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlobsBundle {
    /// A commitment for each blob.
    pub commitments: Vec<FixedBytes<48>>,
    /// A proof for each blob; where blobs have cell proofs, one for each cell.
    pub proofs: Vec<FixedBytes<48>>,
    /// The blobs.
    pub blobs: Vec<Blob>,
}

/// Why bytes are not an answer.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// They are not JSON of the right shape.
    #[error("reading the JSON")]
    Json(#[source] serde_json::Error),
    /// Blobs, commitments and proofs do not go together.
    #[error("{blobs} blobs with {commitments} commitments and {proofs} proofs")]
    Bundle {
        /// How many blobs there are.
        blobs: usize,
        /// How many commitments.
        commitments: usize,
        /// How many proofs.
        proofs: usize,
    },
    /// A blob has another size than blobs have.
    #[error("blob {index} has {bytes} bytes")]
    BlobSize {
        /// Which one.
        index: usize,
        /// How many bytes it has.
        bytes: usize,
    },
    /// A payload of this fork has execution requests, if only an empty list.
    #[error("execution_requests is missing in a payload of fork {0}")]
    NoRequests(ForkVersion),
}

impl PayloadResponse {
    /// As it is sent: one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let Self { fork_version, execution_payload, blobs_bundle, block_value, execution_requests } =
            self;
        line(&Written {
            fork_version: *fork_version,
            execution_payload: WrittenPayload::from(execution_payload),
            blobs_bundle,
            block_value: block_value.to_string(),
            execution_requests,
        })
    }

    /// Reads what a server has sent.
    ///
    /// # Errors
    /// If it is no answer, or one that a proposer could not use.
    pub fn decode(bytes: &[u8]) -> Result<Self, ResponseError> {
        let read: Read = serde_json::from_slice(bytes).map_err(unreadable)?;
        let execution_requests = match read.execution_requests {
            Some(Bounded(requests)) => requests,
            None if read.fork_version.has_requests() => {
                return Err(ResponseError::NoRequests(read.fork_version));
            }
            None => Vec::new(),
        };
        Ok(Self {
            fork_version: read.fork_version,
            execution_payload: read.execution_payload.into(),
            blobs_bundle: read.blobs_bundle.unwrap_or_default().try_into()?,
            block_value: read.block_value.unwrap_or_default().0,
            execution_requests,
        })
    }
}

impl From<BlobsBundleV1> for BlobsBundle {
    fn from(bundle: BlobsBundleV1) -> Self {
        let BlobsBundleV1 { commitments, proofs, blobs } = bundle;
        Self { commitments, proofs, blobs }
    }
}

/// With cell proofs.
impl From<BlobsBundleV2> for BlobsBundle {
    fn from(bundle: BlobsBundleV2) -> Self {
        let BlobsBundleV2 { commitments, proofs, blobs } = bundle;
        Self { commitments, proofs, blobs }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    fork_version: ForkVersion,
    execution_payload: WrittenPayload<'a>,
    blobs_bundle: &'a BlobsBundle,
    block_value: String,
    execution_requests: &'a [Bytes],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPayload<'a> {
    parent_hash: &'a B256,
    #[serde(serialize_with = "checksummed")]
    fee_recipient: &'a Address,
    state_root: &'a B256,
    receipts_root: &'a B256,
    logs_bloom: &'a Bloom,
    prev_randao: &'a B256,
    #[serde(with = "alloy_serde::quantity")]
    block_number: u64,
    #[serde(with = "alloy_serde::quantity")]
    gas_limit: u64,
    #[serde(with = "alloy_serde::quantity")]
    gas_used: u64,
    #[serde(with = "alloy_serde::quantity")]
    timestamp: u64,
    extra_data: &'a Bytes,
    base_fee_per_gas: U256,
    block_hash: &'a B256,
    transactions: &'a [Bytes],
    withdrawals: Vec<WrittenWithdrawal<'a>>,
    #[serde(with = "alloy_serde::quantity")]
    blob_gas_used: u64,
    #[serde(with = "alloy_serde::quantity")]
    excess_blob_gas: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenWithdrawal<'a> {
    #[serde(with = "alloy_serde::quantity")]
    index: u64,
    #[serde(with = "alloy_serde::quantity")]
    validator_index: u64,
    #[serde(serialize_with = "checksummed")]
    address: &'a Address,
    #[serde(with = "alloy_serde::quantity")]
    amount: u64,
}

impl<'a> From<&'a ExecutionPayloadV3> for WrittenPayload<'a> {
    fn from(payload: &'a ExecutionPayloadV3) -> Self {
        let ExecutionPayloadV3 { payload_inner, blob_gas_used, excess_blob_gas } = payload;
        let ExecutionPayloadV2 { payload_inner, withdrawals } = payload_inner;
        let ExecutionPayloadV1 {
            parent_hash,
            fee_recipient,
            state_root,
            receipts_root,
            logs_bloom,
            prev_randao,
            block_number,
            gas_limit,
            gas_used,
            timestamp,
            extra_data,
            base_fee_per_gas,
            block_hash,
            transactions,
        } = payload_inner;
        Self {
            parent_hash,
            fee_recipient,
            state_root,
            receipts_root,
            logs_bloom,
            prev_randao,
            block_number: *block_number,
            gas_limit: *gas_limit,
            gas_used: *gas_used,
            timestamp: *timestamp,
            extra_data,
            base_fee_per_gas: *base_fee_per_gas,
            block_hash,
            transactions,
            withdrawals: withdrawals.iter().map(WrittenWithdrawal::from).collect(),
            blob_gas_used: *blob_gas_used,
            excess_blob_gas: *excess_blob_gas,
        }
    }
}

impl<'a> From<&'a Withdrawal> for WrittenWithdrawal<'a> {
    fn from(withdrawal: &'a Withdrawal) -> Self {
        let Withdrawal { index, validator_index, address, amount } = withdrawal;
        Self { index: *index, validator_index: *validator_index, address, amount: *amount }
    }
}

/// The error repeats what it could not read, which may be as long as the answer.
fn unreadable(error: serde_json::Error) -> ResponseError {
    ResponseError::Json(serde_json::Error::custom(shortened(&error.to_string())))
}

/// An address with the checksum of EIP-55.
fn checksummed<S: Serializer>(address: &&Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(address.to_checksum_buffer(None).as_str())
}

#[derive(Deserialize)]
struct Read {
    fork_version: ForkVersion,
    execution_payload: ReadPayload,
    blobs_bundle: Option<ReadBundle>,
    block_value: Option<Wei>,
    execution_requests: Option<Bounded<Bytes, MAX_REQUESTS>>,
}

/// An amount: in quotes, or a bare decimal number of any size.
#[derive(Clone, Copy, Debug, Default)]
struct Wei(U256);

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As a number it would lose its last digits beyond 64 bits.
        let written = <&RawValue>::deserialize(deserializer)?.get();
        if written.starts_with('"') {
            return serde_json::from_str(written).map(Self).map_err(D::Error::custom);
        }
        let is_whole = written.bytes().all(|digit| digit.is_ascii_digit());
        let amount = U256::from_str_radix(written, 10).ok().filter(|_| is_whole);
        amount.map(Self).ok_or_else(|| D::Error::custom("expected an amount of Wei"))
    }
}

#[derive(Default, Deserialize)]
struct ReadBundle {
    commitments: Option<Bounded<FixedBytes<48>, MAX_BLOBS>>,
    proofs: Option<Bounded<FixedBytes<48>, MAX_PROOFS>>,
    blobs: Option<Bounded<Bytes, MAX_BLOBS>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPayload {
    parent_hash: B256,
    fee_recipient: Address,
    state_root: B256,
    receipts_root: B256,
    logs_bloom: Bloom,
    prev_randao: B256,
    #[serde(with = "alloy_serde::quantity")]
    block_number: u64,
    #[serde(with = "alloy_serde::quantity")]
    gas_limit: u64,
    #[serde(with = "alloy_serde::quantity")]
    gas_used: u64,
    #[serde(with = "alloy_serde::quantity")]
    timestamp: u64,
    extra_data: Bytes,
    base_fee_per_gas: U256,
    block_hash: B256,
    transactions: Bounded<Bytes, MAX_TRANSACTIONS>,
    withdrawals: Option<Bounded<Withdrawal, MAX_WITHDRAWALS>>,
    #[serde(default, with = "alloy_serde::quantity::opt")]
    blob_gas_used: Option<u64>,
    #[serde(default, with = "alloy_serde::quantity::opt")]
    excess_blob_gas: Option<u64>,
}

impl From<ReadPayload> for ExecutionPayloadV3 {
    fn from(read: ReadPayload) -> Self {
        let payload_inner = ExecutionPayloadV1 {
            parent_hash: read.parent_hash,
            fee_recipient: read.fee_recipient,
            state_root: read.state_root,
            receipts_root: read.receipts_root,
            logs_bloom: read.logs_bloom,
            prev_randao: read.prev_randao,
            block_number: read.block_number,
            gas_limit: read.gas_limit,
            gas_used: read.gas_used,
            timestamp: read.timestamp,
            extra_data: read.extra_data,
            base_fee_per_gas: read.base_fee_per_gas,
            block_hash: read.block_hash,
            transactions: read.transactions.0,
        };
        let withdrawals = or_empty(read.withdrawals);
        Self {
            payload_inner: ExecutionPayloadV2 { payload_inner, withdrawals },
            blob_gas_used: read.blob_gas_used.unwrap_or_default(),
            excess_blob_gas: read.excess_blob_gas.unwrap_or_default(),
        }
    }
}

impl TryFrom<ReadBundle> for BlobsBundle {
    type Error = ResponseError;

    fn try_from(read: ReadBundle) -> Result<Self, ResponseError> {
        let ReadBundle { commitments, proofs, blobs: read } = read;
        let (commitments, proofs, read) = (or_empty(commitments), or_empty(proofs), or_empty(read));
        // Whether a blob has one proof or one for each cell, its fork says.
        let whole = read.len() == commitments.len()
            && proofs.len().checked_rem(read.len()).unwrap_or(proofs.len()) == 0
            && proofs.len() >= read.len();
        if !whole {
            return Err(ResponseError::Bundle {
                blobs: read.len(),
                commitments: commitments.len(),
                proofs: proofs.len(),
            });
        }
        // Nothing is reserved for a blob before its size is known.
        let mut blobs = Vec::new();
        for (index, blob) in read.into_iter().enumerate() {
            let size = |_| ResponseError::BlobSize { index, bytes: blob.len() };
            blobs.push(Blob::try_from(blob.as_ref()).map_err(size)?);
        }
        Ok(Self { commitments, proofs, blobs })
    }
}
