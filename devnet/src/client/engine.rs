//! The Engine API, and the method that builds a block of given transactions.

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_engine::{ExecutionPayloadV3, ForkchoiceState, PayloadAttributes, PayloadId};
use preconf_chain::Transaction;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use serde_json::json;

use super::build::Contents;
use super::methods::{Answer, Method, answer};
use super::{ClientError, ExecutionClient, PayloadContext};

/// The most transactions that a block can be asked to be built of.
const MAX_TRANSACTIONS: usize = 100_000;

/// The most withdrawals in one block that are taken.
const MAX_WITHDRAWALS: usize = 65_536;

pub(crate) const METHODS: &[Method] = &[
    Method::new("engine_newPayloadV3", |client, params| new_payload(client, params, false)),
    Method::new("engine_newPayloadV4", |client, params| new_payload(client, params, true)),
    Method::new("engine_forkchoiceUpdatedV3", fork_choice_updated),
    Method::new("engine_getPayloadV3", get_payload_v3),
    Method::new("engine_getPayloadV4", get_payload_v4),
    Method::new("engine_exchangeCapabilities", exchange_capabilities),
    Method::new("engine_getClientVersionV1", client_version),
];

pub(crate) const TESTING: &[Method] = &[Method::new("testing_buildBlockV1", build_block)];

fn new_payload(client: &ExecutionClient, params: &Params, has_requests: bool) -> Answer {
    let payload: ExecutionPayloadV3 = params.required(0, "executionPayload")?;
    let requests = has_requests.then(|| params.required::<Vec<Bytes>>(3, "executionRequests"));
    let context = PayloadContext {
        versioned_hashes: params.required(1, "expectedBlobVersionedHashes")?,
        parent_beacon_block_root: params.required(2, "parentBeaconBlockRoot")?,
        requests: requests.transpose()?,
    };
    answer(&client.new_payload(payload, &context)?)
}

fn fork_choice_updated(client: &ExecutionClient, params: &Params) -> Answer {
    let state: ForkchoiceState = params.required(0, "forkchoiceState")?;
    let attributes: Option<PayloadAttributes> = params.optional(1, "payloadAttributes")?;
    if let Some(attributes) = &attributes {
        check_withdrawals(attributes.withdrawals.as_deref().unwrap_or_default())?;
    }
    answer(&client.fork_choice_updated(state, attributes)?)
}

fn get_payload_v3(client: &ExecutionClient, params: &Params) -> Answer {
    let id: PayloadId = params.required(0, "payloadId")?;
    let built = client.payload(id)?;
    if client.has_requests(&built) {
        let reason = "from Prague on it is getPayloadV4";
        return Err(ClientError::UnsupportedFork { reason }.into());
    }
    answer(&built.envelope_v3())
}

fn get_payload_v4(client: &ExecutionClient, params: &Params) -> Answer {
    let id: PayloadId = params.required(0, "payloadId")?;
    let built = client.payload(id)?;
    if !client.has_requests(&built) {
        let reason = "getPayloadV4 is for Prague and later";
        return Err(ClientError::UnsupportedFork { reason }.into());
    }
    answer(&built.envelope_v4())
}

fn exchange_capabilities(_: &ExecutionClient, params: &Params) -> Answer {
    let _theirs: Vec<String> = params.required(0, "capabilities")?;
    let ours = METHODS.iter().chain(TESTING).map(|method| method.name);
    let ours: Vec<_> = ours.filter(|name| *name != "engine_exchangeCapabilities").collect();
    answer(&ours)
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
    let attributes: PayloadAttributes = params.required(1, "payloadAttributes")?;
    let encoded: Option<Vec<Bytes>> = params.optional(2, "transactions")?;
    let extra_data: Option<Bytes> = params.optional(3, "extraData")?;
    check_withdrawals(attributes.withdrawals.as_deref().unwrap_or_default())?;
    let contents = match encoded {
        None => Contents::Pool,
        Some(encoded) if encoded.len() > MAX_TRANSACTIONS => {
            let reason = format!("a block is built of at most {MAX_TRANSACTIONS} transactions");
            return Err(RpcError::invalid_params(reason));
        }
        Some(encoded) => Contents::Exactly(decode(encoded)?),
    };
    let extra_data = extra_data.unwrap_or_else(|| client.config.extra_data.clone());
    let built = client.build(parent, &attributes, contents, extra_data)?;
    answer(&built.envelope_v4())
}

fn decode(encoded: Vec<Bytes>) -> Result<Vec<Transaction>, ClientError> {
    let decoded = encoded.into_iter().enumerate().map(|(index, encoded)| {
        Transaction::decode(encoded)
            .map_err(|source| ClientError::Malformed { index, source: Box::new(source) })
    });
    decoded.collect()
}

fn check_withdrawals(withdrawals: &[Withdrawal]) -> Result<(), RpcError> {
    if withdrawals.len() <= MAX_WITHDRAWALS {
        return Ok(());
    }
    let reason = format!("more than {MAX_WITHDRAWALS} withdrawals");
    Err(RpcError::new(code::TOO_LARGE_REQUEST, reason))
}
