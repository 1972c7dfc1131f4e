//! What wallets and services read.

use alloy_primitives::{Address, B256, Bytes, U64, U256, hex};
use alloy_rpc_types_engine::ExecutionPayloadEnvelopeV4;
use alloy_rpc_types_eth::FeeHistory;
use alloy_sol_types::{Revert, SolError};
use preconf_chain::Transaction;
use preconf_chain::rpc::{RpcBlock, RpcLog, RpcReceipt, RpcTransaction};
use preconf_devnet::client::{ClientConfig, ExecutionClient, Kept, PayloadContext};
use serde_json::{Value, json};

use crate::harness::*;

const RECIPIENT: Address = Address::repeat_byte(0x77);

fn contract() -> Address {
    signer(2).address().create(0)
}

/// Block 1: a transfer and a contract; block 2: another transfer, and a call that logs.
async fn two_blocks() -> (Node, Vec<Transaction>) {
    let node = Node::start().await;
    let transactions = vec![
        transfer(1, 0, RECIPIENT, 5),
        create(2, 0, STORE),
        transfer(1, 1, RECIPIENT, 7),
        call(2, 1, contract(), 9),
    ];
    for block in transactions.chunks(2) {
        for transaction in block {
            node.send(transaction).await;
        }
        node.advance().await;
    }
    assert_eq!(node.client.head().number(), 2);
    (node, transactions)
}

#[tokio::test]
async fn state_is_read_at_the_block_that_is_named() {
    let (node, _) = two_blocks().await;
    let first = node.client.block_by_number(1).unwrap().hash;
    for (block, balance, nonce, slot) in [
        (json!("latest"), 12, 2, 9),
        (json!("pending"), 12, 2, 9),
        (json!("0x2"), 12, 2, 9),
        (json!("0x1"), 5, 1, 0),
        (json!({ "blockNumber": "0x1" }), 5, 1, 0),
        (json!({ "blockHash": first }), 5, 1, 0),
        (json!({ "blockHash": first, "requireCanonical": true }), 5, 1, 0),
        (json!("earliest"), 0, 0, 0),
    ] {
        let got: U256 = node.call("eth_getBalance", (RECIPIENT, &block)).await;
        assert_eq!(got, U256::from(balance), "{block}");
        let sender = signer(1).address();
        let got: U64 = node.call("eth_getTransactionCount", (sender, &block)).await;
        assert_eq!(got, U64::from(nonce), "{block}");
        for key in [json!("0x0"), json!(B256::ZERO)] {
            let got: B256 = node.call("eth_getStorageAt", (contract(), key, &block)).await;
            assert_eq!(got, B256::from(U256::from(slot)), "{block}");
        }
        let got: Bytes = node.call("eth_getCode", (contract(), &block)).await;
        assert_eq!(got.is_empty(), block == json!("earliest"), "{block}");
    }
    let code: Bytes = node.call("eth_getCode", (contract(), "latest")).await;
    assert_eq!(code, STORE.slice(10..));
}

#[tokio::test]
async fn a_block_that_is_not_there_or_not_canonical_is_refused() {
    let node = Node::start().await;
    let build = async |timestamp| -> ExecutionPayloadEnvelopeV4 {
        let params = (node.genesis(), attributes(timestamp), json!([]));
        node.call("testing_buildBlockV1", params).await
    };
    let (canonical, side) = (build(102).await, build(103).await);
    node.import(&canonical).await;
    assert!(node.new_payload(&side, &[]).await.is_valid());
    let side = json!({ "blockHash": hash_of(&side) });
    let zero: U256 = node.call("eth_getBalance", (RECIPIENT, &side)).await;
    assert_eq!(zero, U256::ZERO);
    let mut strict = side;
    strict["requireCanonical"] = json!(true);
    for (block, code) in [
        (strict, -32000),
        (json!({ "blockHash": B256::repeat_byte(1) }), -32001),
        (json!("0x7"), -32000),
        (json!("safe"), -32000),
        (json!("0xzz"), -32602),
    ] {
        let refusal = node.refusal("eth_getBalance", (RECIPIENT, &block)).await;
        assert_eq!(refusal.code, code, "{block}: {refusal}");
    }
    let nothing: Option<RpcBlock> = node.call("eth_getBlockByNumber", ("0x7", false)).await;
    assert_eq!(nothing, None);
}

