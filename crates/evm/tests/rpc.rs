//! Questions about a public chain that other clients answered: calls, estimates, simulations and
//! traces must have their answers, value by value.
//!
//! `EXECUTION_APIS_TESTS` names a directory with more of them, such as `tests` in a clone of
//! ethereum/execution-apis; it must be about the same chain.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{env, fs, path::PathBuf, sync::Arc};

use alloy_consensus::transaction::SignerRecoverable;
use alloy_eips::eip4895::Withdrawals;
use alloy_primitives::{B256, U64};
use alloy_rlp::Decodable;
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_trace::geth::GethDebugTracingOptions;
use preconf_chain::{Block, ChainSpec, Transaction, TrieAccountParts, state_root};
use preconf_evm::{
    BlockContext, NextBlock, access_list,
    call::{self, CallError, CallRequest},
    execute_block, execute_mined, simulate,
    trace::{self, TracedBlock},
};
use preconf_state::{Diff, MemoryState, Overlay};
use serde::Serialize;
use serde_json::{Value, json};

const GENESIS: &str = include_str!("../../chain/testdata/chain_genesis.json");
const CHAIN: &[u8] = include_bytes!("../../chain/testdata/chain.rlp");

/// The chain, with the state after each block.
struct Chain {
    spec: Arc<ChainSpec>,
    blocks: Vec<Block>,
    states: Vec<MemoryState>,
}

impl Chain {
    fn import() -> Self {
        let spec = Arc::new(ChainSpec::from_genesis_json(GENESIS).unwrap());
        let genesis = MemoryState::from_genesis(&spec.genesis().alloc);
        let mut chain = Self { blocks: vec![spec.genesis_block()], states: vec![genesis], spec };
        let mut rest = CHAIN;
        while !rest.is_empty() {
            chain.push(Block::decode(&mut rest).unwrap());
        }
        chain
    }

    fn push(&mut self, block: Block) {
        let parent = &self.blocks.last().unwrap().header;
        let mut state = self.states.last().unwrap().clone();
        state.set_block_hash(parent.number, parent.hash_slow());
        let overlay = Overlay::new(state.clone());
        let diff = if block.header.difficulty.is_zero() {
            execute_block(&self.spec, parent, &block, None, overlay).unwrap().diff()
        } else {
            execute_mined(&self.spec, parent, &block, overlay).unwrap().diff()
        };
        state.apply(&diff);
        assert_eq!(root(&state), block.header.state_root);
        self.blocks.push(block);
        self.states.push(state);
    }

    /// The number that a parameter means, if there is such a block.
    fn number(&self, parameter: &Value) -> Option<usize> {
        let text = parameter.as_str().unwrap_or("latest");
        let number = match text {
            "latest" | "pending" => self.blocks.len() - 1,
            text if text.len() == 66 => {
                let hash: B256 = text.parse().unwrap();
                self.blocks.iter().position(|block| block.header.hash_slow() == hash)?
            }
            text => usize::from_str_radix(text.trim_start_matches("0x"), 16).unwrap(),
        };
        (number < self.blocks.len()).then_some(number)
    }

    fn overlay(&self, number: usize) -> Overlay<MemoryState> {
        Overlay::new(self.states[number].clone())
    }

    fn answer(&self, method: &str, params: &[Value]) -> Value {
        let at = |index: usize| self.number(params.get(index).unwrap_or(&Value::Null));
        match method {
            "eth_call" | "eth_estimateGas" | "eth_createAccessList" => {
                let Some(number) = at(1) else { return unknown_block() };
                self.call(method, params, number).map_or_else(|error| failure(&error), result)
            }
            "eth_simulateV1" => {
                let Some(number) = at(1) else { return unknown_block() };
                self.simulate(&params[0], number)
            }
            "debug_traceBlockByNumber" | "debug_traceBlockByHash" => {
                let (number, options) = (at(0).unwrap(), options(params.get(1)));
                with_block(self, number, |block| {
                    result(trace::trace_block(block, &options).unwrap())
                })
            }
            "debug_traceTransaction" => self.trace_transaction(&params[0], options(params.get(1))),
            other => panic!("{other}"),
        }
    }

    fn call(&self, method: &str, params: &[Value], number: usize) -> Result<Value, CallError> {
        let mut context = BlockContext::from(&self.blocks[number].header);
        let mut overlay = self.overlay(number);
        if let Some(wanted) = params.get(2) {
            let wanted = serde_json::from_value(wanted.clone()).unwrap();
            context.override_state(&self.spec, &wanted, &mut overlay)?;
        }
        if let Some(wanted) = params.get(3) {
            context.override_block(&serde_json::from_value(wanted.clone()).unwrap())?;
        }
        let request: TransactionRequest = serde_json::from_value(params[0].clone()).unwrap();
        let request = CallRequest::try_from(request)?;
        Ok(match method {
            "eth_call" => {
                let outcome = call::call(&self.spec, &context, overlay, &request)?;
                json!(outcome.into_output()?)
            }
            "eth_estimateGas" => {
                json!(U64::from(call::estimate_gas(&self.spec, &context, overlay, &request)?))
            }
            _ => {
                json!(access_list::create_access_list(&self.spec, &context, &overlay, &request)?)
            }
        })
    }

