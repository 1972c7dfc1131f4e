//! What the consensus client is told.

use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_engine::{
    ExecutionPayloadEnvelopeV4, ForkchoiceState, PayloadAttributes, PayloadId, PayloadStatus,
    PayloadStatusEnum,
};
use preconf_chain::rpc::{RpcReceipt, RpcTransaction};
use preconf_engine::EngineError;
use preconf_engine::payload::{BesidePayload, PayloadError, from_payload};
use preconf_engine::rpc::code;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

fn syncing(status: &PayloadStatus) -> bool {
    status.is_syncing() && status.latest_valid_hash.is_none()
}

/// The same block with another state root, hashed anew.
fn with_state_root(
    envelope: &ExecutionPayloadEnvelopeV4,
    state_root: B256,
) -> ExecutionPayloadEnvelopeV4 {
    let mut envelope = envelope.clone();
    let payload = &mut envelope.envelope_inner.execution_payload;
    payload.payload_inner.payload_inner.state_root = state_root;
    let beside = BesidePayload {
        parent_beacon_block_root: Some(beacon_root(payload.timestamp())),
        requests_hash: Some(envelope.execution_requests.requests_hash()),
        prev_proposer_pubkey: None,
    };
    let Err(PayloadError::BlockHash { got, .. }) = from_payload(payload.clone(), &beside) else {
        panic!("the hash cannot fit");
    };
    payload.payload_inner.payload_inner.block_hash = got;
    envelope
}

#[tokio::test]
async fn a_wrong_state_root_is_refused_naming_both_and_so_are_its_descendants() {
    let node = Node::start().await;
    node.send(&transfer(1, 0, Address::ZERO, 1)).await;
    let good = node.payload(node.genesis(), &attributes(102)).await;
    let right = payload_of(&good).payload_inner.payload_inner.state_root;
    let wrong = B256::repeat_byte(0x11);
    let bad = with_state_root(&good, wrong);

    let status = node.new_payload(&bad, &[]).await;
    let expected = format!("mismatched block state root: got {right}, expected {wrong}");
    assert_eq!(status.status, PayloadStatusEnum::Invalid { validation_error: expected });
    assert_eq!(status.latest_valid_hash, Some(node.genesis()));

    let mut child = bad.clone();
    let inner = &mut child.envelope_inner.execution_payload.payload_inner.payload_inner;
    inner.parent_hash = hash_of(&bad);
    inner.block_number = 2;
    let child = with_state_root(&child, right);
    let status = node.new_payload(&child, &[]).await;
    assert!(status.is_invalid(), "{status:?}");
    assert_eq!(status.latest_valid_hash, Some(node.genesis()));
    let head = node.forkchoice(hash_of(&child), None).await;
    assert!(head.is_invalid(), "{head:?}");

    // The right one is not affected.
    node.import(&good).await;
}

#[tokio::test]
async fn a_hash_that_is_not_the_blocks_is_refused_naming_both() {
    let node = Node::start().await;
    let good = node.payload(node.genesis(), &attributes(102)).await;
    let mut bad = good.clone();
    let inner = &mut bad.envelope_inner.execution_payload.payload_inner.payload_inner;
    inner.block_hash = B256::repeat_byte(0x33);
    let status = node.new_payload(&bad, &[]).await;
    let expected =
        format!("block hash mismatch: want {}, got {}", B256::repeat_byte(0x33), hash_of(&good));
    assert_eq!(status.status, PayloadStatusEnum::Invalid { validation_error: expected });
    assert_eq!(status.latest_valid_hash, None);
}

#[tokio::test]
async fn a_block_without_its_parent_is_not_judged() {
    let (node, other) = (Node::start().await, Node::start().await);
    node.advance().await;
    let second = node.advance().await;
    assert!(syncing(&other.new_payload(&second, &[]).await));
    assert!(syncing(&other.forkchoice(hash_of(&second), None).await.payload_status));
    assert_eq!(other.client.head().number(), 0);
}