#[tokio::test]
async fn blocks_transactions_and_receipts_agree() {
    let (node, sent) = two_blocks().await;
    let number: U64 = node.call("eth_blockNumber", [(); 0]).await;
    assert_eq!(number, U64::from(2));
    let block: RpcBlock = node.call("eth_getBlockByNumber", ("0x2", true)).await;
    let (checked, transactions) = block.to_block().unwrap();
    assert_eq!(checked, node.client.head().block);
    let by_hash: RpcBlock = node.call("eth_getBlockByHash", (block.hash, true)).await;
    assert_eq!(by_hash, block);
    let count: U64 = node.call("eth_getBlockTransactionCountByHash", [block.hash]).await;
    assert_eq!(count, U64::from(2));
    let count: U64 = node.call("eth_getBlockTransactionCountByNumber", ["latest"]).await;
    assert_eq!(count, U64::from(2));

    let all: Vec<RpcReceipt> = node.call("eth_getBlockReceipts", [block.hash]).await;
    let as_stored: Vec<_> = all.iter().map(RpcReceipt::to_receipt).collect();
    assert_eq!(as_stored, node.client.receipts(block.hash).unwrap());
    for (index, transaction) in transactions.iter().enumerate() {
        assert!(sent[2..].contains(transaction));
        let shown: RpcTransaction =
            node.call("eth_getTransactionByHash", [transaction.hash()]).await;
        assert_eq!((shown.block_number, shown.transaction_index), (Some(2), Some(index as u64)));
        assert_eq!(shown.to_transaction(), *transaction);
        let receipt: RpcReceipt =
            node.call("eth_getTransactionReceipt", [transaction.hash()]).await;
        assert_eq!(receipt, all[index]);
    }
    let created: RpcReceipt = node.call("eth_getTransactionReceipt", [sent[1].hash()]).await;
    assert_eq!(created.contract_address, Some(contract()));
}

#[tokio::test]
async fn calls_are_executed_on_the_state_that_is_named() {
    let (node, _) = two_blocks().await;
    let call = json!({ "to": contract(), "input": B256::with_last_byte(3) });
    let stored: B256 = node.call("eth_call", (&call, "latest")).await;
    assert_eq!(stored, B256::with_last_byte(3));
    let nothing: Bytes = node.call("eth_call", (&call, "earliest")).await;
    assert!(nothing.is_empty());
    // A creation that returns the hash of the block before.
    let call = json!({ "input": "0x4360019003405f5260205ff3" });
    let parent: B256 = node.call("eth_call", (&call, "0x2")).await;
    assert_eq!(parent, node.client.block_by_number(1).unwrap().hash);
    let gas: U64 = node.call("eth_estimateGas", [json!({ "to": RECIPIENT, "value": "0x0" })]).await;
    assert_eq!(gas, U64::from(21_000));

    let data: Bytes = Revert { reason: "no".to_owned() }.abi_encode().into();
    let code = [&hex!("6064600a5f3960645ffd")[..], &data].concat();
    let call = json!({ "data": Bytes::from(code) });
    for method in ["eth_call", "eth_estimateGas"] {
        let refusal = node.refusal(method, [&call]).await;
        assert_eq!((refusal.code, refusal.message.as_str()), (3, "execution reverted: no"));
        assert_eq!(refusal.data.unwrap().get(), json!(data).to_string());
    }
}

