//! The Engine API, and the method that builds a block of given transactions.
//!
//! * `early` — blocks from before Cancun.
//! * `lookup` — bodies of blocks, and blobs that wait.

mod early;
mod lookup;

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_rpc_types_engine::{ExecutionPayloadV3, ForkchoiceState, PayloadAttributes, PayloadId};
use preconf_chain::{ChainSpec, Transaction};
use preconf_engine::rpc::{Params, code};
use preconf_engine::{BerachainAttributes, ForkchoiceVersion, PayloadVersion, RpcError};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::build::Contents;
use super::methods::{Answer, Method, answer};
use super::{Attributes, ClientError, ExecutionClient, PayloadContext};

/// The most transactions that a block can be asked to be built of.
const MAX_TRANSACTIONS: usize = 100_000;

/// The most withdrawals in one block that are taken.
const MAX_WITHDRAWALS: usize = 65_536;

pub(crate) const METHODS: &[Method] = &[
    Method::new("engine_newPayloadV1", early::new_payload_v1),
    Method::new("engine_newPayloadV2", early::new_payload_v2),
    Method::new("engine_newPayloadV3", |client, params| {
        new_payload(client, params, PayloadVersion::V3)
    }),
    Method::new("engine_newPayloadV4", |client, params| {
        new_payload(client, params, PayloadVersion::V4)
    }),
    Method::new("engine_newPayloadV4P11", |client, params| {
        new_payload(client, params, PayloadVersion::V4P11)
    }),
    Method::new("engine_forkchoiceUpdatedV1", early::fork_choice_updated_v1),
    Method::new("engine_forkchoiceUpdatedV2", early::fork_choice_updated_v2),
    Method::new("engine_forkchoiceUpdatedV3", |client, params| {
        fork_choice_updated(client, params, ForkchoiceVersion::V3)
    }),
    Method::new("engine_forkchoiceUpdatedV3P11", |client, params| {
        fork_choice_updated(client, params, ForkchoiceVersion::V3P11)
    }),
    Method::new("engine_getPayloadV1", early::get_payload_v1),
    Method::new("engine_getPayloadV2", early::get_payload_v2),
    Method::new("engine_getPayloadV3", |client, params| {
        get_payload(client, params, PayloadVersion::V3)
    }),
    Method::new("engine_getPayloadV4", |client, params| {
        get_payload(client, params, PayloadVersion::V4)
    }),
    Method::new("engine_getPayloadV5", |client, params| {
        get_payload(client, params, PayloadVersion::V5)
    }),
    Method::new("engine_getPayloadV4P11", |client, params| {
        get_payload(client, params, PayloadVersion::V4P11)
    }),
    Method::new("engine_getPayloadBodiesByHashV1", lookup::bodies_by_hash),
    Method::new("engine_getPayloadBodiesByRangeV1", lookup::bodies_by_range),
    Method::new("engine_getBlobsV1", lookup::blobs_v1),
    Method::new("engine_getBlobsV2", lookup::blobs_v2),
    Method::new("engine_exchangeCapabilities", exchange_capabilities),
    Method::new("engine_getClientVersionV1", client_version),
];

pub(crate) const TESTING: &[Method] = &[Method::new("testing_buildBlockV1", build_block)];

fn new_payload(client: &ExecutionClient, params: &Params, version: PayloadVersion) -> Answer {
    let payload: ExecutionPayloadV3 = params.required(0, "executionPayload")?;
    let timestamp = payload.payload_inner.payload_inner.timestamp;
    version.check_new_payload(&client.spec, timestamp)?;
    let (has_requests, has_key) = match version {
        PayloadVersion::V3 => (false, false),
        PayloadVersion::V4 | PayloadVersion::V5 => (true, false),
        PayloadVersion::V4P11 => (true, true),
    };
    let requests = has_requests.then(|| params.required::<Vec<Bytes>>(3, "executionRequests"));
    let key = has_key.then(|| params.required(4, "parentProposerPubKey"));
    let context = PayloadContext {
        versioned_hashes: params.required(1, "expectedBlobVersionedHashes")?,
        parent_beacon_block_root: params.required(2, "parentBeaconBlockRoot")?,
        requests: requests.transpose()?,
        prev_proposer_pubkey: key.transpose()?,
    };
    answer(&client.new_payload(payload, &context)?)
}

fn fork_choice_updated(
    client: &ExecutionClient,
    params: &Params,
    version: ForkchoiceVersion,
) -> Answer {
    let state: ForkchoiceState = params.required(0, "forkchoiceState")?;
    let name = "payloadAttributes";
    let attributes: Option<Attributes> = match version {
        ForkchoiceVersion::V3 => {
            refuse_key(params, 1)?;
            params.optional::<PayloadAttributes>(1, name)?.map(Attributes::from)
        }
        ForkchoiceVersion::V3P11 => {
            params.optional::<BerachainAttributes>(1, name)?.map(Attributes::from)
        }
    };
    if let Some(attributes) = &attributes {
        check_withdrawals(&attributes.ethereum)?;
    }
    answer(&client.fork_choice_updated(state, attributes)?)
}

fn get_payload(client: &ExecutionClient, params: &Params, version: PayloadVersion) -> Answer {
    let id: PayloadId = params.required(0, "payloadId")?;
    let built = client.payload(id)?;
    version.check_get_payload(&client.spec, built.block.header.timestamp)?;
    match version {
        PayloadVersion::V3 => answer(&built.envelope_v3()),
        PayloadVersion::V4 => answer(&built.envelope_v4()),
        PayloadVersion::V5 => answer(&built.envelope_v5()),
        PayloadVersion::V4P11 => answer(&built.envelope_v4_p11()),
    }
}