#[tokio::test]
async fn a_reorg_replaces_blocks_and_sets_their_transactions_free() {
    let node = Node::start().await;
    let (kept, freed) =
        (transfer(1, 0, Address::repeat_byte(1), 1), transfer(2, 0, Address::repeat_byte(2), 2));
    let build = async |transactions: Value, timestamp| -> ExecutionPayloadEnvelopeV4 {
        let params = (node.genesis(), attributes(timestamp), transactions);
        node.call("testing_buildBlockV1", params).await
    };
    let ours = build(json!([kept.encoded(), freed.encoded()]), 102).await;
    let theirs = build(json!([kept.encoded()]), 103).await;
    node.import(&ours).await;
    node.advance().await;
    assert_eq!(node.client.head().number(), 2);

    node.import(&theirs).await;
    assert_eq!(node.client.head().hash, hash_of(&theirs));
    assert_eq!(node.client.block_by_number(1).unwrap().hash, hash_of(&theirs));
    assert!(node.client.block_by_number(2).is_none());
    let receipt = async |hash: &B256| -> Option<RpcReceipt> {
        node.call("eth_getTransactionReceipt", [hash]).await
    };
    assert_eq!(receipt(kept.hash()).await.unwrap().block_hash, Some(hash_of(&theirs)));
    assert_eq!(receipt(freed.hash()).await, None);
    let waiting: Option<RpcTransaction> =
        node.call("eth_getTransactionByHash", [freed.hash()]).await;
    assert_eq!(waiting.unwrap().block_hash, None);
    assert_eq!(node.client.balance(Address::repeat_byte(2)), U256::ZERO);

    // It is part of the next block, and the old branch can come back.
    assert_eq!(transactions_of(&node.advance().await), [freed.encoded().clone()]);
    node.make_head(hash_of(&ours)).await;
    assert_eq!(receipt(freed.hash()).await.unwrap().block_hash, Some(hash_of(&ours)));
    assert_eq!(node.client.waiting(), 0);
}

#[tokio::test]
async fn a_payload_can_be_built_again_on_the_parent_of_the_head() {
    let node = Node::start().await;
    node.advance().await;
    let first = node.client.head();
    node.send(&transfer(1, 0, Address::ZERO, 1)).await;
    let replaced = node.advance().await;
    assert_eq!(transactions_of(&replaced).len(), 1);

    let again = node.payload(first.hash, &attributes(first.header().timestamp + 3)).await;
    assert_eq!(node.client.head().hash, first.hash);
    assert_eq!(transactions_of(&again), transactions_of(&replaced));
    node.import(&again).await;
    assert_eq!(node.client.head().number(), 2);
}

#[tokio::test]
async fn contradictions_in_the_forkchoice_are_refused() {
    let node = Node::start().await;
    node.advance().await;
    let (genesis, head) = (node.genesis(), node.client.head().hash);
    let update = async |head, safe, finalized, attributes: Option<&PayloadAttributes>| {
        let state = ForkchoiceState {
            head_block_hash: head,
            safe_block_hash: safe,
            finalized_block_hash: finalized,
        };
        node.engine.fork_choice_updated_v3(state, attributes, DEADLINE).await
    };
    let unknown = B256::repeat_byte(9);
    for (head, safe, finalized) in
        [(B256::ZERO, genesis, genesis), (head, unknown, genesis), (genesis, genesis, head)]
    {
        let refusal = refused(update(head, safe, finalized, None).await);
        assert_eq!(refusal.code, code::INVALID_FORKCHOICE_STATE, "{refusal}");
    }
    assert_eq!(node.client.head().hash, head);
    assert!(update(head, head, genesis, None).await.unwrap().is_valid());
    assert_eq!(node.client.finalized().unwrap().hash, genesis);

    let timestamp = node.client.head().header().timestamp;
    let late = attributes(timestamp);
    let missing = PayloadAttributes { withdrawals: None, ..attributes(timestamp + 2) };
    for attributes in [late, missing] {
        let refusal = refused(update(head, head, genesis, Some(&attributes)).await);
        assert_eq!(refusal.code, code::INVALID_PAYLOAD_ATTRIBUTES, "{refusal}");
    }
}

