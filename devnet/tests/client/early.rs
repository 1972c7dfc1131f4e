//! Blocks between the merge and Cancun: versions 1 and 2 of the Engine API.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_engine::ForkchoiceState;
use preconf_chain::ChainSpec;
use preconf_devnet::client::{ClientConfig, serve};
use preconf_engine::payload::to_payload;
use preconf_engine::rpc::code;
use preconf_engine::{EngineClient, JwtSecret};
use serde_json::{Value, json};

use crate::harness::*;
use crate::import;

const SHANGHAI: u64 = 110;
const CANCUN: u64 = 120;

fn spec() -> Arc<ChainSpec> {
    let mut genesis = genesis(json!(130));
    genesis["config"]["shanghaiTime"] = SHANGHAI.into();
    genesis["config"]["cancunTime"] = CANCUN.into();
    Arc::new(ChainSpec::from_genesis_json(&genesis.to_string()).unwrap())
}

async fn node() -> Node {
    Node::with(spec(), ClientConfig::default()).await
}

fn head(hash: B256) -> ForkchoiceState {
    ForkchoiceState { head_block_hash: hash, ..ForkchoiceState::default() }
}

/// What a payload of this time is asked for with, before Cancun.
fn wanted(timestamp: u64) -> Value {
    let mut wanted = json!({
        "timestamp": format!("{timestamp:#x}"), "prevRandao": B256::repeat_byte(0x22),
        "suggestedFeeRecipient": Address::repeat_byte(0xfe),
    });
    if timestamp >= SHANGHAI {
        let to = Address::repeat_byte(0xdd);
        wanted["withdrawals"] =
            json!([{ "index": "0x0", "validatorIndex": "0x1", "address": to, "amount": "0x5" }]);
    }
    wanted
}

async fn ask(node: &Node, method: &str, params: Value) -> Value {
    node.engine.request(method, &params, DEADLINE).await.unwrap()
}

/// Has a payload built on the head by methods of one version, and fetches it.
async fn build(node: &Node, version: u8, timestamp: u64) -> Value {
    let params = json!([head(node.client.head().hash), wanted(timestamp)]);
    let answer = ask(node, &format!("engine_forkchoiceUpdatedV{version}"), params).await;
    let id = &answer["payloadId"];
    let answer = ask(node, &format!("engine_getPayloadV{version}"), json!([id])).await;
    if version == 1 { answer } else { answer["executionPayload"].clone() }
}

#[tokio::test]
async fn blocks_of_paris_and_of_shanghai_are_built_and_taken() {
    let (builder, other) = (node().await, node().await);
    builder.send(&transfer(1, 0, Address::repeat_byte(0x77), 5)).await;
    for (version, timestamp) in [(1, 102), (2, 104), (2, SHANGHAI), (2, SHANGHAI + 2)] {
        let payload = build(&builder, version, timestamp).await;
        assert_eq!(payload.get("withdrawals").is_some(), timestamp >= SHANGHAI, "{timestamp}");
        assert_eq!(payload.get("blobGasUsed"), None);
        for node in [&builder, &other] {
            let status = ask(node, &format!("engine_newPayloadV{version}"), json!([payload])).await;
            assert_eq!(status["status"], "VALID", "{status}");
            let state =
                json!([head(serde_json::from_value(payload["blockHash"].clone()).unwrap())]);
            let moved = ask(node, &format!("engine_forkchoiceUpdatedV{version}"), state).await;
            assert_eq!(moved["payloadStatus"]["status"], "VALID", "{moved}");
        }
    }
    assert_eq!(other.client.head().number(), 4);
    assert_eq!(other.client.balance(Address::repeat_byte(0x77)), U256::from(5));
    let withdrawn = U256::from(2 * 5) * U256::from(GWEI);
    assert_eq!(other.client.balance(Address::repeat_byte(0xdd)), withdrawn);

    // Bodies have withdrawals from Shanghai on.
    let bodies = ask(&other, "engine_getPayloadBodiesByRangeV1", json!(["0x1", "0x9"])).await;
    let bodies = bodies.as_array().unwrap();
    assert_eq!(bodies.len(), 4);
    assert_eq!(bodies[0]["transactions"].as_array().unwrap().len(), 1);
    assert_eq!(bodies[1]["withdrawals"], Value::Null);
    assert_eq!(bodies[2]["withdrawals"].as_array().unwrap().len(), 1);
    let first = other.client.block_by_number(1).unwrap().hash;
    let by_hash =
        ask(&other, "engine_getPayloadBodiesByHashV1", json!([[B256::ZERO, first]])).await;
    assert_eq!(by_hash, json!([null, bodies[0]]));
}