fn exchange_capabilities(client: &ExecutionClient, params: &Params) -> Answer {
    let _theirs: Vec<String> = params.required(0, "capabilities")?;
    let ours = METHODS.iter().chain(TESTING).map(|method| method.name);
    let ours: Vec<_> = ours
        .filter(|name| *name != "engine_exchangeCapabilities" && is_of_chain(&client.spec, name))
        .collect();
    answer(&ours)
}

/// What no Berachain network has blocks for: all begin in Cancun and keep one proof for each blob.
const NOT_OF_BERACHAIN: [&str; 8] = [
    "engine_newPayloadV1",
    "engine_newPayloadV2",
    "engine_forkchoiceUpdatedV1",
    "engine_forkchoiceUpdatedV2",
    "engine_getPayloadV1",
    "engine_getPayloadV2",
    "engine_getPayloadV5",
    "engine_getBlobsV2",
];

/// Whether the chain has, or can have, blocks that the method is for.
fn is_of_chain(spec: &ChainSpec, method: &str) -> bool {
    match spec.berachain() {
        Some(_) => !NOT_OF_BERACHAIN.contains(&method),
        None => !method.ends_with("P11"),
    }
}

fn client_version(_: &ExecutionClient, _: &Params) -> Answer {
    // The commit is not known to the build; the field must be there.
    answer(&json!([{
        "code": "PC",
        "name": "preconf-devnet",
        "version": concat!("v", env!("CARGO_PKG_VERSION")),
        "commit": "00000000",
    }]))
}

/// `testing_buildBlockV1`: without a list of transactions, what waits is taken.
fn build_block(client: &ExecutionClient, params: &Params) -> Answer {
    let parent: B256 = params.required(0, "parentBlockHash")?;
    let attributes = attributes(client, params, 1)?;
    let encoded: Option<Vec<Bytes>> = params.optional(2, "transactions")?;
    let extra_data: Option<Bytes> = params.optional(3, "extraData")?;
    check_withdrawals(&attributes.ethereum)?;
    let contents = match encoded {
        None => Contents::Pool,
        Some(encoded) if encoded.len() > MAX_TRANSACTIONS => {
            let reason = format!("a block is built of at most {MAX_TRANSACTIONS} transactions");
            return Err(RpcError::invalid_params(reason));
        }
        Some(encoded) => Contents::Exactly(decode(client, &encoded)?),
    };
    let extra_data = extra_data.unwrap_or_else(|| client.config.extra_data.clone());
    let timestamp = attributes.ethereum.timestamp;
    let built = client.build(parent, attributes, contents, extra_data)?;
    if client.spec.has_cell_proofs_at(timestamp) {
        return answer(&built.envelope_v5());
    }
    answer(&built.envelope_v4_p11())
}

/// Attributes of the chain that this is.
fn attributes(
    client: &ExecutionClient,
    params: &Params,
    index: usize,
) -> Result<Attributes, RpcError> {
    let ethereum: PayloadAttributes = params.required(index, "payloadAttributes")?;
    if client.spec.is_prague1_active_at_timestamp(ethereum.timestamp) {
        return params.required::<BerachainAttributes>(index, "payloadAttributes").map(Into::into);
    }
    refuse_key(params, index)?;
    Ok(ethereum.into())
}

/// What only Berachain's attributes have.
#[derive(Debug, Deserialize)]
struct ProposerKey {
    #[serde(rename = "parentProposerPubKey")]
    key: Option<IgnoredAny>,
}

/// Whoever sends Ethereum's attributes with a proposer's key takes the block for one of another
/// fork.
fn refuse_key(params: &Params, index: usize) -> Result<(), RpcError> {
    let attributes: Option<ProposerKey> = params.optional(index, "payloadAttributes")?;
    match attributes.and_then(|attributes| attributes.key) {
        None => Ok(()),
        Some(_) => Err(RpcError::invalid_params("these attributes have no parentProposerPubKey")),
    }
}

/// Decodes transactions; what waits in the pool was decoded before.
fn decode(client: &ExecutionClient, encoded: &[Bytes]) -> Result<Vec<Transaction>, ClientError> {
    let known: Vec<_> = {
        let pool = client.pool.lock();
        encoded.iter().map(|encoded| pool.get(&keccak256(encoded)).cloned()).collect()
    };
    let missing = encoded.iter().zip(&known).filter(|(_, known)| known.is_none());
    let missing: Vec<Bytes> = missing.map(|(encoded, _)| encoded.clone()).collect();
    let mut decoded = Transaction::decode_all(&missing).into_iter();
    let all = known.into_iter().map_while(|known| known.map(Ok).or_else(|| decoded.next()));
    let named = all.enumerate().map(|(index, decoded)| {
        decoded.map_err(|source| ClientError::Malformed { index, source: Box::new(source) })
    });
    named.collect()
}

fn check_withdrawals(attributes: &PayloadAttributes) -> Result<(), RpcError> {
    let withdrawals = attributes.withdrawals.as_deref().unwrap_or_default();
    if withdrawals.len() <= MAX_WITHDRAWALS {
        return Ok(());
    }
    let reason = format!("more than {MAX_WITHDRAWALS} withdrawals");
    Err(RpcError::new(code::TOO_LARGE_REQUEST, reason))
}