    fn simulate(&self, request: &Value, number: usize) -> Value {
        let request = serde_json::from_value(request.clone()).unwrap();
        let mut state = self.states[number].clone();
        let state_root = |diff: &Diff| {
            state.apply(diff);
            root(&state)
        };
        let base = &self.blocks[number].header;
        match simulate::simulate(&self.spec, base, self.overlay(number), &request, state_root) {
            Ok(blocks) => result(blocks),
            Err(error) => {
                json!({ "error": { "code": error.code(), "message": error.to_string() } })
            }
        }
    }

    fn trace_transaction(&self, hash: &Value, options: GethDebugTracingOptions) -> Value {
        let hash: B256 = serde_json::from_value(hash.clone()).unwrap();
        for (number, block) in self.blocks.iter().enumerate() {
            let position = block.body.transactions.iter().position(|tx| *tx.hash() == hash);
            if let Some(index) = position {
                return with_block(self, number, |block| {
                    result(trace::trace_transaction(block, index, &options).unwrap())
                });
            }
        }
        json!({ "error": { "code": -32000, "message": "transaction not found" } })
    }
}

fn with_block(
    chain: &Chain,
    number: usize,
    trace: impl FnOnce(TracedBlock<'_, MemoryState>) -> Value,
) -> Value {
    let Block { header, body } = &chain.blocks[number];
    let withdrawals = body.withdrawals.clone().map(Withdrawals::into_inner);
    let transactions: Vec<_> = body
        .transactions
        .iter()
        .map(|tx| Transaction::from_envelope(tx.clone(), tx.recover_signer().unwrap()))
        .collect();
    trace(TracedBlock {
        spec: &chain.spec,
        environment: NextBlock::from_header(header, withdrawals.unwrap_or_default()),
        hash: Some(header.hash_slow()),
        transactions: &transactions,
        overlay: chain.overlay(number - 1),
    })
}

fn root(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let (nonce, balance, code_hash) = (account.nonce, account.balance, account.code_hash);
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}

fn options(value: Option<&Value>) -> GethDebugTracingOptions {
    value.map(|value| serde_json::from_value(value.clone()).unwrap()).unwrap_or_default()
}

fn result(value: impl Serialize) -> Value {
    json!({ "result": value })
}

fn failure(error: &CallError) -> Value {
    let mut shown = json!({ "code": error.code(), "message": error.to_string() });
    if let Some(data) = error.data() {
        shown["data"] = json!(data);
    }
    json!({ "error": shown })
}

fn unknown_block() -> Value {
    json!({ "error": { "code": -32000, "message": "header not found" } })
}

/// Every file of every method that is answered here.
fn cases() -> Vec<PathBuf> {
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rpc");
    let directory = env::var_os("EXECUTION_APIS_TESTS").map_or(ours.into(), PathBuf::from);
    let mut cases = Vec::new();
    for method in [
        "eth_call",
        "eth_estimateGas",
        "eth_createAccessList",
        "eth_simulateV1",
        "debug_traceBlockByNumber",
        "debug_traceBlockByHash",
        "debug_traceTransaction",
    ] {
        let Ok(files) = fs::read_dir(directory.join(method)) else { continue };
        cases.extend(files.map(|file| file.unwrap().path()));
    }
    cases.sort();
    cases
}

/// The first place where two values differ.
fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys = ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
            keys.filter_map(|key| {
                let path = format!("{path}.{key}");
                let value = |of: &serde_json::Map<String, Value>| of.get(key).cloned();
                difference(&path, &json!(value(ours)), &json!(value(theirs)))
            })
            .next()
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let pairs = ours.iter().zip(theirs).enumerate();
            let mut found =
                pairs.filter_map(|(index, (a, b))| difference(&format!("{path}[{index}]"), a, b));
            found.next()
        }
        (ours, theirs) if ours == theirs => None,
        (ours, theirs) => Some(format!("{path}: {ours:.200} instead of {theirs:.200}")),
    }
}

#[test]
fn what_other_clients_answered_is_answered_here() {
    let chain = Chain::import();
    let cases = cases();
    assert!(cases.len() > 20, "only {} cases were found", cases.len());
    let mut wrong = Vec::new();
    for path in cases {
        let text = fs::read_to_string(&path).unwrap();
        let mut question = Value::Null;
        for line in text.lines() {
            if let Some(line) = line.strip_prefix(">> ") {
                question = serde_json::from_str(line).unwrap();
            }
            let Some(line) = line.strip_prefix("<< ") else { continue };
            let mut theirs: Value = serde_json::from_str(line).unwrap();
            let fields = theirs.as_object_mut().unwrap();
            fields.retain(|field, _| field != "jsonrpc" && field != "id");
            let params = question["params"].as_array().unwrap();
            let ours = chain.answer(question["method"].as_str().unwrap(), params);
            if let Some(difference) = difference("", &ours, &theirs) {
                wrong.push(format!("{}: {difference}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}
