//! What transactions did, step by step: `debug_trace…`.

use std::sync::Arc;

use alloy_consensus::transaction::SignerRecoverable;
use alloy_eips::eip4895::Withdrawals;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::decode_exact;
use alloy_rpc_types_trace::geth::{GethDebugTracingCallOptions, GethDebugTracingOptions};
use preconf_chain::{Block, Transaction};
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};
use preconf_evm::NextBlock;
use preconf_evm::trace::{TraceError, TracedBlock, trace_block, trace_call, trace_transaction};
use preconf_state::MemoryState;

use super::at::hash;
use super::call::{Overrides, Prepared, prepare};
use super::raw::block;
use crate::client::chain::ChainBlock;
use crate::client::error::in_words;
use crate::client::methods::{Answer, Method, answer};
use crate::client::{ClientError, ExecutionClient};

pub(super) const METHODS: &[Method] = &[
    Method::new("debug_traceTransaction", transaction),
    Method::new("debug_traceBlock", encoded_block),
    Method::new("debug_traceBlockByNumber", whole_block),
    Method::new("debug_traceBlockByHash", whole_block),
    Method::new("debug_traceCall", call),
];

fn transaction(client: &ExecutionClient, params: &Params) -> Answer {
    let hash = hash(params, 0, "transaction hash")?;
    let options: GethDebugTracingOptions = params.optional(1, "options")?.unwrap_or_default();
    let found = client.find_transaction(hash);
    let (block, index) =
        found.ok_or_else(|| RpcError::new(code::SERVER_ERROR, "transaction not found"))?;
    let traced = traced(client, &block)?;
    answer(&trace_transaction(traced, index, &options).map_err(refusal)?)
}

fn whole_block(client: &ExecutionClient, params: &Params) -> Answer {
    let options: GethDebugTracingOptions = params.optional(1, "options")?.unwrap_or_default();
    let block = block(client, params)?;
    answer(&trace_block(traced(client, &block)?, &options).map_err(refusal)?)
}

/// A block that need not be part of the chain; its parent must be.
fn encoded_block(client: &ExecutionClient, params: &Params) -> Answer {
    let encoded: Bytes = params.required(0, "block")?;
    let options: GethDebugTracingOptions = params.optional(1, "options")?.unwrap_or_default();
    let invalid = |error: String| RpcError::invalid_params(format!("block: {error}"));
    let block: Block = decode_exact(&encoded).map_err(|error| invalid(error.to_string()))?;
    let envelopes = block.body.transactions.iter().enumerate();
    let transactions: Vec<Transaction> = envelopes
        .map(|(index, envelope)| {
            let sender = envelope.recover_signer();
            let sender =
                sender.map_err(|error| invalid(format!("transaction {index}: {error}")))?;
            Ok(Transaction::from_envelope(envelope.clone(), sender))
        })
        .collect::<Result<_, RpcError>>()?;
    let hash = block.header.hash_slow();
    let traced = on_parent(client, &block, hash, &transactions)?;
    answer(&trace_block(traced, &options).map_err(refusal)?)
}

fn call(client: &ExecutionClient, params: &Params) -> Answer {
    let options: GethDebugTracingCallOptions = params.optional(2, "options")?.unwrap_or_default();
    if options.tx_index.is_some() {
        return Err(RpcError::invalid_params("calls are traced on the state after a block"));
    }
    let overrides = Overrides { state: options.state_overrides, block: options.block_overrides };
    let Prepared { request, context, state } = prepare(client, params, &overrides)?;
    let options = options.tracing_options;
    let trace = trace_call(&client.spec, &context, state, &request, &options);
    answer(&trace.map_err(refusal)?)
}

/// A block on the state before it.
fn traced<'a>(
    client: &'a ExecutionClient,
    block: &'a ChainBlock,
) -> Result<TracedBlock<'a, Arc<MemoryState>>, RpcError> {
    on_parent(client, &block.block, block.hash, &block.transactions)
}

fn on_parent<'a>(
    client: &'a ExecutionClient,
    block: &Block,
    hash: B256,
    transactions: &'a [Transaction],
) -> Result<TracedBlock<'a, Arc<MemoryState>>, RpcError> {
    let header = &block.header;
    let before = client.state(header.parent_hash);
    let withdrawals = block.body.withdrawals.clone().map(Withdrawals::into_inner);
    Ok(TracedBlock {
        spec: &client.spec,
        environment: NextBlock::from_header(header, withdrawals.unwrap_or_default()),
        hash: Some(hash),
        transactions,
        overlay: before.ok_or(ClientError::NoState(header.parent_hash))?,
    })
}

fn refusal(error: TraceError) -> RpcError {
    RpcError::new(error.code(), in_words(&error))
}
