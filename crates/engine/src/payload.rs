//! Between a block and the payload that the Engine API sends for it.
//!
//! Invariants: a payload becomes a block only if the block hashes to what the payload says; what
//! comes back from [`to_payload`] is the same block. What a payload leaves out (the parent beacon
//! root, the requests, a proposer's key) is an argument, and a wrong one shows in the hash.

use alloy_eips::eip2718::{Decodable2718, Eip2718Error, Encodable2718};
use alloy_eips::eip4895::Withdrawals;
use alloy_eips::eip7685::Requests;
use alloy_primitives::{B256, Bytes, FixedBytes, U256};
use alloy_rpc_types_engine::{
    BlobsBundleV1, BlobsBundleV2, ExecutionPayload, ExecutionPayloadEnvelopeV3,
    ExecutionPayloadEnvelopeV4, ExecutionPayloadEnvelopeV5, ExecutionPayloadV3,
};
use preconf_chain::{Block, Header, ProposerPublicKey, TxEnvelope};

use crate::berachain::BerachainEnvelope;

/// Why a payload is not a block.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The bytes of a transaction are none.
    #[error("decoding transaction {index}")]
    Transaction {
        /// Its index in the payload.
        index: usize,
        /// What the decoder said.
        #[source]
        source: Eip2718Error,
    },
    /// A transaction has another encoding than the one it has in a block.
    #[error("transaction {index} is not in its canonical encoding")]
    NotCanonical {
        /// Its index in the payload.
        index: usize,
    },
    /// A field is more than a header can hold.
    #[error("making a header of the payload")]
    Field(#[source] alloy_rpc_types_engine::PayloadError),
    /// The requests are empty, without a type, or not in the order of their types.
    #[error("execution request {index} is empty or out of order")]
    Requests {
        /// Its index in the list.
        index: usize,
    },
    /// The block hashes to something else.
    #[error("block hash mismatch: want {want}, got {got}")]
    BlockHash {
        /// What the payload says.
        want: B256,
        /// What the block hashes to.
        got: B256,
    },
}

/// What a payload does not say of its block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BesidePayload {
    /// The root of the parent beacon block, from Cancun.
    pub parent_beacon_block_root: Option<B256>,
    /// The hash of the execution requests, from Prague; see [`requests_hash`].
    pub requests_hash: Option<B256>,
    /// The key of the previous block's proposer, on Berachain from Prague1.
    pub prev_proposer_pubkey: Option<FixedBytes<48>>,
}

impl BesidePayload {
    /// What the payload of this block would not say.
    pub fn of(header: &Header) -> Self {
        Self {
            parent_beacon_block_root: header.parent_beacon_block_root,
            requests_hash: header.requests_hash,
            prev_proposer_pubkey: header.prev_proposer_pubkey,
        }
    }
}

/// The payload of a block.
pub fn to_payload(block: &Block) -> ExecutionPayloadV3 {
    ExecutionPayloadV3::from_block_slow(block)
}

/// The block of a payload, of whichever version.
///
/// # Errors
///
/// If it is none, or not the one with the payload's hash.
pub fn from_payload(
    payload: impl Into<ExecutionPayload>,
    beside: &BesidePayload,
) -> Result<Block, PayloadError> {
    let payload = payload.into();
    let want = payload.block_hash();
    let withdrawals = payload.withdrawals().cloned().map(Withdrawals::new);
    let raw = payload.into_block_raw().map_err(PayloadError::Field)?;
    let header = Header {
        parent_hash: raw.header.parent_hash,
        ommers_hash: raw.header.ommers_hash,
        beneficiary: raw.header.beneficiary,
        state_root: raw.header.state_root,
        transactions_root: raw.header.transactions_root,
        receipts_root: raw.header.receipts_root,
        logs_bloom: raw.header.logs_bloom,
        difficulty: raw.header.difficulty,
        number: raw.header.number,
        gas_limit: raw.header.gas_limit,
        gas_used: raw.header.gas_used,
        timestamp: raw.header.timestamp,
        extra_data: raw.header.extra_data,
        mix_hash: raw.header.mix_hash,
        nonce: raw.header.nonce,
        base_fee_per_gas: raw.header.base_fee_per_gas,
        withdrawals_root: raw.header.withdrawals_root,
        blob_gas_used: raw.header.blob_gas_used,
        excess_blob_gas: raw.header.excess_blob_gas,
        parent_beacon_block_root: beside.parent_beacon_block_root,
        requests_hash: beside.requests_hash,
        prev_proposer_pubkey: beside.prev_proposer_pubkey,
    };
    let got = header.hash_slow();
    if got != want {
        return Err(PayloadError::BlockHash { want, got });
    }
    let transactions = raw.body.transactions.iter().enumerate();
    let transactions = transactions.map(|(index, encoded)| transaction(index, encoded));
    let mut block = Block { header, body: Default::default() };
    block.body.transactions = transactions.collect::<Result<_, _>>()?;
    block.body.withdrawals = withdrawals;
    Ok(block)
}

