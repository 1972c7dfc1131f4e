//! Transactions: those of the chain, and those that are sent.

use std::sync::Arc;

use alloy_primitives::{Bytes, U64};
use preconf_chain::rpc::RpcTransaction;
use preconf_chain::{InvalidTransaction, Transaction};
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};

use super::at::{hash, inclusion};
use super::blocks::{by_hash, by_number};
use crate::client::chain::ChainBlock;
use crate::client::error::in_words;
use crate::client::methods::{Answer, Method, answer};
use crate::client::{ExecutionClient, blobs};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_sendRawTransaction", send),
    Method::new("eth_getTransactionByHash", transaction),
    Method::new("eth_getTransactionByBlockHashAndIndex", |client, params| {
        at_index(client, by_hash(client, params)?, params)
    }),
    Method::new("eth_getTransactionByBlockNumberAndIndex", |client, params| {
        at_index(client, by_number(client, params)?, params)
    }),
];

fn send(client: &ExecutionClient, params: &Params) -> Answer {
    let encoded: Bytes = params.required(0, "transaction")?;
    let refused = |words| RpcError::new(code::SERVER_ERROR, words);
    let taken = if blobs::is_blob_transaction(&encoded) {
        client.submit(blobs::decode(&encoded).map_err(|error| refused(in_words(&error)))?)
    } else {
        let decoded = Transaction::decode(encoded);
        let decoded = decoded.map_err(|error: InvalidTransaction| refused(in_words(&error)))?;
        client.submit(decoded)
    };
    answer(&taken.map_err(|refusal| refused(refusal.to_string()))?)
}

fn transaction(client: &ExecutionClient, params: &Params) -> Answer {
    let hash = hash(params, 0, "transaction hash")?;
    if let Some((block, index)) = client.find_transaction(hash) {
        return answer(&show(client, &block, index));
    }
    answer(&client.pool.lock().get(&hash).map(RpcTransaction::pending))
}

fn at_index(client: &ExecutionClient, block: Option<Arc<ChainBlock>>, params: &Params) -> Answer {
    let index: U64 = params.required(1, "transaction index")?;
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    answer(&block.and_then(|block| show(client, &block, index)))
}

fn show(client: &ExecutionClient, block: &ChainBlock, index: usize) -> Option<RpcTransaction> {
    let transaction = block.transactions.get(index)?;
    Some(RpcTransaction::included(transaction, &inclusion(client, block), index as u64))
}
