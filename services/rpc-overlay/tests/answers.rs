//! What the overlay answers from a snapshot, over real sockets.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use alloy_primitives::{B256, Bytes, TxKind};
use common::{
    World,
    client::reverted,
    snapshots::{self, COUNTER, OLD, POOR, RICH, SENDER, Sealing},
};
use jsonrpsee::{
    core::client::ClientT, rpc_params, types::ErrorObjectOwned, ws_client::WsClientBuilder,
};
use preconf_primitives::TransactionRefusalReason;
use serde_json::{Value, json};

#[tokio::test]
async fn blocks_are_those_of_the_snapshot() {
    let (world, _consumer) = World::ready(&[]).await;

    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66");
    let latest = world.ask("eth_getBlockByNumber", json!(["latest", true])).await;
    assert_eq!(latest["number"], "0x66");
    assert_eq!(latest["hash"], json!(B256::repeat_byte(0xa2)));
    assert_eq!(latest["stateRoot"], json!(B256::ZERO));
    assert_eq!(latest["transactions"][0]["blockHash"], latest["hash"]);
    assert_eq!(world.ask("eth_getBlockByNumber", json!(["pending", true])).await, latest);
    assert_eq!(world.ask("eth_getBlockByHash", json!([latest["hash"], true])).await, latest);
    let lower = world.ask("eth_getBlockByNumber", json!(["0x65", false])).await;
    assert_eq!(lower["transactions"].as_array().unwrap().len(), 3);
    assert_eq!(world.ask("eth_getBlockByNumber", json!(["0x67", false])).await, Value::Null);
    for (method, block, expected) in [
        ("eth_getBlockTransactionCountByNumber", json!("0x65"), json!("0x3")),
        ("eth_getBlockTransactionCountByNumber", json!("latest"), json!("0x1")),
        ("eth_getBlockTransactionCountByNumber", json!("0x67"), Value::Null),
        ("eth_getBlockTransactionCountByHash", lower["hash"].clone(), json!("0x3")),
        ("eth_getBlockReceipts", json!("0x67"), Value::Null),
    ] {
        assert_eq!(world.ask(method, json!([block])).await, expected, "{method} {block}");
    }
    world.finish().await.unwrap();
}

