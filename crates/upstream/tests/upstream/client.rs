//! Calls of any kind: verbatim results, deadlines, what errors say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::execution::{Execution, any_port, config, serve, start};
use alloy_primitives::{Address, B256, U256, bytes, keccak256};
use preconf_state::Key;
use preconf_upstream::{Upstream, UpstreamConfig, UpstreamError};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

fn raw(json: &str) -> Option<Box<RawValue>> {
    Some(RawValue::from_string(json.to_owned()).unwrap())
}

#[tokio::test]
async fn a_result_and_an_error_come_back_as_they_were_written() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    let odd = r#"{"a": 1e2,"b":123456789012345678901234567890 ,"c":[null]}"#;
    execution.script("test_echo", odd);
    assert_eq!(upstream.request("test_echo", raw("[1]")).await.unwrap().get(), odd);

    let data = r#"{"a":1.5,"b":"0x00","c":[null,true]}"#;
    let error = upstream.request("test_fail", raw(&format!("[{data}]"))).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.code(), refusal.message()), (3, "it failed"));
    assert_eq!(refusal.data().unwrap().get(), data);
    assert_eq!(execution.http_requests(), 2);
}

#[tokio::test]
async fn an_unknown_method_is_a_refusal_and_no_parameters_are_allowed() {
    let (_execution, upstream, _server) = start(Execution::new()).await;
    let error = upstream.request("eth_nothing", None).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code(), -32601);
    assert_eq!(upstream.request("eth_chainId", None).await.unwrap().get(), "\"0x539\"");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_next_one_works() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let config = UpstreamConfig { timeout: Duration::from_millis(200), ..config(address) };
    let upstream = Upstream::new(config).unwrap();
    let error = upstream.request("test_hang", None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), format!("test_hang at {address} took longer than 200ms"));
    assert_eq!(upstream.chain_id().await.unwrap(), 1337);
}

#[tokio::test]
async fn waiting_for_a_turn_counts_towards_the_deadline() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let timeout = Duration::from_secs(2);
    let config =
        UpstreamConfig { timeout, max_concurrent: std::num::NonZeroUsize::MIN, ..config(address) };
    let upstream = Upstream::new(config).unwrap();
    let began = Instant::now();
    let (first, second) =
        tokio::join!(upstream.request("test_hang", None), upstream.request("test_hang", None));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
    }
    assert!(began.elapsed() < 2 * timeout, "one waited for the other");
}

#[tokio::test]
async fn who_has_turns_of_its_own_waits_for_nobody_else() {
    let execution = Arc::new(Execution::new());
    let (address, _server) = serve(&execution, any_port()).await;
    let config = UpstreamConfig { max_concurrent: std::num::NonZeroUsize::MIN, ..config(address) };
    let upstream = Upstream::new(config).unwrap();
    let apart = upstream.apart();
    let busy = tokio::spawn(async move { upstream.request("test_hang", None).await });
    execution.until(|execution| execution.count("test_hang") == 1).await;
    assert_eq!(apart.chain_id().await.unwrap(), 1337);
    busy.abort();
}

#[tokio::test]
async fn no_error_shows_the_credentials_or_the_path_of_the_url() {
    let gone = tokio::net::TcpListener::bind(any_port()).await.unwrap().local_addr().unwrap();
    let url = format!("http://user:hunter2@{gone}/v3/apikey").parse().unwrap();
    let upstream = Upstream::new(UpstreamConfig::new(url)).unwrap();
    let error = upstream.chain_id().await.unwrap_err();
    assert_eq!(error.to_string(), format!("asking {gone} for eth_chainId"));
    let mut whole = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        whole += &format!("{error} {error:?} ");
        cause = error.source();
    }
    assert!(!whole.contains("hunter2") && !whole.contains("apikey"), "{whole}");
}

#[test]
fn a_url_that_cannot_be_used_is_refused_at_once() {
    for url in ["ftp://localhost", "unix:/socket"] {
        let error = Upstream::new(UpstreamConfig::new(url.parse().unwrap())).unwrap_err();
        assert!(matches!(error, UpstreamError::Url { .. }), "{error}");
    }
    let mut config = UpstreamConfig::new("http://localhost".parse().unwrap());
    config.ws = Some("http://localhost".parse().unwrap());
    assert!(matches!(Upstream::new(config), Err(UpstreamError::Url { .. })));
}

#[tokio::test]
async fn headers_are_found_by_hash_and_the_genesis_by_its_number() {
    let (execution, upstream, _server) = start(Execution::with_blocks(3)).await;
    let hash = execution.canonical(2).unwrap();
    let head = upstream.header(hash).await.unwrap().unwrap();
    assert_eq!((head.number, head.hash), (2, hash));
    assert_eq!(head.parent_hash, execution.canonical(1).unwrap());
    assert_eq!(head.header, execution.header(hash));
    assert_eq!(upstream.header(B256::ZERO).await.unwrap(), None);
    assert_eq!(upstream.latest().await.unwrap().number, 3);
    assert_eq!(upstream.genesis_hash().await.unwrap(), execution.canonical(0).unwrap());
}

/// A server that answers every request with the same body.
async fn stubborn(body: &'static str) -> (Upstream, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(move || async move { body });
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (Upstream::new(config(address)).unwrap(), task)
}

#[tokio::test]
async fn a_batch_that_is_not_answered_in_full_is_an_error() {
    let keys = [1, 2].map(|n| Key::Slot(Address::ZERO, U256::from(n)));
    for body in [
        r#"[{"jsonrpc":"2.0","id":0,"result":"0x1"}]"#,
        r#"[{"jsonrpc":"2.0","id":1,"result":"0x1"}]"#,
        "[]",
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}"#,
        "busy",
    ] {
        let (upstream, _server) = stubborn(body).await;
        let error = upstream.fetch((1, B256::ZERO), &keys).await.unwrap_err();
        assert!(error.to_string().contains("state at block 1"), "{body}: {error}");
    }
    let (upstream, _server) = stubborn(r#"[{"jsonrpc":"2.0","id":0,"result":"0x1"}]"#).await;
    let error = upstream.fetch((1, B256::ZERO), &keys).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Incomplete { asked: 2, answered: 1, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_of_another_shape_is_a_decode_error_that_names_the_method() {
    let (execution, upstream, _server) = start(Execution::new()).await;
    execution.script("eth_chainId", r#"{"id":1}"#);
    let error = upstream.chain_id().await.unwrap_err();
    assert!(matches!(error, UpstreamError::Decode { .. }), "{error}");
    let expected = format!("reading the answer of {} to eth_chainId", upstream.host());
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_raw_transaction_is_handed_over() {
    let (_execution, upstream, _server) = start(Execution::new()).await;
    let transaction = bytes!("02c0ffee");
    let hash = upstream.send_raw_transaction(&transaction).await.unwrap();
    assert_eq!(hash, keccak256(&transaction));
}