#[tokio::test]
async fn what_does_not_fit_a_method_has_its_code() {
    let node = Node::start().await;
    let unknown = refused(node.engine.get_payload_v4(PayloadId::new([1; 8]), DEADLINE).await);
    assert_eq!(unknown.code, code::UNKNOWN_PAYLOAD);

    let id = node.forkchoice(node.genesis(), Some(&attributes(102))).await.payload_id.unwrap();
    let old = refused(node.engine.get_payload_v3(id, DEADLINE).await);
    assert_eq!(old.code, code::UNSUPPORTED_FORK);
    let envelope = node.engine.get_payload_v4(id, DEADLINE).await.unwrap();
    let payload = payload_of(&envelope);
    let root = beacon_root(102);
    let old = refused(node.engine.new_payload_v3(payload, &[], root, DEADLINE).await);
    assert_eq!(old.code, code::UNSUPPORTED_FORK);
    let requests = [vec![1].into()];
    let malformed =
        refused(node.engine.new_payload_v4(payload, &[], root, &requests, DEADLINE).await);
    assert_eq!(malformed.code, code::INVALID_PARAMS);
}

#[tokio::test]
async fn the_client_says_what_it_can_and_what_it_is() {
    let node = Node::start().await;
    let ours = ["engine_newPayloadV4"];
    let theirs = node.engine.exchange_capabilities(&ours, DEADLINE).await.unwrap();
    for method in [
        "engine_newPayloadV1",
        "engine_newPayloadV2",
        "engine_newPayloadV3",
        "engine_newPayloadV4",
        "engine_forkchoiceUpdatedV1",
        "engine_forkchoiceUpdatedV2",
        "engine_forkchoiceUpdatedV3",
        "engine_getPayloadV1",
        "engine_getPayloadV2",
        "engine_getPayloadV3",
        "engine_getPayloadV4",
        "engine_getPayloadBodiesByHashV1",
        "engine_getPayloadBodiesByRangeV1",
        "engine_getBlobsV1",
        "engine_getClientVersionV1",
        "testing_buildBlockV1",
    ] {
        assert!(theirs.iter().any(|known| known == method), "{method} in {theirs:?}");
    }
    // Whatever is listed is served.
    for method in &theirs {
        let answer = node.engine.request::<_, Value>(method, &[(); 0], DEADLINE).await;
        if let Err(EngineError::Rpc { error, .. }) = answer {
            assert_ne!(error.code, code::METHOD_NOT_FOUND, "{method}");
        }
    }
    assert!(!theirs.iter().any(|known| known == "engine_exchangeCapabilities"));
    let version: Value =
        node.engine.request("engine_getClientVersionV1", &[json!({})], DEADLINE).await.unwrap();
    assert_eq!(version[0]["name"], "preconf-devnet");
    // The consensus client reads the chain by the same door.
    let id: String = node.engine.request("eth_chainId", &[0; 0], DEADLINE).await.unwrap();
    let block: Value = node
        .engine
        .request("eth_getBlockByNumber", &json!(["latest", false]), DEADLINE)
        .await
        .unwrap();
    assert_eq!((id.as_str(), &block["hash"]), ("0x539", &json!(node.genesis())));
}

#[tokio::test]
async fn the_engine_api_asks_for_a_token() {
    let node = Node::start().await;
    let mut connection = tokio::net::TcpStream::connect(node.running.engine_addr).await.unwrap();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;
    let length = body.len();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: devnet\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = connection.read_to_string(&mut answer);
    tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
