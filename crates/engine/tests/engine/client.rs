//! The client and the server of this crate, talking to each other over a real socket.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, U256, bytes};
use alloy_rpc_types_engine::{ExecutionPayloadV3, ForkchoiceState, PayloadAttributes, PayloadId};
use http::StatusCode;
use preconf_chain::ProposerPublicKey;
use preconf_engine::rpc::{Params, code};
use preconf_engine::{
    BerachainAttributes, EngineClient, EngineError, JsonRpcServer, JwtSecret, RpcError,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(20);

struct Link {
    client: EngineClient,
    _server: JoinSet<()>,
}

fn secret(byte: u8) -> Arc<JwtSecret> {
    Arc::new(JwtSecret::from_bytes([byte; 32]))
}

async fn link(server: JsonRpcServer, client_secret: Arc<JwtSecret>) -> Link {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let router = server.secret(secret(1)).router();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Link { client: EngineClient::new(&url, client_secret).unwrap(), _server: task }
}

/// A server whose methods answer with what they were given.
fn echo() -> JsonRpcServer {
    JsonRpcServer::new()
        .method("echo", |params: Params| async move { params.required::<Box<RawValue>>(0, "it") })
        .method("refuse", |_| async {
            let data = RawValue::from_string("{\"at\": 1e2}".to_owned()).unwrap();
            Err::<(), _>(RpcError { data: Some(data), ..RpcError::unknown_payload() })
        })
        .method("hang", |_| async {
            pending::<()>().await;
            Ok(())
        })
}

fn source(error: &EngineError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_result_comes_back_as_it_was_written() {
    let link = link(echo(), secret(1)).await;
    let odd = RawValue::from_string(r#"{"a": 1e2, "b":123456789012345678901234567890}"#.to_owned());
    let odd = odd.unwrap();
    let back: Box<RawValue> = link.client.request("echo", &(&odd,), DEADLINE).await.unwrap();
    assert_eq!(back.get(), odd.get());
    let nothing: Option<u64> = link.client.request("echo", &[Value::Null], DEADLINE).await.unwrap();
    assert_eq!(nothing, None);
}

#[tokio::test]
async fn an_error_of_the_client_keeps_its_code_and_data() {
    let link = link(echo(), secret(1)).await;
    let error = link.client.request::<_, Value>("refuse", &[(); 0], DEADLINE).await.unwrap_err();
    assert!(error.to_string().ends_with(" refused refuse"), "{error}");
    assert_eq!(source(&error), "Unknown payload (code -38001)");
    let EngineError::Rpc { error, .. } = error else { panic!("{error}") };
    assert_eq!(error.code, code::UNKNOWN_PAYLOAD);
    assert_eq!(error.data.unwrap().get(), "{\"at\": 1e2}");
}

#[tokio::test]
async fn while_the_two_ends_are_given_another_secret_calls_go_on() {
    let (ours, old, new) = (secret(1), secret(1), secret(2));
    let link = link(echo(), ours.clone()).await;
    // The server has the old one still, and later again.
    assert!(ours.replace(&new));
    assert_eq!(link.client.request::<_, u64>("echo", &[5], DEADLINE).await.unwrap(), 5);
    assert!(ours.replace(&old));
    assert_eq!(link.client.request::<_, u64>("echo", &[6], DEADLINE).await.unwrap(), 6);
}

#[tokio::test]
async fn a_wrong_secret_is_an_http_status() {
    let link = link(echo(), secret(2)).await;
    let error = link.client.request::<_, Value>("echo", &[1], DEADLINE).await.unwrap_err();
    assert!(
        matches!(error, EngineError::Status { status: StatusCode::UNAUTHORIZED, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let link = link(echo(), secret(1)).await;
    let deadline = Duration::from_millis(50);
    let error = link.client.request::<_, Value>("hang", &[1], deadline).await.unwrap_err();
    assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
    assert!(error.to_string().ends_with("took longer than 50ms"), "{error}");
    // The client is good for further calls.
    let one: u64 = link.client.request("echo", &[1], DEADLINE).await.unwrap();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn nobody_at_the_other_end_is_a_transport_error_that_names_it() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = EngineClient::new(&format!("http://{gone}").parse().unwrap(), secret(1)).unwrap();
    let error = client.request::<_, Value>("echo", &[1], DEADLINE).await.unwrap_err();
    assert!(matches!(error, EngineError::Transport { .. }), "{error}");
    assert_eq!(error.to_string(), format!("calling echo at {gone}"));
}

#[tokio::test]
async fn a_result_of_another_shape_is_a_decode_error() {
    let link = link(echo(), secret(1)).await;
    let error = link.client.request::<_, bool>("echo", &["yes"], DEADLINE).await.unwrap_err();
    assert!(matches!(error, EngineError::Decode { .. }), "{error}");
}

#[test]
fn a_url_that_cannot_be_used_is_refused_without_showing_its_credentials() {
    for url in ["https://localhost:8551", "http://user:hunter2@localhost:8551", "file:///jwt"] {
        let error = EngineClient::new(&url.parse().unwrap(), secret(1)).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn each_engine_call_has_the_parameters_of_its_version() {
    let hash = B256::repeat_byte(1);
    let state = ForkchoiceState::same_hash(hash);
    let attributes = PayloadAttributes { timestamp: 5, ..PayloadAttributes::default() };
    let payload: ExecutionPayloadV3 = serde_json::from_value(payload()).unwrap();
    let id = PayloadId::new([7; 8]);
    let expect = |params: Params, expected: Value| {
        for (index, expected) in expected.as_array().unwrap().iter().enumerate() {
            let got: Value = params.required(index, "it").unwrap();
            assert_eq!(&got, expected);
        }
        assert_eq!(params.len(), expected.as_array().unwrap().len());
    };
    let valid = json!({ "status": "VALID", "latestValidHash": hash });
    let envelope = json!({
        "executionPayload": payload, "blockValue": "0x5", "shouldOverrideBuilder": false,
        "blobsBundle": { "commitments": [], "proofs": [], "blobs": [] },
        "executionRequests": ["0x0001"],
    });
    let (v3, v4) = (json!([payload, [], hash]), json!([payload, [hash], hash, ["0x0001"]]));
    let update = json!([state, attributes]);
    let (status, choice) = (valid.clone(), json!({ "payloadStatus": valid, "payloadId": id }));
    let (envelope_v3, envelope_v4) = (envelope.clone(), envelope);
    let server = JsonRpcServer::new()
        .method("engine_newPayloadV3", {
            let status = status.clone();
            move |params| {
                expect(params, v3.clone());
                let status = status.clone();
                async move { Ok(status) }
            }
        })
        .method("engine_newPayloadV4", move |params| {
            expect(params, v4.clone());
            let status = status.clone();
            async move { Ok(status) }
        })
        .method("engine_forkchoiceUpdatedV3", move |params| {
            expect(params, update.clone());
            let choice = choice.clone();
            async move { Ok(choice) }
        })
        .method("engine_getPayloadV3", move |params| {
            expect(params, json!([id]));
            let envelope = envelope_v3.clone();
            async move { Ok(envelope) }
        })
        .method("engine_getPayloadV4", move |params| {
            expect(params, json!([id]));
            let envelope = envelope_v4.clone();
            async move { Ok(envelope) }
        })
        .method("engine_exchangeCapabilities", move |params: Params| async move {
            params.required::<Vec<String>>(0, "capabilities")
        });

    let link = link(server, secret(1)).await;
    let client = &link.client;
    assert!(client.new_payload_v3(&payload, &[], hash, DEADLINE).await.unwrap().is_valid());
    let requests = [bytes!("0001")];
    let status = client.new_payload_v4(&payload, &[hash], hash, &requests, DEADLINE).await.unwrap();
    assert_eq!(status.latest_valid_hash, Some(hash));
    let answer = client.fork_choice_updated_v3(state, Some(&attributes), DEADLINE).await.unwrap();
    assert_eq!(answer.payload_id, Some(id));
    assert_eq!(client.get_payload_v3(id, DEADLINE).await.unwrap().block_value, U256::from(5));
    let envelope = client.get_payload_v4(id, DEADLINE).await.unwrap();
    assert_eq!(envelope.execution_requests.to_vec(), requests);
    let capabilities = client.exchange_capabilities(&["a", "b"], DEADLINE).await.unwrap();
    assert_eq!(capabilities, ["a", "b"]);
}

#[tokio::test]
async fn berachains_calls_carry_the_proposers_key_where_its_clients_look_for_it() {
    let (hash, id) = (B256::repeat_byte(1), PayloadId::new([7; 8]));
    let key = ProposerPublicKey::repeat_byte(0x95);
    let state = ForkchoiceState::same_hash(hash);
    let payload: ExecutionPayloadV3 = serde_json::from_value(payload()).unwrap();
    let valid = json!({ "status": "VALID", "latestValidHash": hash });
    let envelope = json!({
        "executionPayload": payload, "blockValue": "0x5", "shouldOverrideBuilder": false,
        "blobsBundle": { "commitments": [], "proofs": [], "blobs": [] },
        "executionRequests": ["0x0001"], "parentProposerPubKey": key,
    });
    let expected_payload = json!([payload, [hash], hash, ["0x0001"], key]);
    let choice = json!({ "payloadStatus": valid, "payloadId": id });
    let given = |params: &Params| -> Vec<Value> {
        (0..params.len()).map(|index| params.required(index, "it").unwrap()).collect()
    };
    let server = JsonRpcServer::new()
        .method("engine_newPayloadV4P11", move |params| {
            assert_eq!(json!(given(&params)), expected_payload);
            let valid = valid.clone();
            async move { Ok(valid) }
        })
        .method("engine_forkchoiceUpdatedV3P11", move |params| {
            assert_eq!(given(&params)[1]["timestamp"], "0x5");
            assert_eq!(given(&params)[1]["parentProposerPubKey"], json!(key));
            let choice = choice.clone();
            async move { Ok(choice) }
        })
        .method("engine_getPayloadV4P11", move |params| {
            assert_eq!(json!(given(&params)), json!([id]));
            let envelope = envelope.clone();
            async move { Ok(envelope) }
        });
    let link = link(server, secret(1)).await;
    let client = &link.client;
    let requests = [bytes!("0001")];
    let blobs = [hash];
    let status = client.new_payload_v4_p11(&payload, &blobs, hash, &requests, &key, DEADLINE);
    assert!(status.await.unwrap().is_valid());
    let attributes = PayloadAttributes { timestamp: 5, ..PayloadAttributes::default() };
    let attributes = BerachainAttributes { attributes, parent_proposer_pubkey: key };
    let answer = client.fork_choice_updated_v3_p11(state, Some(&attributes), DEADLINE).await;
    assert_eq!(answer.unwrap().payload_id, Some(id));
    let envelope = client.get_payload_v4_p11(id, DEADLINE).await.unwrap();
    assert_eq!(envelope.execution_requests.to_vec(), requests);
}

fn payload() -> Value {
    let hash = B256::repeat_byte(2);
    json!({
        "parentHash": hash, "feeRecipient": "0x3333333333333333333333333333333333333333",
        "stateRoot": hash, "receiptsRoot": hash, "logsBloom": format!("0x{}", "00".repeat(256)),
        "prevRandao": hash, "blockNumber": "0x64", "gasLimit": "0x1c9c380", "gasUsed": "0x0",
        "timestamp": "0x5", "extraData": "0x", "baseFeePerGas": "0x7", "blockHash": hash,
        "transactions": [], "withdrawals": [], "blobGasUsed": "0x0", "excessBlobGas": "0x0",
    })
}
