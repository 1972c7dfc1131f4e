//! Transactions that nobody signed, on any state that is kept.

use alloy_primitives::{B256, Bytes, U64};
use alloy_rpc_types_eth::state::StateOverride;
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest};
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;
use preconf_evm::access_list::create_access_list;
use preconf_evm::call::{self, BlockContext, CallError, CallRequest};
use preconf_evm::simulate::{SimulateError, SimulateRequest, simulate};
use preconf_state::Diff;
use serde_json::value::to_raw_value;

use super::at;
use crate::client::ExecutionClient;
use crate::client::chain::BlockState;
use crate::client::error::in_words;
use crate::client::methods::{Answer, Method, answer};
use crate::client::validate::{root_of, state_after};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_call", eth_call),
    Method::new("eth_estimateGas", estimate_gas),
    Method::new("eth_createAccessList", access_list),
    Method::new("eth_simulateV1", simulate_v1),
];

/// What a caller wants state and block to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    pub(super) state: Option<StateOverride>,
    pub(super) block: Option<BlockOverrides>,
}

/// A call and where it runs.
pub(super) struct Prepared {
    pub(super) request: CallRequest,
    pub(super) context: BlockContext,
    pub(super) state: BlockState,
}

fn eth_call(client: &ExecutionClient, params: &Params) -> Answer {
    let Prepared { request, context, state } = prepare(client, params, &overrides(params)?)?;
    let outcome = call::call(&client.spec, &context, state, &request).map_err(refusal)?;
    let output: Bytes = outcome.into_output().map_err(refusal)?;
    answer(&output)
}

fn estimate_gas(client: &ExecutionClient, params: &Params) -> Answer {
    let Prepared { request, context, state } = prepare(client, params, &overrides(params)?)?;
    let gas = call::estimate_gas(&client.spec, &context, state, &request).map_err(refusal)?;
    answer(&U64::from(gas))
}

fn access_list(client: &ExecutionClient, params: &Params) -> Answer {
    let Prepared { request, context, state } = prepare(client, params, &overrides(params)?)?;
    let list = create_access_list(&client.spec, &context, &state, &request).map_err(refusal)?;
    answer(&list)
}

/// The roots of simulated blocks are those of the whole state, as they are for real ones.
fn simulate_v1(client: &ExecutionClient, params: &Params) -> Answer {
    let request: SimulateRequest = params.required(0, "simulation")?;
    let (block, state) = at::state(client, params, 1)?;
    let mut whole = state_after(&state, &Diff::default());
    let root = |changes: &Diff| -> B256 {
        whole.apply(changes);
        root_of(&whole)
    };
    let blocks = simulate(&client.spec, block.header(), state, &request, root);
    answer(&blocks.map_err(|error: SimulateError| RpcError::new(error.code(), in_words(&error)))?)
}

/// What the caller wants, where the methods for calls have it.
fn overrides(params: &Params) -> Result<Overrides, RpcError> {
    Ok(Overrides {
        state: params.optional(2, "state overrides")?,
        block: params.optional(3, "block overrides")?,
    })
}

/// Reads a call and the block it runs on, and makes state and block what they are to be.
pub(super) fn prepare(
    client: &ExecutionClient,
    params: &Params,
    overrides: &Overrides,
) -> Result<Prepared, RpcError> {
    let request: TransactionRequest = params.required(0, "call")?;
    let (block, mut state) = at::state(client, params, 1)?;
    let mut context = BlockContext::from(block.header());
    if let Some(wanted) = &overrides.block {
        context.override_block(wanted).map_err(refusal)?;
    }
    if let Some(wanted) = &overrides.state {
        context.override_state(&client.spec, wanted, &mut state).map_err(refusal)?;
    }
    let request = CallRequest::try_from(request).map_err(refusal)?;
    Ok(Prepared { request, context, state })
}

fn refusal(error: CallError) -> RpcError {
    let data = error.data().and_then(|data| to_raw_value(data).ok());
    RpcError { data, ..RpcError::new(error.code(), in_words(&error)) }
}