#[tokio::test]
async fn a_public_chain_is_followed_from_the_merge_to_cancun() {
    let client = import::empty();
    let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
    let any = "127.0.0.1:0".parse().unwrap();
    let running = serve(client.clone(), any, secret.clone(), any).await.unwrap();
    let url = format!("http://{}", running.engine_addr).parse().unwrap();
    let engine = EngineClient::new(&url, secret).unwrap();
    let mut taken = [0, 0];
    for block in import::blocks() {
        let header = &block.header;
        if header.parent_beacon_block_root.is_some() {
            break;
        }
        if !header.difficulty.is_zero() {
            client.import(block).unwrap();
            continue;
        }
        let payload = to_payload(&block).payload_inner;
        let (version, payload) = match header.withdrawals_root {
            None => (1, json!(payload.payload_inner)),
            Some(_) => (2, json!(payload)),
        };
        let method = format!("engine_newPayloadV{version}");
        let status: Value = engine.request(&method, &json!([payload]), DEADLINE).await.unwrap();
        assert_eq!(status["status"], "VALID", "block {}: {status}", header.number);
        let method = format!("engine_forkchoiceUpdatedV{version}");
        let state = json!([head(header.hash_slow()), null]);
        let moved: Value = engine.request(&method, &state, DEADLINE).await.unwrap();
        assert_eq!(moved["payloadStatus"]["status"], "VALID", "{moved}");
        taken[version - 1] += 1;
    }
    assert!(taken.iter().all(|blocks| *blocks > 0), "{taken:?}");
}

#[tokio::test]
async fn what_does_not_fit_the_time_or_the_version_has_its_code() {
    let node = node().await;
    let genesis = node.genesis();
    let of_paris = build(&node, 1, 102).await;
    let of_shanghai = build(&node, 2, SHANGHAI).await;
    let with = |payload: &Value, field: &str, value: Value| {
        let mut payload = payload.clone();
        payload[field] = value;
        json!([payload])
    };
    let late = format!("{CANCUN:#x}");
    let update = |attributes: Value| json!([head(genesis), attributes]);
    let mut without = wanted(SHANGHAI);
    without.as_object_mut().unwrap().remove("withdrawals");
    let mut of_cancun = wanted(CANCUN);
    of_cancun["parentBeaconBlockRoot"] = json!(B256::ZERO);
    let shanghai_id = ask(&node, "engine_forkchoiceUpdatedV2", update(wanted(SHANGHAI))).await;
    let cancun_id = ask(&node, "engine_forkchoiceUpdatedV3", update(of_cancun)).await;
    let foreign =
        json!([ForkchoiceState { safe_block_hash: B256::repeat_byte(9), ..head(genesis) }]);
    let many = vec![B256::ZERO; 1_025];
    for (method, params, code) in [
        ("engine_newPayloadV1", with(&of_paris, "withdrawals", json!([])), code::INVALID_PARAMS),
        ("engine_newPayloadV1", json!([of_shanghai]), code::INVALID_PARAMS),
        ("engine_newPayloadV2", with(&of_paris, "withdrawals", json!([])), code::INVALID_PARAMS),
        (
            "engine_newPayloadV2",
            with(&of_shanghai, "withdrawals", json!(null)),
            code::INVALID_PARAMS,
        ),
        ("engine_newPayloadV2", with(&of_paris, "blobGasUsed", json!("0x0")), code::INVALID_PARAMS),
        (
            "engine_newPayloadV2",
            with(&of_shanghai, "timestamp", json!(late)),
            code::UNSUPPORTED_FORK,
        ),
        ("engine_forkchoiceUpdatedV1", update(wanted(SHANGHAI)), code::INVALID_PARAMS),
        ("engine_forkchoiceUpdatedV2", update(without), code::INVALID_PARAMS),
        ("engine_forkchoiceUpdatedV2", update(wanted(CANCUN)), code::UNSUPPORTED_FORK),
        ("engine_forkchoiceUpdatedV2", update(wanted(100)), code::INVALID_PAYLOAD_ATTRIBUTES),
        ("engine_forkchoiceUpdatedV1", foreign, code::INVALID_FORKCHOICE_STATE),
        ("engine_getPayloadV1", json!(["0x0101010101010101"]), code::UNKNOWN_PAYLOAD),
        ("engine_getPayloadV1", json!([shanghai_id["payloadId"]]), code::UNSUPPORTED_FORK),
        ("engine_getPayloadV2", json!([cancun_id["payloadId"]]), code::UNSUPPORTED_FORK),
        ("engine_getPayloadV4", json!([cancun_id["payloadId"]]), code::UNSUPPORTED_FORK),
        ("engine_getPayloadBodiesByHashV1", json!([many]), code::TOO_LARGE_REQUEST),
        ("engine_getPayloadBodiesByRangeV1", json!(["0x1", "0x401"]), code::TOO_LARGE_REQUEST),
        ("engine_getPayloadBodiesByRangeV1", json!(["0x0", "0x1"]), code::INVALID_PARAMS),
        ("engine_getBlobsV1", json!([many[..129]]), code::TOO_LARGE_REQUEST),
        ("engine_getBlobsV2", json!([many[..1]]), code::UNSUPPORTED_FORK),
    ] {
        let answer = node.engine.request::<_, Value>(method, &params, DEADLINE).await;
        let refusal = refused(answer);
        assert_eq!(refusal.code, code, "{method} {params}: {refusal}");
    }
}

#[tokio::test]
async fn the_head_moves_although_the_attributes_are_of_another_fork() {
    let node = node().await;
    let payload = build(&node, 1, 102).await;
    ask(&node, "engine_newPayloadV1", json!([payload])).await;
    let hash: B256 = serde_json::from_value(payload["blockHash"].clone()).unwrap();
    let params = json!([head(hash), wanted(CANCUN)]);
    let answer =
        node.engine.request::<_, Value>("engine_forkchoiceUpdatedV2", &params, DEADLINE).await;
    assert_eq!(refused(answer).code, code::UNSUPPORTED_FORK);
    assert_eq!(node.client.head().hash, hash);
}