/// The versioned hashes of a block's blobs, in order, as newPayload wants them.
pub fn versioned_hashes(block: &Block) -> Vec<B256> {
    block.body.blob_versioned_hashes_iter().copied().collect()
}

/// The hash of execution requests (EIP-7685), each with its type byte.
///
/// # Errors
///
/// If one is empty or they are not in the strict order of their types: the Engine API refuses such
/// a list.
pub fn requests_hash(requests: &[Bytes]) -> Result<B256, PayloadError> {
    let mut last = None;
    for (index, request) in requests.iter().enumerate() {
        match request.first() {
            Some(kind) if request.len() > 1 && last < Some(*kind) => last = Some(*kind),
            Some(_) | None => return Err(PayloadError::Requests { index }),
        }
    }
    Ok(Requests::new(requests.to_vec()).requests_hash())
}

/// The answer to getPayloadV3.
pub fn envelope_v3(
    payload: ExecutionPayloadV3,
    block_value: U256,
    blobs_bundle: BlobsBundleV1,
) -> ExecutionPayloadEnvelopeV3 {
    ExecutionPayloadEnvelopeV3 {
        execution_payload: payload,
        block_value,
        blobs_bundle,
        should_override_builder: false,
    }
}

/// The answer to getPayloadV4.
pub fn envelope_v4(
    payload: ExecutionPayloadV3,
    block_value: U256,
    blobs_bundle: BlobsBundleV1,
    requests: Vec<Bytes>,
) -> ExecutionPayloadEnvelopeV4 {
    ExecutionPayloadEnvelopeV4 {
        envelope_inner: envelope_v3(payload, block_value, blobs_bundle),
        execution_requests: Requests::new(requests),
    }
}

/// The answer to getPayloadV5.
pub fn envelope_v5(
    payload: ExecutionPayloadV3,
    block_value: U256,
    blobs_bundle: BlobsBundleV2,
    requests: Vec<Bytes>,
) -> ExecutionPayloadEnvelopeV5 {
    ExecutionPayloadEnvelopeV5 {
        execution_payload: payload,
        block_value,
        blobs_bundle,
        should_override_builder: false,
        execution_requests: Requests::new(requests),
    }
}

/// The answer to getPayloadV4P11.
pub fn envelope_v4_p11(
    payload: ExecutionPayloadV3,
    block_value: U256,
    blobs_bundle: BlobsBundleV1,
    requests: Vec<Bytes>,
    parent_proposer_pubkey: Option<ProposerPublicKey>,
) -> BerachainEnvelope {
    let envelope = envelope_v4(payload, block_value, blobs_bundle, requests);
    BerachainEnvelope { envelope, parent_proposer_pubkey }
}

fn transaction(index: usize, encoded: &Bytes) -> Result<TxEnvelope, PayloadError> {
    let transaction = TxEnvelope::decode_2718_exact(encoded)
        .map_err(|source| PayloadError::Transaction { index, source })?;
    if transaction.encoded_2718() != *encoded {
        return Err(PayloadError::NotCanonical { index });
    }
    Ok(transaction)
}
