//! The runner of execution-apis' cases, against an endpoint that answers as it is told.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use axum::{Json, Router, extract::State, routing::post};
use preconf_chain::ChainSpec;
use preconf_devnet::client::{ClientConfig, ExecutionClient, Kept, Ports, RlpBlocks, serve_on};
use preconf_engine::JwtSecret;
use preconf_tests::conformance::{
    Failure, Output,
    rpc::{self, Answered, Options},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{lines, testdata, whole_suite};

type Answers = Arc<BTreeMap<String, Value>>;

/// What the sample expects, by method.
fn expected() -> BTreeMap<String, Value> {
    let mut answers = BTreeMap::new();
    for entry in fs::read_dir(testdata("rpc")).unwrap() {
        for case in fs::read_dir(entry.unwrap().path()).unwrap() {
            let text = fs::read_to_string(case.unwrap().path()).unwrap();
            let json = |prefix: &str| -> Value {
                let line = text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap();
                serde_json::from_str(line).unwrap()
            };
            answers.insert(json(">> ")["method"].as_str().unwrap().to_owned(), json("<< "));
        }
    }
    answers
}

async fn answer(State(answers): State<Answers>, Json(request): Json<Value>) -> Json<Value> {
    Json(answers[request["method"].as_str().unwrap()].clone())
}

/// Runs the sample against somebody who gives these answers.
async fn run(
    answers: BTreeMap<String, Value>,
    only: &[&str],
    skip: &[&str],
) -> (Answered, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer)).with_state(Arc::new(answers));
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    let (only, skip) = (strings(only), strings(skip));
    let options = Options { suite: testdata("rpc"), url, only, skip, verbose: false };
    let mut output = Output::kept();
    let answered = rpc::run(&options, &mut output).await.unwrap();
    server.abort();
    (answered, lines(output))
}

/// The embedded client with the suite's chain, asked what the suite asks.
#[tokio::test]
async fn the_embedded_client_answers_as_the_suite_expects() {
    let chain = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/chain/testdata");
    let genesis = fs::read_to_string(chain.join("chain_genesis.json")).unwrap();
    let spec = Arc::new(ChainSpec::from_genesis_json(&genesis).unwrap());
    let config = ClientConfig { kept: Kept::EVERYTHING, ..ClientConfig::default() };
    let client = ExecutionClient::new(spec, config);
    for block in RlpBlocks::new(fs::File::open(chain.join("chain.rlp")).unwrap()) {
        client.import(block.unwrap()).unwrap();
    }
    let any = "127.0.0.1:0".parse().unwrap();
    let ports = Ports { engine: any, http: any, websocket: Some(any) };
    let secret = Arc::new(JwtSecret::from_bytes([7; 32]));
    let running = serve_on(client, ports, secret).await.unwrap();

    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/evm/testdata/rpc");
    let suites = [Some(frozen), Some(testdata("rpc")), whole_suite("execution-apis")];
    for suite in suites.into_iter().flatten() {
        let options = Options {
            suite: suite.clone(),
            url: format!("http://{}", running.rpc_addr),
            only: vec![],
            skip: vec![],
            verbose: false,
        };
        let mut output = Output::kept();
        let answered = rpc::run(&options, &mut output).await.unwrap();
        assert!(answered.is_clean(), "{}: {:#?}", suite.display(), lines(output));
    }
}

#[tokio::test]
async fn the_expected_answers_pass() {
    let (answered, lines) = run(expected(), &[], &[]).await;
    assert_eq!(answered, Answered { exact: 3, by_shape: 1, failed: 0, skipped: 0 }, "{lines:#?}");
}

#[tokio::test]
async fn another_message_or_another_value_of_a_shape_passes() {
    let mut answers = expected();
    answers.get_mut("eth_call").unwrap()["error"]["message"] = "reverted".into();
    answers.get_mut("txpool_status").unwrap()["result"]["pending"] = "0x0".into();
    let (answered, lines) = run(answers, &[], &[]).await;
    assert!(answered.is_clean(), "{lines:#?}");
}

#[tokio::test]
async fn another_answer_fails_and_is_shown() {
    let mut answers = expected();
    answers.get_mut("eth_getBalance").unwrap()["result"] = "0x0".into();
    answers.get_mut("eth_call").unwrap()["error"]["code"] = (-32_000).into();
    answers.insert("txpool_status".to_owned(), json!({"id": 1, "jsonrpc": "2.0", "result": {}}));
    let (answered, lines) = run(answers, &[], &[]).await;
    assert_eq!((answered.failed, answered.exact), (3, 1), "{lines:#?}");
    assert!(lines.contains(&"failed eth_getBalance/get-balance".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("result: expected")), "{lines:#?}");
}

#[tokio::test]
async fn cases_are_chosen_by_prefix_and_those_left_out_are_named() {
    let (answered, lines) = run(expected(), &["eth_"], &["eth_call"]).await;
    assert_eq!(answered, Answered { exact: 2, by_shape: 0, failed: 0, skipped: 1 });
    assert!(lines[0].starts_with("skipped eth_call/call-revert-abi-error"), "{lines:#?}");
}

#[tokio::test]
async fn without_anybody_at_the_endpoint_there_is_no_result() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (only, skip) = (Vec::new(), Vec::new());
    let options = Options { suite: testdata("rpc"), url, only, skip, verbose: false };
    let failed = rpc::run(&options, &mut Output::kept()).await.unwrap_err();
    assert!(matches!(failed, Failure::Endpoint { .. }));
}
