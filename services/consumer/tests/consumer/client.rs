//! A scripted execution client: JSON-RPC over the blocks and states that a test gives it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use jsonrpsee::{
    server::{RpcModule, Server, ServerHandle},
    types::{ErrorObjectOwned, Params},
};
use parking_lot::Mutex;
use preconf_chain::rpc::{Inclusion, RpcBlock, RpcReceipt};
use preconf_state::{Account, MemoryState, StateReader};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::support::{CHAIN_ID, Known};

const METHODS: [&str; 8] = [
    "eth_chainId",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getBlockReceipts",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_getCode",
    "eth_getStorageAt",
];

/// A running client. Dropping it stops it.
pub(crate) struct ExecutionClient {
    pub(crate) address: SocketAddr,
    chain: Arc<Chain>,
    _server: ServerHandle,
}

struct Chain {
    chain_id: u64,
    state: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    by_hash: HashMap<B256, Known>,
    canonical: HashMap<u64, B256>,
    head: B256,
}

impl ExecutionClient {
    pub(crate) async fn start(genesis: &Known) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), CHAIN_ID, genesis).await
    }

    pub(crate) async fn start_at(address: SocketAddr, chain_id: u64, genesis: &Known) -> Self {
        let chain = Arc::new(Chain { chain_id, state: Mutex::default() });
        let mut module = RpcModule::new(Arc::clone(&chain));
        for method in METHODS {
            let answer = move |params: Params<'static>, chain: Arc<Arc<Chain>>, _| async move {
                let params: Value = params.parse().unwrap();
                let result = chain.answer(method, &params)?;
                Ok::<Box<RawValue>, ErrorObjectOwned>(to_raw_value(&result).unwrap())
            };
            module.register_async_method(method, answer).unwrap();
        }
        let server = Server::builder().build(address).await.unwrap();
        let address = server.local_addr().unwrap();
        let client = Self { address, chain, _server: server.start(module) };
        client.set_head(genesis);
        client
    }

    /// Makes a block the head.
    pub(crate) fn set_head(&self, known: &Known) {
        let mut blocks = self.chain.state.lock();
        blocks.by_hash.insert(known.hash, known.clone());
        blocks.canonical.insert(known.header.number, known.hash);
        blocks.head = known.hash;
    }
}

impl Chain {
    fn answer(&self, method: &str, params: &Value) -> Result<Value, ErrorObjectOwned> {
        let blocks = self.state.lock();
        let known = |hash: B256| blocks.by_hash.get(&hash);
        let hash = |at: usize| serde_json::from_value::<B256>(params[at].clone()).unwrap();
        let is_full = params[1] == json!(true);
        Ok(match method {
            "eth_chainId" => json!(U64::from(self.chain_id)),
            "eth_getBlockByHash" => known(hash(0)).map_or(Value::Null, |at| block(at, is_full)),
            "eth_getBlockReceipts" => known(hash(0)).map_or(Value::Null, receipts),
            "eth_getBlockByNumber" => {
                let hash = match params[0].as_str() {
                    Some("latest") => Some(blocks.head),
                    _ => {
                        let number: U64 = serde_json::from_value(params[0].clone()).unwrap();
                        blocks.canonical.get(&number.to()).copied()
                    }
                };
                hash.and_then(known).map_or(Value::Null, |at| block(at, is_full))
            }
            _ => {
                let pin = params.as_array().unwrap().last().unwrap();
                let hash = serde_json::from_value(pin["blockHash"].clone()).unwrap();
                let Some(at) = known(hash) else {
                    return Err(ErrorObjectOwned::owned(-32000, "header not found", None::<()>));
                };
                let address = serde_json::from_value(params[0].clone()).unwrap();
                state(&at.state, method, address, params)
            }
        })
    }
}

fn state(state: &MemoryState, method: &str, address: Address, params: &Value) -> Value {
    let account: Account = state.account(address).unwrap().unwrap_or_default();
    match method {
        "eth_getBalance" => json!(account.balance),
        "eth_getTransactionCount" => json!(U64::from(account.nonce)),
        "eth_getCode" => {
            let code = state.code(account.code_hash).unwrap();
            json!(Bytes::from(code.original_byte_slice().to_vec()))
        }
        "eth_getStorageAt" => {
            let slot: B256 = serde_json::from_value(params[1].clone()).unwrap();
            let value: U256 = state.slot(address, slot.into()).unwrap();
            json!(B256::from(value))
        }
        other => unreachable!("{other} is not registered"),
    }
}

fn block(known: &Known, is_full: bool) -> Value {
    let block = if is_full {
        RpcBlock::with_transactions(&known.block, known.hash, &known.transactions)
    } else {
        RpcBlock::with_hashes(&known.block, known.hash)
    };
    serde_json::to_value(block).unwrap()
}

fn receipts(known: &Known) -> Value {
    let inclusion = Inclusion {
        block_hash: Some(known.hash),
        block_number: known.header.number,
        block_timestamp: known.header.timestamp,
        base_fee_per_gas: known.header.base_fee_per_gas,
        blob_base_fee: None,
    };
    let receipts = RpcReceipt::of_block(&inclusion, &known.transactions, &known.receipts);
    serde_json::to_value(receipts).unwrap()
}
