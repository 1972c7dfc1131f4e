//! A public chain of 54 blocks, from Frontier to the blob schedules after Osaka, imported and asked.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::proof::verify_proof;
use alloy_trie::{Nibbles, TrieAccount};
use preconf_chain::rpc::{RpcBlock, RpcReceipt};
use preconf_chain::{Block, ChainSpec};
use preconf_devnet::client::{
    ClientConfig, ExecutionClient, ImportError, Kept, Ports, RlpBlocks, serve_on,
};
use preconf_engine::{EngineClient, JwtSecret};
use serde_json::{Value, json};

use crate::harness::DEADLINE;

const GENESIS: &str = include_str!("../../../crates/chain/testdata/chain_genesis.json");
const CHAIN: &[u8] = include_bytes!("../../../crates/chain/testdata/chain.rlp");

pub(crate) fn empty() -> Arc<ExecutionClient> {
    let spec = Arc::new(ChainSpec::from_genesis_json(GENESIS).unwrap());
    ExecutionClient::new(spec, ClientConfig { kept: Kept::EVERYTHING, ..Default::default() })
}

/// The chain's blocks after the first.
pub(crate) fn blocks() -> Vec<Block> {
    RlpBlocks::new(CHAIN).collect::<Result<_, _>>().unwrap()
}

fn imported() -> Arc<ExecutionClient> {
    let client = empty();
    for block in blocks() {
        client.import(block).unwrap();
    }
    client
}

#[test]
fn a_public_chain_is_imported_and_every_state_is_kept() {
    let client = imported();
    let head = client.head();
    assert_eq!(head.number(), 54);
    assert_eq!(client.finalized().unwrap().hash, head.hash);
    for block in blocks() {
        assert!(client.state(block.header.hash_slow()).is_some(), "{}", block.header.number);
    }
    // Once more changes nothing.
    for block in blocks() {
        client.import(block).unwrap();
    }
    assert_eq!(client.head().hash, head.hash);
}

#[test]
fn a_block_that_is_not_what_its_header_says_ends_the_import() {
    for (number, lie) in [
        (1, (|block| block.header.receipts_root.0[0] ^= 1) as fn(&mut Block)),
        (2, |block| block.header.state_root.0[0] ^= 1),
        (20, |block| block.header.receipts_root.0[0] ^= 1),
        (50, |block| block.header.state_root.0[0] ^= 1),
    ] {
        let client = empty();
        for mut block in blocks() {
            if block.header.number == number {
                lie(&mut block);
                let refused = client.import(block).unwrap_err();
                assert!(matches!(refused, ImportError::Invalid { .. }), "{number}: {refused:?}");
                break;
            }
            client.import(block).unwrap();
        }
        assert_eq!(client.head().number(), number - 1);
    }
    let orphan = empty().import(blocks().pop().unwrap()).unwrap_err();
    assert!(matches!(orphan, ImportError::UnknownParent { number: 54, .. }), "{orphan:?}");
}

/// A node on three ports, and a connection to the one for HTTP.
async fn served() -> (preconf_devnet::client::Running, EngineClient) {
    let any = "127.0.0.1:0".parse().unwrap();
    let ports = Ports { engine: any, http: any, websocket: Some(any) };
    let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
    let running = serve_on(imported(), ports, secret.clone()).await.unwrap();
    assert_ne!(running.rpc_addr, running.websocket_addr);
    let url = format!("http://{}", running.rpc_addr).parse().unwrap();
    (running, EngineClient::new(&url, secret).unwrap())
}

async fn ask<T: serde::de::DeserializeOwned>(
    rpc: &EngineClient,
    method: &str,
    params: impl serde::Serialize + Sync,
) -> T {
    rpc.request(method, &params, DEADLINE).await.unwrap()
}

#[tokio::test]
async fn accounts_and_slots_are_proved_against_the_state_root_of_every_block() {
    let (_running, rpc) = served().await;
    let contract: Address = "0x7dcd17433742f4c0ca53122ab541d0ba67fc27df".parse().unwrap();
    for number in [1, 7, 20, 40, 54] {
        let number = U64::from(number);
        let block: RpcBlock = ask(&rpc, "eth_getBlockByNumber", (number, false)).await;
        let proof: Value = ask(&rpc, "eth_getProof", (contract, ["0x0", "0x1"], number)).await;
        let field = |name: &str| proof[name].clone();
        let account = TrieAccount {
            nonce: serde_json::from_value::<U64>(field("nonce")).unwrap().to(),
            balance: serde_json::from_value(field("balance")).unwrap(),
            storage_root: serde_json::from_value(field("storageHash")).unwrap(),
            code_hash: serde_json::from_value(field("codeHash")).unwrap(),
        };
        let nodes: Vec<Bytes> = serde_json::from_value(field("accountProof")).unwrap();
        let key = Nibbles::unpack(keccak256(contract));
        let expected = Some(alloy_rlp::encode(account));
        verify_proof(block.header.state_root, key, expected, &nodes).unwrap();
        for slot in proof["storageProof"].as_array().unwrap() {
            let key: U256 = serde_json::from_value(slot["key"].clone()).unwrap();
            let value: U256 = serde_json::from_value(slot["value"].clone()).unwrap();
            let nodes: Vec<Bytes> = serde_json::from_value(slot["proof"].clone()).unwrap();
            let expected = (!value.is_zero()).then(|| alloy_rlp::encode(value));
            let path = Nibbles::unpack(keccak256(B256::from(key)));
            verify_proof(account.storage_root, path, expected, &nodes).unwrap();
        }
    }
}