#[tokio::test]
async fn logs_are_found_by_range_hash_address_and_topic() {
    let (node, sent) = two_blocks().await;
    let head = node.client.head().hash;
    let topic = B256::with_last_byte(42);
    for filter in [
        json!({ "fromBlock": "0x0", "toBlock": "latest" }),
        json!({}),
        json!({ "blockHash": head, "address": contract() }),
        json!({ "fromBlock": "earliest", "topics": [[topic, B256::ZERO]] }),
    ] {
        let logs: Vec<RpcLog> = node.call("eth_getLogs", [&filter]).await;
        assert_eq!(logs.len(), 1, "{filter}");
        assert_eq!((logs[0].address, logs[0].block_hash), (contract(), Some(head)));
        assert_eq!(logs[0].transaction_hash, Some(*sent[3].hash()));
    }
    for filter in [
        json!({ "fromBlock": "0x0", "toBlock": "0x1" }),
        json!({ "address": RECIPIENT }),
        json!({ "topics": [B256::ZERO] }),
    ] {
        let logs: Vec<RpcLog> = node.call("eth_getLogs", [&filter]).await;
        assert!(logs.is_empty(), "{filter}");
    }
    for filter in [
        json!({ "fromBlock": "0x2", "toBlock": "0x9" }),
        json!({ "fromBlock": "0x2", "toBlock": "0x1" }),
        json!({ "fromBlock": "0x2", "blockHash": head }),
    ] {
        assert_eq!(node.refusal("eth_getLogs", [&filter]).await.code, -32602, "{filter}");
    }
}

#[tokio::test]
async fn fees_are_those_of_the_chain() {
    let (node, _) = two_blocks().await;
    let history: FeeHistory =
        node.call("eth_feeHistory", ("0x2", "latest", [0.0, 50.0, 100.0])).await;
    let (first, second) =
        (node.client.block_by_number(1).unwrap(), node.client.block_by_number(2).unwrap());
    let next = node.client.spec().next_base_fee(second.header());
    let base_fees =
        [first.header().base_fee_per_gas.unwrap(), second.header().base_fee_per_gas.unwrap(), next];
    assert_eq!(history.base_fee_per_gas, base_fees.map(u128::from));
    assert_eq!(history.oldest_block, 1);
    assert_eq!(history.base_fee_per_blob_gas, [1, 1, 1]);
    let gas_used = first.header().gas_used as f64 / first.header().gas_limit as f64;
    assert_eq!(history.gas_used_ratio[0], gas_used);
    assert_eq!(history.reward.unwrap(), [[GWEI; 3], [GWEI; 3]]);
    let tip: U256 = node.call("eth_maxPriorityFeePerGas", [(); 0]).await;
    assert_eq!(tip, U256::from(GWEI));
    let price: U256 = node.call("eth_gasPrice", [(); 0]).await;
    assert_eq!(price, U256::from(u128::from(next) + GWEI));
}

#[tokio::test]
async fn what_waits_is_listed_and_counted() {
    let node = Node::start().await;
    let (ready, early) = (transfer(1, 0, RECIPIENT, 1), transfer(2, 3, RECIPIENT, 1));
    node.send(&ready).await;
    node.send(&early).await;
    let status: Value = node.call("txpool_status", [(); 0]).await;
    assert_eq!(status, json!({ "pending": "0x1", "queued": "0x1" }));
    let content: Value = node.call("txpool_content", [(); 0]).await;
    let address = |seed| signer(seed).address().to_string().to_lowercase();
    assert_eq!(content["pending"][address(1)]["0"]["hash"], json!(ready.hash()));
    assert_eq!(content["queued"][address(2)]["3"]["hash"], json!(early.hash()));
    let sender = signer(1).address();
    let nonce: U64 = node.call("eth_getTransactionCount", (sender, "pending")).await;
    assert_eq!(nonce, U64::from(1));

    let again = node.refusal("eth_sendRawTransaction", [ready.encoded()]).await;
    assert_eq!((again.code, again.message.as_str()), (-32000, "already known"));
    let unpaid = transfer(9, 0, RECIPIENT, 1);
    let poor = node.refusal("eth_sendRawTransaction", [unpaid.encoded()]).await;
    assert!(poor.message.starts_with("insufficient funds"), "{poor}");
    assert_eq!(node.refusal("eth_sendRawTransaction", ["0x00"]).await.code, -32000);
}

