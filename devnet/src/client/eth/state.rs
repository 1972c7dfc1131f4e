//! State, and calls on it.

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_sol_types::{Revert, SolError};
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use preconf_evm::call::{self, CallRequest, CallStatus};
use preconf_evm::{BlockContext, CallError};
use preconf_state::{Account, NeedState, StateReader};
use serde_json::value::{RawValue, to_raw_value};

use super::at;
use crate::client::chain::BlockState;
use crate::client::methods::{Answer, Method, answer};
use crate::client::{ClientError, ExecutionClient};

/// What wallets know a revert by.
const REVERTED: i64 = 3;

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_getBalance", balance),
    Method::new("eth_getTransactionCount", transaction_count),
    Method::new("eth_getCode", get_code),
    Method::new("eth_getStorageAt", storage_at),
    Method::new("eth_call", eth_call),
    Method::new("eth_estimateGas", estimate_gas),
];

fn balance(client: &ExecutionClient, params: &Params) -> Answer {
    let (account, _) = account(client, params, 1)?;
    answer(&account.balance)
}

/// At `pending`, what waits in the pool counts.
fn transaction_count(client: &ExecutionClient, params: &Params) -> Answer {
    let (Account { nonce, .. }, address) = account(client, params, 1)?;
    let block = params.optional::<BlockId>(1, "block")?;
    let waiting = match block {
        Some(BlockId::Number(BlockNumberOrTag::Pending)) => client.pool.lock().next_nonce(&address),
        Some(_) | None => None,
    };
    answer(&U64::from(waiting.unwrap_or_default().max(nonce)))
}

fn get_code(client: &ExecutionClient, params: &Params) -> Answer {
    let (_, state) = at::state(client, params, 1)?;
    let address: Address = params.required(0, "address")?;
    let account = read(state.account(address))?.unwrap_or_default();
    answer(&read(state.code(account.code_hash))?.original_bytes())
}

fn storage_at(client: &ExecutionClient, params: &Params) -> Answer {
    let (_, state) = at::state(client, params, 2)?;
    let address: Address = params.required(0, "address")?;
    let slot: U256 = params.required(1, "slot")?;
    answer(&B256::from(read(state.slot(address, slot))?))
}

fn eth_call(client: &ExecutionClient, params: &Params) -> Answer {
    let (request, context, state) = call_parameters(client, params)?;
    let outcome = call::call(&client.spec, &context, state, &request).map_err(refusal)?;
    match &outcome.status {
        CallStatus::Success => answer(&outcome.output),
        CallStatus::Reverted => Err(reverted(&outcome.output)),
        CallStatus::Halted(_) => {
            let reason = outcome.failure().unwrap_or_default();
            Err(RpcError::new(code::SERVER_ERROR, reason))
        }
    }
}

fn estimate_gas(client: &ExecutionClient, params: &Params) -> Answer {
    let (request, context, state) = call_parameters(client, params)?;
    let gas = call::estimate_gas(&client.spec, &context, state, &request).map_err(refusal)?;
    answer(&U64::from(gas))
}

fn account(
    client: &ExecutionClient,
    params: &Params,
    block: usize,
) -> Result<(Account, Address), RpcError> {
    let address: Address = params.required(0, "address")?;
    let (_, state) = at::state(client, params, block)?;
    Ok((read(state.account(address))?.unwrap_or_default(), address))
}

fn call_parameters(
    client: &ExecutionClient,
    params: &Params,
) -> Result<(CallRequest, BlockContext, BlockState), RpcError> {
    let request = call_request(params.required(0, "call")?)?;
    if params.optional::<Box<RawValue>>(2, "state overrides")?.is_some() {
        return Err(RpcError::invalid_params("overrides are not supported"));
    }
    let (block, state) = at::state(client, params, 1)?;
    Ok((request, BlockContext::from(block.header()), state))
}

fn call_request(request: TransactionRequest) -> Result<CallRequest, RpcError> {
    if request.blob_versioned_hashes.is_some() {
        return Err(RpcError::invalid_params("calls with blobs are not supported"));
    }
    let input = request.input.try_into_unique_input();
    let input = input.map_err(|error| RpcError::invalid_params(error.to_string()))?;
    Ok(CallRequest {
        from: request.from,
        to: request.to.and_then(|kind| kind.to().copied()),
        gas: request.gas,
        gas_price: request.gas_price,
        max_fee_per_gas: request.max_fee_per_gas,
        max_priority_fee_per_gas: request.max_priority_fee_per_gas,
        value: request.value,
        data: input.unwrap_or_default(),
        nonce: request.nonce,
        access_list: request.access_list,
        authorization_list: request.authorization_list,
    })
}

fn refusal(error: CallError) -> RpcError {
    match &error {
        CallError::Reverted(data) => reverted(data),
        CallError::NeedState(_) | CallError::Failed(_) => RpcError::internal(error.to_string()),
        CallError::ConflictingFees
        | CallError::Invalid(_)
        | CallError::InsufficientFunds
        | CallError::Halted(_)
        | CallError::GasExceedsAllowance(_) => RpcError::new(code::SERVER_ERROR, error.to_string()),
    }
}

/// A revert as wallets expect it: with the reason in words, if there is one, and with the data.
fn reverted(data: &Bytes) -> RpcError {
    let message = match Revert::abi_decode(data) {
        Ok(revert) => format!("execution reverted: {}", revert.reason),
        Err(_) => "execution reverted".to_owned(),
    };
    RpcError { code: REVERTED, message, data: to_raw_value(data).ok() }
}

fn read<T>(value: Result<T, NeedState>) -> Result<T, RpcError> {
    value.map_err(|missing| ClientError::Incomplete(missing).into())
}