#[tokio::test]
async fn transactions_and_receipts_are_those_of_the_snapshot() {
    let (world, _consumer) = World::ready(&[]).await;
    let hash = *snapshots::dynamic(snapshots::CREATION_NONCE, TxKind::Create).hash();

    let receipt = world.ask("eth_getTransactionReceipt", json!([hash])).await;
    let receipts = world.ask("eth_getBlockReceipts", json!(["0x65"])).await;
    let transaction = world.ask("eth_getTransactionByHash", json!([hash])).await;

    assert_eq!(receipt, receipts[2]);
    assert_eq!(receipt["blockHash"], json!(B256::repeat_byte(0xa1)));
    assert_eq!(receipt["logs"][0]["logIndex"], "0x2");
    assert_eq!(transaction["blockHash"], receipt["blockHash"]);
    let by_index = "eth_getTransactionByBlockNumberAndIndex";
    assert_eq!(world.ask(by_index, json!(["0x65", "0x2"])).await, transaction);
    assert_eq!(world.ask(by_index, json!(["0x65", "0x3"])).await, Value::Null);
    assert!(world.client.asked("eth_getTransactionReceipt").is_empty());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_sealed_block_is_found_by_its_final_hash() {
    let (world, consumer) = World::ready(&[]).await;
    let final_hash = json!(B256::repeat_byte(0xb1));
    world.client.answer("eth_getBlockByHash", Value::Null);
    assert_eq!(world.ask("eth_getBlockByHash", json!([final_hash, false])).await, Value::Null);

    let mut sealed = snapshots::update(8, Sealing::Sealed);
    sealed.executed.clear();
    consumer.send(sealed);

    let root = json!(B256::repeat_byte(0xd1));
    let count = ("eth_getBlockTransactionCountByHash", json!([final_hash]));
    world.client.answer(count.0, Value::Null);
    world.until(count.0, count.1, json!("0x3")).await;
    let block = world.ask("eth_getBlockByHash", json!([final_hash, false])).await;
    assert_eq!(block["stateRoot"], root);
    let receipts = world.ask("eth_getBlockReceipts", json!(["0x65"])).await;
    assert_eq!(receipts[0]["blockHash"], final_hash);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn state_is_that_after_the_block_that_is_asked_for() {
    let (world, _consumer) = World::ready(&[]).await;

    for (method, params, expected) in [
        ("eth_getBalance", json!([RICH, "latest"]), json!("0x1388")),
        ("eth_getTransactionCount", json!([SENDER, "latest"]), json!("0xe")),
        ("eth_getTransactionCount", json!([SENDER, "0x65"]), json!("0xd")),
        ("eth_getTransactionCount", json!([SENDER]), json!("0xe")),
        ("eth_getBalance", json!([SENDER, { "blockNumber": "0x65" }]), json!("0x384")),
        (
            "eth_getBalance",
            json!([SENDER, { "blockHash": B256::repeat_byte(0xa1), "requireCanonical": true }]),
            json!("0x384"),
        ),
        ("eth_getCode", json!([COUNTER, "pending"]), json!(snapshots::COUNTER_CODE)),
        ("eth_getStorageAt", json!([COUNTER, "0x0", "latest"]), json!(B256::with_last_byte(42))),
        (
            "eth_getStorageAt",
            json!([COUNTER, B256::with_last_byte(1), "latest"]),
            json!(B256::ZERO),
        ),
        ("eth_call", json!([{ "to": COUNTER }, "latest"]), json!(B256::with_last_byte(42))),
    ] {
        // Reading who calls, and who gets the fees, is all that is not in the snapshot.
        nobody_has_anything(&world);
        assert_eq!(world.ask(method, params.clone()).await, expected, "{method} {params}");
    }
    let above = world.refusal("eth_getBalance", json!([RICH, "0x67"])).await;
    assert_eq!(above, (-32_000, "header not found".to_owned()));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn state_that_is_not_pending_is_read_at_the_canonical_block_and_once() {
    let (world, _consumer) = World::ready(&[]).await;
    nobody_has_anything(&world);
    world.client.answer("eth_getCode", json!(snapshots::OLD_CODE));
    world.client.answer("eth_getStorageAt", json!(B256::with_last_byte(9)));
    let call = json!([{ "to": OLD }, "latest"]);

    assert_eq!(world.ask("eth_call", call.clone()).await, json!(B256::with_last_byte(9)));

    let pin = json!({ "blockHash": snapshots::CANONICAL.hash, "requireCanonical": false });
    let slot = json!([OLD, B256::with_last_byte(7), pin]);
    assert_eq!(world.client.asked("eth_getStorageAt"), [slot]);
    assert!(world.client.asked("eth_getCode").contains(&json!([OLD, pin])));
    assert_eq!(world.ask("eth_call", call).await, json!(B256::with_last_byte(9)));
    assert_eq!(world.client.asked("eth_getStorageAt").len(), 1, "it is kept");
    assert_eq!(world.ask("eth_getCode", json!([OLD, "latest"])).await, json!(snapshots::OLD_CODE));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn code_that_a_pending_account_had_before_is_read_where_it_was() {
    let (world, _consumer) = World::ready(&[]).await;
    nobody_has_anything(&world);
    world.client.answer("eth_getCode", json!(snapshots::OLD_CODE));

    let code = world.ask("eth_getCode", json!([OLD, "latest"])).await;

    assert_eq!(code, json!(snapshots::OLD_CODE));
    assert_eq!(world.client.asked("eth_getCode").len(), 1);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_call_that_reverts_says_why() {
    let (world, _consumer) = World::ready(&[]).await;
    nobody_has_anything(&world);
    // PUSH1 0xee, MSTORE8 at 0, REVERT with that byte.
    let code = "0x60ee5f5360015ffd";
    let overrides = json!({ POOR.to_string(): { "code": code } });

    for method in ["eth_call", "eth_estimateGas"] {
        let answer = world.request(method, json!([{ "to": POOR }, "latest", overrides])).await;
        let error = json!({ "code": 3, "message": "execution reverted", "data": "0xee" });
        assert_eq!(answer["error"], error, "{method}");
    }
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_estimate_of_a_transfer_is_that_of_a_transfer() {
    let (world, _consumer) = World::ready(&[]).await;
    nobody_has_anything(&world);

    let estimate = json!([{ "from": RICH, "to": POOR, "value": "0x1" }]);

    assert_eq!(world.ask("eth_estimateGas", estimate).await, "0x5208");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_canonical_latest_is_asked_of_the_client_at_the_snapshots_block() {
    let (world, _consumer) = World::ready(&["--latest", "canonical"]).await;
    world.client.answer("eth_getBalance", json!("0x1"));

    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x64");
    assert_eq!(world.ask("eth_getBalance", json!([RICH, "latest"])).await, "0x1");
    assert_eq!(world.ask("eth_getBalance", json!([RICH])).await, "0x1");
    assert_eq!(world.ask("eth_getBalance", json!([RICH, "pending"])).await, "0x1388");

    let hash = snapshots::CANONICAL.hash;
    let pinned = json!([RICH, { "blockHash": hash, "requireCanonical": true }]);
    assert_eq!(world.client.asked("eth_getBalance"), [pinned.clone(), pinned]);
    world.client.answer("eth_getBlockByHash", json!({ "hash": hash }));
    let latest = world.ask("eth_getBlockByNumber", json!(["latest", true])).await;
    assert_eq!(latest["hash"], json!(hash));
    assert_eq!(world.client.asked("eth_getBlockByHash"), [json!([hash, true])]);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn logs_are_the_clients_up_to_the_canonical_block_and_then_the_snapshots() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_getLogs", json!([{ "logIndex": "0x9", "own": 1 }]));
    let ask = async |filter| world.ask("eth_getLogs", json!([filter])).await;

    let both = ask(json!({ "fromBlock": "0x1", "toBlock": "latest", "address": COUNTER })).await;
    let pending = ask(json!({ "fromBlock": "0x65", "toBlock": "0x66" })).await;
    let newest = ask(json!({})).await;

    assert_eq!(both[0], json!({ "logIndex": "0x9", "own": 1 }));
    assert_eq!(both.as_array().unwrap()[1..], *pending.as_array().unwrap());
    let blocks: Vec<_> = (0..4).map(|at| pending[at]["blockNumber"].clone()).collect();
    assert_eq!(blocks, ["0x65", "0x65", "0x65", "0x66"]);
    assert_eq!(pending[2]["blockHash"], json!(B256::repeat_byte(0xa1)));
    assert_eq!(newest, json!([pending[3]]));
    let below = json!([{ "fromBlock": "0x1", "toBlock": "0x64", "address": COUNTER }]);
    assert_eq!(world.client.asked("eth_getLogs"), [below]);
    let above = world.refusal("eth_getLogs", json!([{ "toBlock": "0x67" }])).await;
    assert_eq!(above, (-32_602, "block range extends beyond current head block".to_owned()));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn access_lists_and_simulations_are_made_on_the_snapshot() {
    let (world, _consumer) = World::ready(&[]).await;
    nobody_has_anything(&world);
    let call = json!({ "to": COUNTER });
    let simulation = json!({ "blockStateCalls": [{ "calls": [call] }] });

    let list = world.ask("eth_createAccessList", json!([call, "latest"])).await;
    let simulated = world.ask("eth_simulateV1", json!([simulation, "0x66"])).await;

    let touched = json!([{ "address": COUNTER, "storageKeys": [B256::ZERO] }]);
    // The callee is warm in any case; its slot is not.
    assert_eq!(list["accessList"], touched);
    assert_eq!(simulated[0]["parentHash"], json!(B256::repeat_byte(0xa2)));
    assert_eq!(simulated[0]["calls"][0]["returnData"], json!(B256::with_last_byte(42)));
    world.client.answer("eth_simulateV1", json!([]));
    world.ask("eth_simulateV1", json!([simulation, "0x5"])).await;
    assert_eq!(world.client.asked("eth_simulateV1"), [json!([simulation, "0x5"])]);
    assert!(world.client.asked("eth_createAccessList").is_empty());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn the_pending_nonce_counts_what_waits_in_the_pool() {
    let (world, _consumer) = World::ready(&[]).await;
    let builder = world.builder().await;
    builder.next_nonce(SENDER, 20);
    builder.next_nonce(COUNTER, 0);
    let nonce = async |who, block| world.ask("eth_getTransactionCount", json!([who, block])).await;

    assert_eq!(nonce(SENDER, "pending").await, "0x14");
    assert_eq!(nonce(SENDER, "latest").await, "0xe");
    assert_eq!(nonce(COUNTER, "pending").await, "0x1", "the snapshot is ahead of the pool");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_waits_in_the_pool_is_shown_without_a_block() {
    let (world, _consumer) = World::ready(&[]).await;
    let builder = world.builder().await;
    let waiting = snapshots::dynamic(99, TxKind::Call(RICH));
    world.client.answer("eth_getTransactionByHash", Value::Null);
    let ask = async || world.ask("eth_getTransactionByHash", json!([waiting.hash()])).await;
    assert_eq!(ask().await, Value::Null);

    builder.hold(waiting.encoded().clone());

    let shown = ask().await;
    assert_eq!(shown["hash"], json!(waiting.hash()));
    assert_eq!((&shown["blockHash"], &shown["blockNumber"]), (&Value::Null, &Value::Null));
    world.client.answer("eth_getTransactionByHash", json!({ "blockNumber": "0x5" }));
    assert_eq!(ask().await, json!({ "blockNumber": "0x5" }), "the chain knows better");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn the_gas_price_is_the_suggested_tip_on_the_pending_base_fee() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_gasPrice", json!("0x5"));
    assert_eq!(world.ask("eth_gasPrice", json!([])).await, "0x5", "without a tip to go by");

    world.client.answer("eth_maxPriorityFeePerGas", json!("0x10"));

    assert_eq!(world.ask("eth_gasPrice", json!([])).await, "0x17");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_transaction_goes_to_the_sequencer_and_its_refusal_comes_back() {
    use TransactionRefusalReason as Reason;
    let (world, _consumer) = World::ready(&[]).await;
    let transaction = snapshots::dynamic(14, TxKind::Call(RICH));
    let raw = json!([transaction.encoded()]);
    let send = "eth_sendRawTransaction";
    let (code, message) = world.refusal(send, raw.clone()).await;
    assert_eq!(code, -32_000);
    assert!(message.starts_with("the sequencer cannot be reached"), "{message}");
    let builder = world.builder().await;

    world.until(send, raw.clone(), json!(transaction.hash())).await;

    assert_eq!(builder.submitted().last(), Some(transaction.encoded()));
    for (reason, detail, code, message) in [
        (
            Reason::NonceTooLow,
            "next nonce 14, tx nonce 3",
            -32_000,
            "nonce too low: next nonce 14, tx nonce 3",
        ),
        (Reason::ReplacementUnderpriced, "", -32_000, "replacement transaction underpriced"),
        (Reason::AlreadyKnown, "", -32_000, "already known"),
        (Reason::Malformed, "", -32_602, "invalid transaction"),
    ] {
        builder.refuse(reason, detail);
        assert_eq!(world.refusal(send, raw.clone()).await, (code, message.to_owned()));
    }
    for malformed in [json!([]), json!(["0xzz"]), json!([5]), json!({ "raw": "0x" })] {
        assert_eq!(world.refusal(send, malformed).await.0, -32_602);
    }
    let huge = Bytes::from(vec![2; 2 << 20]);
    let (code, message) = world.refusal(send, json!([huge])).await;
    assert_eq!(code, -32_000);
    assert!(message.starts_with("oversized data"), "{message}");
    assert!(world.client.asked(send).is_empty(), "never the execution client");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn without_an_ingress_transactions_go_to_the_execution_client_and_its_pool_counts() {
    let (world, _consumer) = World::without_ingress().await;
    let transaction = snapshots::dynamic(14, TxKind::Call(RICH));
    let raw = json!([transaction.encoded()]);
    let send = "eth_sendRawTransaction";
    let too_low = ErrorObjectOwned::owned(-32_000, "nonce too low", None::<()>);
    world.client.refuse(send, too_low);
    assert_eq!(world.refusal(send, raw.clone()).await, (-32_000, "nonce too low".to_owned()));
    let nonce = async |who, block| world.ask("eth_getTransactionCount", json!([who, block])).await;
    assert_eq!(nonce(SENDER, "pending").await, "0xe", "the pool cannot be asked");

    world.client.answer(send, json!(transaction.hash()));
    assert_eq!(world.ask(send, raw.clone()).await, json!(transaction.hash()));

    assert_eq!(world.client.asked(send), [raw.clone(), raw]);
    world.client.answer("eth_getTransactionCount", json!("0xf"));
    assert_eq!(nonce(SENDER, "pending").await, "0xf", "what waits in the pool counts");
    world.client.answer("eth_getTransactionCount", json!("0x0"));
    assert_eq!(nonce(SENDER, "pending").await, "0xe", "the snapshot is ahead of the pool");
    let pooled = json!({ "hash": transaction.hash(), "blockHash": null });
    world.client.answer("eth_getTransactionByHash", pooled.clone());
    assert_eq!(world.ask("eth_getTransactionByHash", json!([transaction.hash()])).await, pooled);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn websockets_answer_alike_and_subscriptions_are_refused() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.refuse("eth_x", reverted());
    let url = format!("ws://{}", world.overlay.address);
    let client = WsClientBuilder::default().build(&url).await.unwrap();

    let number: Value = client.request("eth_blockNumber", rpc_params![]).await.unwrap();
    let refused: Result<Value, _> = client.request("eth_subscribe", rpc_params!["newHeads"]).await;
    let error: Result<Value, _> = client.request("eth_x", rpc_params![]).await;

    assert_eq!(number, "0x66");
    let Err(jsonrpsee::core::ClientError::Call(refused)) = refused else { panic!("refused") };
    assert_eq!(refused.code(), -32_601);
    let Err(jsonrpsee::core::ClientError::Call(error)) = error else { panic!("refused") };
    assert_eq!(error, reverted());
    drop(client);
    world.finish().await.unwrap();
}

/// Every account that is read of the canonical block is empty.
fn nobody_has_anything(world: &World) {
    for (method, nothing) in [
        ("eth_getBalance", json!("0x0")),
        ("eth_getTransactionCount", json!("0x0")),
        ("eth_getCode", json!("0x")),
        ("eth_getStorageAt", json!(B256::ZERO)),
    ] {
        world.client.answer(method, nothing);
    }
}