#[tokio::test]
async fn a_batch_is_answered_and_unknown_methods_are_refused() {
    let node = Node::start().await;
    let body = r#"[{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]},
        {"jsonrpc":"2.0","id":2,"method":"net_version"},
        {"jsonrpc":"2.0","id":3,"method":"web3_clientVersion","params":[]},
        {"jsonrpc":"2.0","id":4,"method":"eth_syncing","params":[]},
        {"jsonrpc":"2.0","id":5,"method":"eth_mining","params":[]}]"#;
    let answer = node.rpc.forward(body.into(), &Default::default(), DEADLINE).await.unwrap();
    let mut answers: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    answers.sort_by_key(|answer| answer["id"].as_u64());
    let results: Vec<&Value> = answers.iter().map(|answer| &answer["result"]).collect();
    assert_eq!(results[..2], [&json!("0x539"), &json!("1337")]);
    assert!(results[2].as_str().unwrap().starts_with("preconf-devnet/v"));
    assert_eq!(results[3], &json!(false));
    assert_eq!(answers[4]["error"]["code"], -32601);
    // Whoever has no token may not speak for the consensus client.
    let closed = node.refusal("engine_getPayloadV4", ["0x0000000000000001"]).await;
    assert_eq!(closed.code, -32601);
}

/// Builds and takes blocks without sockets.
fn extend(client: &ExecutionClient, blocks: u64) {
    for _ in 0..blocks {
        let head = client.head();
        let attributes = attributes(head.header().timestamp + 2);
        let state = |hash| alloy_rpc_types_engine::ForkchoiceState {
            head_block_hash: hash,
            ..Default::default()
        };
        let wanted = client.fork_choice_updated(state(head.hash), Some(attributes.into())).unwrap();
        let built = client.payload(wanted.payload_id.unwrap()).unwrap();
        let envelope = built.envelope_v4();
        let context = PayloadContext {
            parent_beacon_block_root: built.block.header.parent_beacon_block_root.unwrap(),
            requests: Some(envelope.execution_requests.iter().cloned().collect()),
            ..PayloadContext::default()
        };
        let status = client.new_payload(payload_of(&envelope).clone(), &context).unwrap();
        assert!(status.is_valid(), "{status:?}");
        assert!(client.fork_choice_updated(state(built.hash), None).unwrap().is_valid());
    }
}

#[tokio::test]
async fn states_are_kept_for_256_blocks_and_blocks_for_longer() {
    let kept = Kept { blocks: 280, ..Kept::default() };
    let node = Node::with(spec(), ClientConfig { kept, ..ClientConfig::default() }).await;
    let waiting = transfer(1, 0, RECIPIENT, 5);
    node.send(&waiting).await;
    let client = node.client.clone();
    tokio::task::spawn_blocking(move || extend(&client, 300)).await.unwrap();

    let recipient = async |number: u64| -> U256 {
        node.call("eth_getBalance", (RECIPIENT, U64::from(number))).await
    };
    assert_eq!(recipient(300).await, U256::from(5));
    assert_eq!(recipient(44).await, U256::from(5));
    let gone = node.refusal("eth_getBalance", (RECIPIENT, "0x2b")).await;
    assert!(gone.message.starts_with("no state is kept of the block 0x"), "{gone}");
    let kept = |number| node.client.block_by_number(number).is_some();
    assert_eq!([0, 21, 22, 300].map(kept), [true, false, true, true]);
    assert!(node.client.find_transaction(*waiting.hash()).is_none());
}