#[tokio::test]
async fn before_byzantium_a_receipt_has_a_state_root_instead_of_a_status() {
    let (_running, rpc) = served().await;
    let early: Vec<Value> = ask(&rpc, "eth_getBlockReceipts", ["0x1"]).await;
    assert!(early.iter().all(|receipt| receipt["root"].is_string()));
    assert!(early.iter().all(|receipt| receipt.get("status").is_none()));
    let block: RpcBlock = ask(&rpc, "eth_getBlockByNumber", ("0x1", false)).await;
    let raw: Vec<Bytes> = ask(&rpc, "debug_getRawReceipts", ["0x1"]).await;
    assert_eq!(preconf_chain::transactions_root(&raw), block.header.receipts_root);
    let late: Vec<RpcReceipt> = ask(&rpc, "eth_getBlockReceipts", ["0x36"]).await;
    assert!(late.iter().all(|receipt| receipt.success));
    let raw: Vec<Bytes> = ask(&rpc, "debug_getRawReceipts", ["0x36"]).await;
    let block: RpcBlock = ask(&rpc, "eth_getBlockByNumber", ("0x36", false)).await;
    assert_eq!(preconf_chain::transactions_root(&raw), block.header.receipts_root);
}

#[tokio::test]
async fn what_is_raw_is_what_was_imported() {
    let (_running, rpc) = served().await;
    for block in blocks() {
        let hash = block.header.hash_slow();
        let raw: Bytes = ask(&rpc, "debug_getRawBlock", [hash]).await;
        assert_eq!(Block::decode(&mut raw.as_ref()).unwrap(), block);
        let raw: Bytes = ask(&rpc, "debug_getRawHeader", [hash]).await;
        assert_eq!(keccak256(raw), hash);
    }
}

#[tokio::test]
async fn ids_are_echoed_as_they_were_written() {
    let (_running, rpc) = served().await;
    for id in ["-1", "1.5", "\"a\"", "null", "18446744073709551616"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_blockNumber"}}"#);
        let answer = rpc.forward(body.into(), &Default::default(), DEADLINE).await.unwrap();
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x36"}}"#);
        assert_eq!(answer.body, expected.as_bytes());
    }
}

#[tokio::test]
async fn a_block_that_is_traced_uses_the_gas_that_it_used() {
    let (_running, rpc) = served().await;
    for number in [1, 2, 30, 54] {
        let number = U64::from(number);
        let receipts: Vec<Value> = ask(&rpc, "eth_getBlockReceipts", [number]).await;
        let traces: Vec<Value> = ask(&rpc, "debug_traceBlockByNumber", [number]).await;
        assert_eq!(traces.len(), receipts.len());
        let encoded: Bytes = ask(&rpc, "debug_getRawBlock", [number]).await;
        let again: Vec<Value> = ask(&rpc, "debug_traceBlock", [encoded]).await;
        assert_eq!(again, traces);
        for (trace, receipt) in traces.iter().zip(&receipts) {
            let gas: U64 = serde_json::from_value(receipt["gasUsed"].clone()).unwrap();
            assert_eq!(trace["result"]["gas"], json!(gas.to::<u64>()));
            assert_eq!(trace["txHash"], receipt["transactionHash"]);
        }
    }
}

#[tokio::test]
async fn a_simulated_block_without_calls_is_the_block_that_would_be_built() {
    let (_running, rpc) = served().await;
    let head: RpcBlock = ask(&rpc, "eth_getBlockByNumber", ("latest", false)).await;
    let time = U64::from(head.header.timestamp + 12);
    let attributes = json!({
        "timestamp": time, "prevRandao": B256::ZERO, "suggestedFeeRecipient": Address::ZERO,
        "withdrawals": [], "parentBeaconBlockRoot": B256::ZERO,
    });
    let envelope: Value =
        ask(&rpc, "testing_buildBlockV1", (head.hash, &attributes, [(); 0], "0x")).await;
    let built = &envelope["executionPayload"];
    let block = json!({ "blockOverrides": { "gasLimit": built["gasLimit"], "time": time } });
    let request = json!({ "blockStateCalls": [block], "validation": true });
    let simulated: Vec<Value> = ask(&rpc, "eth_simulateV1", (request, "latest")).await;
    assert_eq!(simulated[0]["stateRoot"], built["stateRoot"]);
    assert_eq!(simulated[0]["hash"], built["blockHash"]);
}
