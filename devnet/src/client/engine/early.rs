//! Versions 1 and 2 of the Engine API: blocks from the merge to Cancun.
//!
//! V1 is for blocks without withdrawals, V2 for those with them and for those without. A payload or
//! attributes with other fields than those of the method and of their time are invalid parameters;
//! from Cancun on both versions are those of another fork.

use alloy_hardforks::EthereumHardforks;
use alloy_rpc_types_engine::{
    ExecutionPayload, ExecutionPayloadFieldV2, ForkchoiceState, PayloadAttributes, PayloadId,
};
use preconf_chain::ChainSpec;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::check_withdrawals;
use crate::client::ExecutionClient;
use crate::client::methods::{Answer, answer};

/// The version of a method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

pub(super) fn new_payload_v1(client: &ExecutionClient, params: &Params) -> Answer {
    new_payload(client, params, Version::V1)
}

pub(super) fn new_payload_v2(client: &ExecutionClient, params: &Params) -> Answer {
    new_payload(client, params, Version::V2)
}

pub(super) fn fork_choice_updated_v1(client: &ExecutionClient, params: &Params) -> Answer {
    fork_choice_updated(client, params, Version::V1)
}

pub(super) fn fork_choice_updated_v2(client: &ExecutionClient, params: &Params) -> Answer {
    fork_choice_updated(client, params, Version::V2)
}

pub(super) fn get_payload_v1(client: &ExecutionClient, params: &Params) -> Answer {
    get_payload(client, params, Version::V1)
}

pub(super) fn get_payload_v2(client: &ExecutionClient, params: &Params) -> Answer {
    get_payload(client, params, Version::V2)
}

/// The fields that not all versions of a structure have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LaterFields {
    withdrawals: Option<IgnoredAny>,
    parent_beacon_block_root: Option<IgnoredAny>,
    blob_gas_used: Option<IgnoredAny>,
    excess_blob_gas: Option<IgnoredAny>,
}

fn new_payload(client: &ExecutionClient, params: &Params, version: Version) -> Answer {
    let name = "executionPayload";
    let payload: ExecutionPayloadFieldV2 = params.required(0, name)?;
    let payload = match payload {
        ExecutionPayloadFieldV2::V1(payload) => ExecutionPayload::V1(payload),
        ExecutionPayloadFieldV2::V2(payload) => ExecutionPayload::V2(payload),
    };
    let timestamp = payload.timestamp();
    check_fork(&client.spec, timestamp)?;
    check_fields(&client.spec, timestamp, &params.required(0, name)?, version)?;
    answer(&client.new_early_payload(payload)?)
}

fn fork_choice_updated(client: &ExecutionClient, params: &Params, version: Version) -> Answer {
    let state: ForkchoiceState = params.required(0, "forkchoiceState")?;
    let name = "payloadAttributes";
    let attributes: Option<PayloadAttributes> = params.optional(1, name)?;
    if let Some(attributes) = &attributes {
        check_withdrawals(attributes)?;
        let timestamp = attributes.timestamp;
        // The head moves although attributes are those of another fork.
        if check_fork(&client.spec, timestamp).is_ok() {
            check_fields(&client.spec, timestamp, &params.required(1, name)?, version)?;
        }
    }
    let check = |attributes: &PayloadAttributes| check_fork(&client.spec, attributes.timestamp);
    answer(&client.early_fork_choice_updated(state, attributes, check)?)
}

fn get_payload(client: &ExecutionClient, params: &Params, version: Version) -> Answer {
    let id: PayloadId = params.required(0, "payloadId")?;
    let built = client.payload(id)?;
    check_fork(&client.spec, built.block.header.timestamp)?;
    match (version, built.envelope_v2()) {
        (Version::V2, envelope) => answer(&envelope),
        (Version::V1, envelope) => match envelope.execution_payload {
            ExecutionPayloadFieldV2::V1(payload) => answer(&payload),
            ExecutionPayloadFieldV2::V2(_) => Err(unsupported("from Shanghai on it is version 2")),
        },
    }
}

/// Neither version is for a block of Cancun or later.
fn check_fork(spec: &ChainSpec, timestamp: u64) -> Result<(), RpcError> {
    if spec.is_cancun_active_at_timestamp(timestamp) {
        return Err(unsupported("from Cancun on it is version 3 or later"));
    }
    Ok(())
}

fn unsupported(reason: &str) -> RpcError {
    RpcError::new(code::UNSUPPORTED_FORK, format!("Unsupported fork: {reason}"))
}

/// Whether the fields are those of the method and of the time, which is before Cancun.
fn check_fields(
    spec: &ChainSpec,
    timestamp: u64,
    fields: &LaterFields,
    version: Version,
) -> Result<(), RpcError> {
    let LaterFields { withdrawals, parent_beacon_block_root, blob_gas_used, excess_blob_gas } =
        fields;
    let shanghai = spec.is_shanghai_active_at_timestamp(timestamp);
    let of_cancun = [parent_beacon_block_root, blob_gas_used, excess_blob_gas];
    let reason = if of_cancun.into_iter().any(Option::is_some) {
        "there are fields of Cancun, which the method does not have"
    } else if version == Version::V1 && shanghai {
        "from Shanghai on there are withdrawals, which version 1 does not have"
    } else if withdrawals.is_some() != shanghai {
        "there are withdrawals from Shanghai on, and not before"
    } else {
        return Ok(());
    };
    Err(RpcError::invalid_params(reason))
}
