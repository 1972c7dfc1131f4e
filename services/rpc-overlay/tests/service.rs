//! How the overlay behaves towards its peers, over real sockets.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::process::Command;

use alloy_primitives::{Address, B256, TxKind};
use common::{
    World,
    client::{ExecutionClient, reverted},
    snapshots::{self, RICH, Sealing},
};
use jsonrpsee::types::ErrorObjectOwned;
use preconf_pending::snapshot::{Canonical, Update};
use preconf_primitives::Seq;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn what_is_not_served_is_forwarded_word_for_word() {
    let (world, _consumer) = World::ready(&[]).await;
    let written = r#"{ "a":1e2, "b":123456789012345678901234567890, "c":"\u0041" }"#;
    world.client.answer_raw("eth_x", written);
    world.client.refuse("eth_y", reverted());

    let answer = world.post(r#"{"jsonrpc":"2.0","id":1,"method":"eth_x","params":[1e2]}"#).await;
    let refused = world.request("eth_y", json!([])).await;

    assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":1,"result":{written}}}"#));
    assert_eq!(refused["error"], serde_json::to_value(reverted()).unwrap());
    assert_eq!(world.client.asked("eth_x"), [json!([1e2])]);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_id_is_echoed_as_it_was_written_or_refused() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_x", json!(true));
    let ask = async |id: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_x","params":null}}"#);
        world.post(&body).await
    };

    for id in ["0", "18446744073709551615", "null", r#""a-1""#, r#""""#] {
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":true}}"#);
        assert_eq!(ask(id).await, expected);
    }
    let asked = world.client.asked("eth_x").len();
    for id in ["-1", "1.5", "18446744073709551616"] {
        let answer: Value = serde_json::from_str(&ask(id).await).unwrap();
        assert_eq!(answer["error"]["code"], -32_600, "{answer}");
    }
    assert_eq!(world.client.asked("eth_x").len(), asked, "nothing was done");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_batch_is_answered_in_order_from_both_sides() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_x", json!("x"));
    world.client.refuse("eth_y", reverted());
    let batch = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber" },
        { "jsonrpc": "2.0", "id": "two", "method": "eth_x" },
        { "jsonrpc": "2.0", "id": 3, "method": "eth_y" },
        { "no": "request" },
        { "jsonrpc": "2.0", "id": 5, "method": "eth_getBlockTransactionCountByNumber", "params": ["0x65"] },
    ]);

    let answers: Value = serde_json::from_str(&world.post(&batch.to_string()).await).unwrap();

    assert_eq!(answers[0], json!({ "jsonrpc": "2.0", "id": 1, "result": "0x66" }));
    assert_eq!(answers[1], json!({ "jsonrpc": "2.0", "id": "two", "result": "x" }));
    assert_eq!(answers[2]["error"], serde_json::to_value(reverted()).unwrap());
    assert_eq!(answers[3]["error"]["code"], -32_600);
    assert_eq!(answers[4], json!({ "jsonrpc": "2.0", "id": 5, "result": "0x3" }));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_no_request_gets_a_standard_error() {
    let (world, _consumer) = World::ready(&[]).await;
    let too_many = vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_x" }); 101];

    for (body, code) in [
        ("{\"jsonrpc\":", -32_700),
        ("[]", -32_600),
        ("{\"id\":7}", -32_600),
        (&json!(too_many).to_string(), -32_010),
    ] {
        let answer: Value = serde_json::from_str(&world.post(body).await).unwrap();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    assert!(world.client.asked("eth_x").is_empty());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_forwarded_latest_is_the_snapshots_canonical_block_by_its_hash() {
    let (world, _consumer) = World::ready(&[]).await;
    for method in ["eth_getProof", "eth_feeHistory", "debug_traceBlockByHash"] {
        world.client.answer(method, json!({}));
    }

    world.ask("eth_getProof", json!([RICH, [], "latest"])).await;
    world.ask("debug_traceBlockByNumber", json!(["latest", { "tracer": "x" }])).await;
    world.ask("eth_feeHistory", json!(["0x1", "latest", []])).await;

    let hash = snapshots::CANONICAL.hash;
    let id = json!({ "blockHash": hash, "requireCanonical": true });
    assert_eq!(world.client.asked("eth_getProof"), [json!([RICH, [], id])]);
    let traced = json!([hash, { "tracer": "x" }]);
    assert_eq!(world.client.asked("debug_traceBlockByHash"), [traced]);
    assert_eq!(world.client.asked("eth_feeHistory"), [json!(["0x1", "0x64", []])]);
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_no_hash_is_asked_by_number_while_that_means_the_same_block() {
    let (world, _consumer) = World::ready(&[]).await;
    let unknown = ErrorObjectOwned::owned(-32_602, "invalid argument", None::<()>);
    world.client.refuse("eth_getProof", unknown);
    world.client.answer_to("eth_getProof", json!([RICH, [], "0x64"]), json!({ "proof": 1 }));
    let question = json!([RICH, [], "latest"]);

    assert_eq!(world.ask("eth_getProof", question.clone()).await, json!({ "proof": 1 }));

    let other = Canonical { hash: B256::repeat_byte(0x99), ..snapshots::CANONICAL };
    world.client.has(&other);
    let (code, message) = world.refusal("eth_getProof", question).await;
    assert_eq!(code, -32_000);
    assert!(message.contains("does not have block 100 yet"), "{message}");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_not_answered_for_a_pending_block_is_refused_and_asked_of_nobody() {
    let (world, _consumer) = World::ready(&[]).await;
    for (method, params) in [
        ("eth_getProof", json!([RICH, [], "0x65"])),
        ("eth_getProof", json!([RICH, [], { "blockHash": B256::repeat_byte(0xa1) }])),
        ("eth_feeHistory", json!(["0x1", "0x65", []])),
        ("debug_traceBlockByNumber", json!(["0x65"])),
        ("debug_traceCall", json!([{}, "0x65"])),
        ("trace_filter", json!([{ "fromBlock": "0x1", "toBlock": "0x65" }])),
    ] {
        let (code, message) = world.refusal(method, params).await;

        assert_eq!(code, -32_000);
        let expected = format!(
            "block 101 is preconfirmed and not canonical yet: {method} is not answered for it"
        );
        assert_eq!(message, expected);
        assert!(world.client.asked(method).is_empty());
    }
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_receipt_does_not_vanish_while_the_execution_client_is_behind() {
    let (world, consumer) = World::ready(&[]).await;
    let hash = *snapshots::dynamic(snapshots::CREATION_NONCE, TxKind::Create).hash();
    let methods = ["eth_getTransactionReceipt", "eth_getTransactionByHash"];
    for method in methods {
        world.client.answer(method, Value::Null);
        assert_ne!(world.ask(method, json!([hash])).await, Value::Null, "it is pending");
    }
    let next = Canonical { number: 101, hash: B256::repeat_byte(0xb1), ..snapshots::CANONICAL };
    world.client.answer_to("eth_getBlockByNumber", json!(["0x65", false]), Value::Null);
    consumer.send(Update { canonical: next, ..snapshots::empty_update(8) });
    world.until("eth_blockNumber", json!([]), json!("0x65")).await;

    for method in methods {
        let (_, message) = world.refusal(method, json!([hash])).await;
        assert!(message.contains("does not have block 101 yet"), "{message}");
    }

    let catches_up = async {
        let asked = world.client.asked("eth_getTransactionReceipt").len();
        while world.client.asked("eth_getTransactionReceipt").len() == asked {
            tokio::task::yield_now().await;
        }
        world.client.answer("eth_getTransactionReceipt", json!({ "blockNumber": "0x65" }));
        world.client.has(&next);
    };
    let asked = world.ask("eth_getTransactionReceipt", json!([hash]));
    let (receipt, ()) = tokio::join!(asked, catches_up);
    assert_eq!(receipt, json!({ "blockNumber": "0x65" }));
    let unknown = world.ask("eth_getTransactionByHash", json!([B256::ZERO])).await;
    assert_eq!(unknown, Value::Null, "a client that is not behind knows best");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn one_address_does_not_take_all_the_connections() {
    let (world, _consumer) = World::ready(&["--max-connections-per-address", "1"]).await;
    let connect = async || TcpStream::connect(world.overlay.address).await.unwrap();
    // What is read of it shows that it has been accepted.
    let mut held = connect().await;
    held.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    held.read_u8().await.unwrap();

    let mut refused = String::new();
    connect().await.read_to_string(&mut refused).await.unwrap();

    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
    assert!(refused.contains("too many connections from your address"), "{refused}");
    let metrics = world.overlay.context.registry.encode();
    assert!(metrics.contains("json_rpc_connections_refused_total 1"), "{metrics}");
    drop(held);
    let admitted = async {
        loop {
            let mut stream = connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).await.unwrap();
            if begin != *b"HTTP/1.1 429" {
                break;
            }
        }
    };
    tokio::time::timeout(common::DEADLINE, admitted).await.unwrap();
    world.finish().await.unwrap();
}

#[tokio::test]
async fn orders_to_the_execution_client_are_not_passed_on() {
    let (world, _consumer) = World::ready(&[]).await;
    for method in ["debug_setHead", "admin_stopHTTP", "engine_newPayloadV4"] {
        assert_eq!(world.refusal(method, json!(["0x0"])).await.0, -32_601);
        assert!(world.client.asked(method).is_empty());
    }
    world.finish().await.unwrap();
}

#[tokio::test]
async fn old_blocks_and_hashes_are_the_execution_clients() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_getBlockByNumber", json!({ "number": "0x64" }));
    world.client.answer("eth_getBalance", json!("0x7"));

    for block in ["0x63", "0x1", "safe", "finalized", "earliest"] {
        let found = world.ask("eth_getBlockByNumber", json!([block, false])).await;
        assert_eq!(found["number"], "0x64");
        assert_eq!(world.ask("eth_getBalance", json!([RICH, block])).await, "0x7");
    }
    let elsewhere = json!([RICH, { "blockHash": B256::repeat_byte(3) }]);
    assert_eq!(world.ask("eth_getBalance", elsewhere.clone()).await, "0x7");
    assert_eq!(world.client.asked("eth_getBalance").last(), Some(&elsewhere));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn at_the_start_the_execution_client_answers_and_a_first_snapshot_is_waited_for() {
    let world = World::new(&[]).await;
    world.client.answer("eth_getBalance", json!("0x7"));

    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x63");
    assert_eq!(world.ask("eth_getBalance", json!([RICH, "latest"])).await, "0x7");

    assert_eq!(world.client.asked("eth_getBalance"), [json!([RICH, "latest"])]);
    assert!(!world.is_ready());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn without_a_consumer_the_overlay_is_ready_when_its_time_is_up() {
    let world = World::new(&["--snapshot-max-age-ms", "200"]).await;
    world.client.answer("eth_getBalance", json!("0x7"));

    world.until_ready().await;

    assert_eq!(world.ask("eth_getBalance", json!([RICH, "latest"])).await, "0x7");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_execution_client_that_is_gone_ends_readiness_until_it_is_back() {
    let (mut world, _consumer) = World::ready(&[]).await;

    world.client.stop().await;

    world.until_not_ready().await;
    let (code, _) = world.refusal("eth_chainId", json!([])).await;
    assert_eq!(code, -32_000);
    world.client.come_back().await;
    world.until_ready().await;
    assert_eq!(world.ask("eth_chainId", json!([])).await, "0x539");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_appears_makes_the_overlay_ready() {
    let world = World::new(&[]).await;
    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x63");

    let consumer = world.consumer().await;
    consumer.greet_with(snapshots::update(7, Sealing::Provisional));

    world.until_ready().await;
    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn without_its_consumer_the_overlay_stays_ready_and_answers_from_the_execution_client() {
    let (world, consumer) = World::ready(&["--snapshot-max-age-ms", "2000"]).await;
    world.client.answer("eth_getBalance", json!("0x7"));
    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66");

    consumer.stop().await;

    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66", "it is still fresh");
    world.until("eth_blockNumber", json!([]), json!("0x63")).await;
    assert_eq!(world.ask("eth_getBalance", json!([RICH, "latest"])).await, "0x7");
    assert!(world.is_ready());
    let consumer = world.consumer().await;
    consumer.greet_with(snapshots::update(8, Sealing::Provisional));
    world.until("eth_blockNumber", json!([]), json!("0x66")).await;
    assert!(world.is_ready());
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_bad_update_changes_nothing_and_the_overlay_starts_again_from_nothing() {
    let (world, consumer) = World::ready(&[]).await;
    consumer.until_subscribed(1).await;
    let mut bad = snapshots::update(8, Sealing::Sealed);
    bad.executed.clear();
    bad.chain[1].seq = Seq::new(99);

    consumer.send(bad);

    consumer.until_subscribed(2).await;
    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66");
    let lower = world.ask("eth_getBlockByNumber", json!(["0x65", false])).await;
    assert_eq!(lower["hash"], json!(B256::repeat_byte(0xa1)));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_part_of_what_a_subscription_begins_with_is_shown_to_nobody() {
    let (world, consumer) = World::ready(&[]).await;
    consumer.until_subscribed(1).await;
    let part = Update { is_part: true, ..snapshots::empty_update(8) };
    let mut bad = snapshots::update(9, Sealing::Sealed);
    bad.executed.clear();
    bad.chain[1].seq = Seq::new(99);

    consumer.greet_with(part);
    consumer.send(bad.clone());
    consumer.until_subscribed(2).await;
    // The next subscription is the answer to what comes after the part.
    consumer.send(bad);
    consumer.until_subscribed(3).await;

    assert_eq!(world.ask("eth_blockNumber", json!([])).await, "0x66");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn a_new_canonical_block_is_read_anew() {
    let (world, consumer) = World::ready(&[]).await;
    world.client.answer("eth_getTransactionCount", json!("0x0"));
    world.client.answer("eth_getCode", json!("0x"));
    world.client.answer("eth_getBalance", json!("0x1"));
    let somebody = Address::repeat_byte(0x77);
    let balance = async || world.ask("eth_getBalance", json!([somebody, "latest"])).await;
    assert_eq!(balance().await, "0x1");
    world.client.answer("eth_getBalance", json!("0x2"));
    assert_eq!(balance().await, "0x1", "the same block has the same balance");

    let mut next = snapshots::update(8, Sealing::Provisional);
    next.canonical.hash = B256::repeat_byte(0xa9);
    consumer.greet_with(next);

    world.until("eth_getBalance", json!([somebody, "latest"]), json!("0x2")).await;
    let asked = world.client.asked("eth_getBalance");
    assert_eq!(asked.last().unwrap()[1]["blockHash"], json!(B256::repeat_byte(0xa9)));
    world.finish().await.unwrap();
}

#[tokio::test]
async fn an_execution_client_that_is_behind_is_asked_again() {
    let (world, _consumer) = World::ready(&[]).await;
    world.client.answer("eth_getTransactionCount", json!("0x0"));
    world.client.answer("eth_getCode", json!("0x"));
    let unknown = ErrorObjectOwned::owned(-32_000, "header not found", None::<()>);
    world.client.refuse("eth_getBalance", unknown);
    let catches_up = async {
        while world.client.asked("eth_getBalance").is_empty() {
            tokio::task::yield_now().await;
        }
        world.client.answer("eth_getBalance", json!("0x5"));
    };

    let asked = world.ask("eth_getBalance", json!([Address::repeat_byte(0x77), "latest"]));
    let (balance, ()) = tokio::join!(asked, catches_up);

    assert_eq!(balance, "0x5");
    world.finish().await.unwrap();
}

#[tokio::test]
async fn state_that_cannot_be_read_is_an_error_that_names_no_peer() {
    let (world, _consumer) = World::ready(&[]).await;

    let unknown = json!([Address::repeat_byte(0x77), "latest"]);
    let (code, message) = world.refusal("eth_getBalance", unknown).await;

    assert_eq!(code, -32_000);
    assert!(message.contains("could not be read from the execution client"), "{message}");
    assert!(!message.contains("127.0.0.1"), "{message}");
    world.finish().await.unwrap();
}

#[test]
fn a_genesis_that_cannot_be_used_exits_2_and_is_named() {
    let flags = [
        "--genesis=/nonexistent/genesis.json",
        "--pending=unix:/nonexistent/pending.sock",
        "--ingress=unix:/nonexistent/ingress.sock",
        "--execution-url=http://127.0.0.1:1",
        "--http-addr=127.0.0.1:0",
    ];

    let ended = Command::new(env!("CARGO_BIN_EXE_preconf-rpc-overlay")).args(flags).output();

    let ended = ended.unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    let line =
        "preconf-rpc-overlay: error: /nonexistent/genesis.json: cannot be read: No such file";
    assert!(stderr.starts_with(line), "{stderr}");
    assert!(ended.stdout.is_empty(), "nothing listens");
}

#[tokio::test]
async fn an_execution_client_of_another_chain_ends_the_overlay() {
    let client = ExecutionClient::start().await;
    client.answer("eth_chainId", json!("0x1"));
    let world = World::with_client(client, &[]).await;
    let shutdown = world.overlay.context.shutdown.clone();

    tokio::time::timeout(common::DEADLINE, shutdown.cancelled()).await.unwrap();

    let exit = world.finish().await.unwrap_err().to_string();
    assert!(exit.contains("its chain id is 1, the genesis file gives 1337"), "{exit}");
}
