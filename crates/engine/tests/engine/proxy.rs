//! The proxy between a caller and a scripted execution client, over real sockets.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadId};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use preconf_engine::proxy::{
    EngineHooks, ForkchoiceCall, HookFuture, NewPayloadCall, PayloadVersion,
};
use preconf_engine::{EngineClient, EngineProxy, JwtSecret, ProxyConfig};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";
const OURS: &str = "0x0909090909090909";
const THEIRS: &str = "0x0101010101010101";

/// Longer than anything here takes, so that a failing test ends.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn inbound() -> Arc<JwtSecret> {
    Arc::new(JwtSecret::from_bytes([1; 32]))
}

fn outbound() -> Arc<JwtSecret> {
    Arc::new(JwtSecret::from_bytes([2; 32]))
}

// ---- the execution client -------------------------------------------------------------------

type Script = dyn Fn(&str) -> (StatusCode, String) + Send + Sync;

/// An execution client that answers what it is told to and remembers what it was asked.
struct Execution {
    asked: Mutex<Vec<Bytes>>,
    /// Each request waits for one permit, if set.
    gate: Option<tokio::sync::Semaphore>,
    arrived: mpsc::Sender<String>,
    script: Box<Script>,
}

async fn execution(State(client): State<Arc<Execution>>, request: Request<Body>) -> Response {
    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
    assert_eq!(outbound().verify(token.strip_prefix("Bearer ").unwrap(), now()), Ok(()));
    assert_eq!(request.headers()["content-type"], "application/json");
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    client.asked.lock().unwrap().push(body);
    let _ = client.arrived.try_send(text.clone());
    if let Some(gate) = &client.gate {
        gate.acquire().await.unwrap().forget();
    }
    let (status, answer) = (client.script)(&text);
    Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=x")
        .body(Body::from(answer))
        .unwrap()
}

fn by_method(body: &str) -> (StatusCode, String) {
    let answer = if body.contains("forkchoiceUpdated") {
        forkchoice_answer(THEIRS)
    } else if body.contains("getPayload") && !body.contains(THEIRS) {
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-38001,"message":"Unknown payload"}}"#.to_owned()
    } else if body.contains("newPayload") {
        r#"{"jsonrpc":"2.0","id":1,"result":{"status":"VALID"}}"#.to_owned()
    } else {
        r#"{"jsonrpc": "2.0", "id": 1, "result": {"theirs": 1e2}}"#.to_owned()
    };
    (StatusCode::OK, answer)
}

fn forkchoice_answer(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"payloadStatus":{{"status":"VALID","latestValidHash":"{HASH}","validationError":null}},"payloadId":"{id}"}}}}"#
    )
}

// ---- the hooks ------------------------------------------------------------------------------

/// What the hooks do when they are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Decline,
    Answer,
    Panic,
    PanicLater,
    Hang,
    Block,
}

struct Hooks {
    mood: Mutex<Mood>,
    seen: watch::Sender<Vec<String>>,
    /// Forkchoice hooks wait for this, if set.
    hold: Option<Arc<Notify>>,
}

impl Hooks {
    fn saw(&self, call: String) {
        self.seen.send_modify(|seen| seen.push(call));
    }

    async fn act<T>(&self, answer: T) -> Option<T> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Decline => None,
            Mood::Answer => Some(answer),
            Mood::Panic => panic!("a hook panics, as this test wants"),
            Mood::PanicLater => {
                tokio::task::yield_now().await;
                panic!("a hook panics after an await, as this test wants")
            }
            Mood::Hang => pending().await,
            Mood::Block => {
                std::thread::park_timeout(Duration::from_millis(500));
                None
            }
        }
    }
}

impl EngineHooks for Hooks {
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>> {
        assert_ne!(*self.mood.lock().unwrap(), Mood::Panic, "before the first await");
        Box::pin(async move {
            let timestamp = call.attributes.as_ref().map_or(0, |attributes| attributes.timestamp);
            self.saw(format!("forkchoice {timestamp}"));
            assert_eq!(answer.payload_id, Some(THEIRS.parse().unwrap()));
            if let Some(hold) = &self.hold {
                hold.notified().await;
            }
            self.act(OURS.parse().unwrap()).await
        })
    }

    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>> {
        self.saw(format!("getPayload {version:?} {id}"));
        Box::pin(self.act(RawValue::from_string(r#"{"ours": 1e2}"#.to_owned()).unwrap()))
    }

    fn new_payload_valid(&self, call: NewPayloadCall) {
        assert_ne!(*self.mood.lock().unwrap(), Mood::Panic, "in a plain function");
        let parsed = call.parse().map(|new| {
            let number = new.payload.payload_inner.payload_inner.block_number;
            new.parent_proposer_pubkey.map_or(number, |key| number + u64::from(key[0]))
        });
        self.saw(format!("newPayload {:?} {parsed:?}", call.version()));
    }
}

// ---- the arrangement ------------------------------------------------------------------------

struct Arrangement {
    proxy: EngineProxy,
    hooks: Arc<Hooks>,
    execution: Arc<Execution>,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<String>>,
    address: SocketAddr,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    _servers: JoinSet<()>,
}

#[derive(Clone)]
struct Options {
    mood: Mood,
    config: ProxyConfig,
    gated: bool,
    hold: Option<Arc<Notify>>,
}

impl Default for Options {
    fn default() -> Self {
        let config = ProxyConfig { hook_deadline: PATIENCE, ..ProxyConfig::default() };
        Self { mood: Mood::Decline, config, gated: false, hold: None }
    }
}

async fn serve(servers: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn arrange(options: Options) -> Arrangement {
    arrange_with(options, by_method).await
}

async fn arrange_with(
    options: Options,
    script: impl Fn(&str) -> (StatusCode, String) + Send + Sync + 'static,
) -> Arrangement {
    let (arrived, arrivals) = mpsc::channel(1000);
    let execution = Arc::new(Execution {
        asked: Mutex::default(),
        gate: options.gated.then(|| tokio::sync::Semaphore::new(0)),
        arrived,
        script: Box::new(script),
    });
    let mut servers = JoinSet::new();
    let router = Router::new().fallback(self::execution).with_state(Arc::clone(&execution));
    let upstream = serve(&mut servers, router).await;

    let url = format!("http://{upstream}/engine").parse().unwrap();
    let client = EngineClient::new(&url, outbound()).unwrap();
    let hooks = Arc::new(Hooks {
        mood: Mutex::new(options.mood),
        seen: watch::Sender::default(),
        hold: options.hold,
    });
    let proxy = EngineProxy::new(client, inbound(), hooks.clone(), options.config);
    let address = serve(&mut servers, proxy.router()).await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let arrivals = tokio::sync::Mutex::new(arrivals);
    Arrangement { proxy, hooks, execution, arrivals, address, http, _servers: servers }
}

impl Arrangement {
    async fn send(&self, body: &str) -> (StatusCode, String) {
        let (status, _, body) = self.send_as(&inbound().sign(now()), body).await;
        (status, body)
    }

    async fn send_as(&self, token: &str, body: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::post(format!("http://{}/any/path", self.address))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.http.request(request)).await;
        let (parts, body) = answer.unwrap().unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.execution.asked.lock().unwrap();
        asked.iter().map(|body| String::from_utf8(body.to_vec()).unwrap()).collect()
    }

    fn seen(&self) -> Vec<String> {
        self.hooks.seen.borrow().clone()
    }

    async fn arrival(&self) -> String {
        let mut arrivals = self.arrivals.lock().await;
        tokio::time::timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap()
    }

    async fn until_seen(&self, count: usize) {
        let mut seen = self.hooks.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.len() >= count);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }

    fn open_gate(&self) {
        self.execution.gate.as_ref().unwrap().add_permits(1);
    }
}

fn forkchoice(timestamp: u64) -> String {
    let address = "0x3333333333333333333333333333333333333333";
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_forkchoiceUpdatedV3","params":[{{"headBlockHash":"{HASH}","safeBlockHash":"{HASH}","finalizedBlockHash":"{HASH}"}},{{"timestamp":"{timestamp:#x}","prevRandao":"{HASH}","suggestedFeeRecipient":"{address}","withdrawals":[],"parentBeaconBlockRoot":"{HASH}"}}]}}"#
    )
}

fn get_payload(version: u8, id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_getPayloadV{version}","params":["{id}"]}}"#
    )
}

fn new_payload() -> String {
    let bloom = format!("0x{}", "00".repeat(256));
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_newPayloadV4","params":[{{"parentHash":"{HASH}","feeRecipient":"0x3333333333333333333333333333333333333333","stateRoot":"{HASH}","receiptsRoot":"{HASH}","logsBloom":"{bloom}","prevRandao":"{HASH}","blockNumber":"0x64","gasLimit":"0x1c9c380","gasUsed":"0x0","timestamp":"0x5","extraData":"0x","baseFeePerGas":"0x7","blockHash":"{HASH}","transactions":[],"withdrawals":[],"blobGasUsed":"0x0","excessBlobGas":"0x0"}},[],"{HASH}",[]]}}"#
    )
}

// ---- forwarding -----------------------------------------------------------------------------

#[tokio::test]
async fn what_is_not_ours_passes_byte_for_byte_whatever_its_id() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let mut sent = Vec::new();
    for id in ["1", "-1", "1.5", "\"x\"", "null", "99999999999999999999"] {
        for method in ["eth_chainId", "engine_getPayloadV9", "engine_forkchoiceUpdatedV3P11"] {
            let body = format!(
                "{{ \"jsonrpc\":\"2.0\",\"method\":\"{method}\",\n\"params\":null,\"id\":{id}}} "
            );
            let (status, answer) = arrangement.send(&body).await;
            assert_eq!((status, answer), by_method(&body));
            sent.push(body);
        }
    }
    assert_eq!(arrangement.asked(), sent);
    assert!(arrangement.seen().is_empty());
}

#[tokio::test]
async fn batches_notifications_and_rubbish_pass_byte_for_byte() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let batch = format!("[{},{}]", get_payload(4, THEIRS), get_payload(3, THEIRS));
    let notification = r#"{"method":"engine_newPayloadV4","params":[]}"#;
    for body in [batch.as_str(), notification, "{", "", "\u{1f980}"] {
        assert_eq!(arrangement.send(body).await.0, StatusCode::OK);
    }
    assert_eq!(arrangement.asked(), [batch.as_str(), notification, "{", "", "\u{1f980}"]);
    assert!(arrangement.seen().is_empty());
}

#[tokio::test]
async fn the_status_and_content_type_of_the_client_are_handed_on() {
    let script = |_: &str| (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned());
    let arrangement = arrange_with(Options::default(), script).await;
    let token = inbound().sign(now());
    let (status, headers, body) = arrangement.send_as(&token, &forkchoice(5)).await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "starting"));
    assert_eq!(headers["content-type"], "application/json; charset=x");
    assert!(arrangement.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_is_down_is_a_bad_gateway_that_echoes_the_id() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = EngineClient::new(&format!("http://{gone}").parse().unwrap(), outbound()).unwrap();
    let mut arrangement = arrange(Options::default()).await;
    let hooks = Arc::clone(&arrangement.hooks);
    let proxy = EngineProxy::new(client, inbound(), hooks, ProxyConfig::default());
    arrangement.address = serve(&mut arrangement._servers, proxy.router()).await;

    let (status, body) = arrangement.send(r#"{"id":"a","method":"eth_chainId"}"#).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains(r#""id":"a","error":{"code":-32603"#), "{body}");
    assert_eq!(proxy.status().unanswered, 1);
}

#[tokio::test]
async fn a_client_that_does_not_answer_in_time_is_a_gateway_timeout() {
    let config =
        ProxyConfig { forward_deadline: Duration::from_millis(50), ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, gated: true, ..Options::default() }).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.0, StatusCode::GATEWAY_TIMEOUT);
    // The lock on forkchoice updates is free again.
    arrangement.open_gate();
    assert_eq!(arrangement.send(&forkchoice(6)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_of_our_token_is_not_blamed_on_the_caller() {
    let script = |_: &str| (StatusCode::UNAUTHORIZED, "missing token".to_owned());
    let arrangement = arrange_with(Options::default(), script).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.0, StatusCode::BAD_GATEWAY);
}

// ---- the door -------------------------------------------------------------------------------

#[tokio::test]
async fn a_bad_token_is_refused_and_nothing_is_forwarded() {
    let arrangement = arrange(Options::default()).await;
    let stale = inbound().sign(now() - 120);
    for token in [stale.as_str(), &outbound().sign(now()), "rubbish", ""] {
        let (status, _, body) = arrangement.send_as(token, &forkchoice(5)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    assert!(arrangement.asked().is_empty());
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_with_and_without_a_length() {
    let config = ProxyConfig { body_limit: 100, ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, ..Options::default() }).await;
    let (status, body) = arrangement.send(&" ".repeat(101)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""id":null,"error":{"code":-32600"#), "{body}");

    let piece = format!("3c\r\n{}\r\n", " ".repeat(60));
    let request = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         transfer-encoding: chunked\r\n\r\n{piece}{piece}0\r\n\r\n",
        inbound().sign(now()),
    );
    let mut socket = tokio::net::TcpStream::connect(arrangement.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("the body exceeds 100 bytes") {
        let mut bytes = [0; 1024];
        let count = tokio::time::timeout(PATIENCE, socket.read(&mut bytes)).await.unwrap();
        answer.push_str(std::str::from_utf8(&bytes[..count.unwrap()]).unwrap());
        assert_ne!(bytes[0], 0, "closed after {answer:?}");
    }

    assert_eq!(arrangement.send(&" ".repeat(100)).await.0, StatusCode::OK);
    assert_eq!(arrangement.asked().len(), 1);
}

// ---- hooks ----------------------------------------------------------------------------------

#[tokio::test]
async fn our_payload_id_replaces_theirs_and_the_rest_of_the_answer_stays() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let (status, answer) = arrangement.send(&forkchoice(5)).await;
    let mut expected: serde_json::Value = serde_json::from_str(&forkchoice_answer(OURS)).unwrap();
    expected["id"] = 1.into();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&answer).unwrap(), expected);
    assert_eq!(arrangement.asked(), [forkchoice(5)]);
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn a_hook_that_declines_leaves_the_answer_as_it_came() {
    let arrangement = arrange(Options::default()).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn an_error_or_a_head_that_is_not_valid_never_gets_our_payload_id() {
    let error =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-38003,"message":"x","data":{"a":1e2}}}"#;
    let options = Options { mood: Mood::Answer, ..Options::default() };
    let arrangement = arrange_with(options.clone(), |_| (StatusCode::OK, error.to_owned())).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, error);
    assert!(arrangement.seen().is_empty());

    let syncing = forkchoice_answer(THEIRS).replace("VALID", "SYNCING");
    let answer = syncing.clone();
    let arrangement = arrange_with(options, move |_| (StatusCode::OK, answer.clone())).await;
    assert_eq!(arrangement.send(&forkchoice(5)).await.1, syncing);
    assert_eq!(arrangement.seen(), ["forkchoice 5"]);
}

#[tokio::test]
async fn a_payload_is_answered_by_the_hook_without_asking_the_client() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let odd = get_payload(4, OURS).replace("\"id\":1", "\"id\":-7");
    let (status, answer) = arrangement.send(&odd).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, r#"{"jsonrpc":"2.0","id":-7,"result":{"ours": 1e2}}"#);
    assert!(arrangement.asked().is_empty());
    assert_eq!(arrangement.seen(), [format!("getPayload V4 {OURS}")]);
}

#[tokio::test]
async fn berachains_payload_is_asked_under_its_own_id_with_its_own_method() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let key = format!(r#","parentProposerPubKey":"0x{}"}}]}}"#, "05".repeat(48));
    let update = forkchoice(5).replace("V3", "V3P11").replace("}]}", &key);
    let (_, answer) = arrangement.send(&update).await;
    assert!(answer.contains(OURS), "{answer}");
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;
    let asked = get_payload(4, OURS).replace("V4", "V4P11");
    arrangement.send(&asked).await;
    let expected = asked.replace(OURS, THEIRS);
    let last: serde_json::Value =
        serde_json::from_str(arrangement.asked().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::from_str::<serde_json::Value>(&expected).unwrap());
    assert_eq!(arrangement.seen(), ["forkchoice 5", &format!("getPayload V4P11 {OURS}")]);
}

#[tokio::test]
async fn a_payload_that_the_hook_declines_is_asked_from_the_client_under_its_own_id() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    arrangement.send(&forkchoice(5)).await;
    *arrangement.hooks.mood.lock().unwrap() = Mood::Decline;

    for version in [3, 4] {
        let (_, answer) = arrangement.send(&get_payload(version, OURS)).await;
        assert!(answer.contains("theirs"), "{answer}");
        let asked: serde_json::Value =
            serde_json::from_str(arrangement.asked().last().unwrap()).unwrap();
        let expected: serde_json::Value =
            serde_json::from_str(&get_payload(version, THEIRS)).unwrap();
        assert_eq!(asked, expected);
    }
    // An id that was never ours passes as it is.
    arrangement.send(&get_payload(4, THEIRS)).await;
    assert_eq!(arrangement.asked().last().unwrap(), &get_payload(4, THEIRS));
}

#[tokio::test]
async fn a_valid_payload_is_shown_to_the_hook_and_the_answer_stays() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let (status, answer) = arrangement.send(&new_payload()).await;
    assert_eq!((status, answer), by_method("newPayload"));
    assert_eq!(arrangement.seen(), ["newPayload V4 Ok(100)"]);

    let key = format!(r#",[],"0x{}"]}}"#, "05".repeat(48));
    let berachain = new_payload().replace("V4", "V4P11").replace(",[]]}", &key);
    arrangement.send(&berachain).await;
    assert_eq!(arrangement.asked().last(), Some(&berachain));
    assert_eq!(arrangement.seen().last().unwrap(), "newPayload V4P11 Ok(105)");
    arrangement.send(&new_payload().replace("V4", "V4P11")).await;
    let without_key = arrangement.seen().pop().unwrap();
    assert!(without_key.contains("parentProposerPubKey"), "{without_key}");

    let script = |_: &str| (StatusCode::OK, by_method("newPayload").1.replace("VALID", "SYNCING"));
    let syncing = arrange_with(Options::default(), script).await;
    syncing.send(&new_payload()).await;
    assert!(syncing.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_in_any_way_leaves_the_chain_to_the_client() {
    for mood in [Mood::Panic, Mood::PanicLater, Mood::Hang, Mood::Block] {
        let config =
            ProxyConfig { hook_deadline: Duration::from_millis(100), ..ProxyConfig::default() };
        let arrangement =
            arrange(Options { mood: Mood::Answer, config, ..Options::default() }).await;
        arrangement.send(&forkchoice(4)).await;
        *arrangement.hooks.mood.lock().unwrap() = mood;

        let (status, answer) = arrangement.send(&forkchoice(5)).await;
        assert_eq!((status, answer), (StatusCode::OK, forkchoice_answer(THEIRS)), "{mood:?}");
        let (status, answer) = arrangement.send(&get_payload(4, OURS)).await;
        assert_eq!(status, StatusCode::OK, "{mood:?}");
        assert!(answer.contains("theirs"), "{mood:?}: {answer}");
        let (status, answer) = arrangement.send(&new_payload()).await;
        assert_eq!((status, answer), by_method("newPayload"), "{mood:?}");
        assert!(arrangement.proxy.status().faults >= 2, "{mood:?}");
    }
}

#[tokio::test]
async fn after_repeated_faults_the_hooks_are_left_alone_until_an_operator_says_otherwise() {
    let config = ProxyConfig { fault_limit: 3, ..ProxyConfig::default() };
    let arrangement =
        arrange(Options { mood: Mood::PanicLater, config, ..Options::default() }).await;
    for timestamp in 1..=3 {
        assert!(!arrangement.proxy.status().passthrough);
        arrangement.send(&forkchoice(timestamp)).await;
    }
    let status = arrangement.proxy.status();
    assert!(status.passthrough);
    assert_eq!(status.faults, 3);

    *arrangement.hooks.mood.lock().unwrap() = Mood::Answer;
    assert_eq!(arrangement.send(&forkchoice(4)).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.seen().len(), 3);

    arrangement.proxy.set_passthrough(false);
    assert!(arrangement.send(&forkchoice(5)).await.1.contains(OURS));
}

#[tokio::test]
async fn a_success_between_faults_starts_the_count_again() {
    let config = ProxyConfig { fault_limit: 2, ..ProxyConfig::default() };
    let arrangement = arrange(Options { config, ..Options::default() }).await;
    for mood in [Mood::PanicLater, Mood::Decline, Mood::PanicLater, Mood::Decline] {
        *arrangement.hooks.mood.lock().unwrap() = mood;
        arrangement.send(&forkchoice(5)).await;
    }
    assert!(!arrangement.proxy.status().passthrough);
    assert_eq!(arrangement.proxy.status().faults, 2);
}

#[tokio::test]
async fn attributes_that_we_do_not_know_pass_unseen_and_are_counted() {
    let arrangement = arrange(Options { mood: Mood::Answer, ..Options::default() }).await;
    let unknown = forkchoice(5).replace("\"withdrawals\"", "\"newThing\":\"0x1\",\"withdrawals\"");
    assert_eq!(arrangement.send(&unknown).await.1, forkchoice_answer(THEIRS));
    assert_eq!(arrangement.asked(), [unknown]);
    assert!(arrangement.seen().is_empty());
    assert_eq!(arrangement.proxy.status().not_understood, 1);
}

// ---- order ----------------------------------------------------------------------------------

#[tokio::test]
async fn forkchoice_updates_reach_the_client_one_at_a_time_in_the_order_they_came() {
    let arrangement = arrange(Options { gated: true, ..Options::default() }).await;
    let mut callers = JoinSet::new();
    for timestamp in [3, 1, 2] {
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", inbound().sign(now())))
            .body(Body::from(forkchoice(timestamp)))
            .unwrap();
        let mut call = Box::pin(arrangement.proxy.router().oneshot(request));
        // One step is enough to be in the queue, and puts the calls in a known order.
        poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        callers.spawn(call);
    }
    assert_eq!(arrangement.arrival().await, forkchoice(3));
    // Another call passes the updates that wait.
    let probe = get_payload(4, THEIRS);
    let (_, next) = tokio::join!(arrangement.send(&probe), async {
        let next = arrangement.arrival().await;
        arrangement.open_gate();
        arrangement.open_gate();
        next
    });
    assert_eq!(next, probe);
    assert_eq!(arrangement.arrival().await, forkchoice(1));
    arrangement.open_gate();
    assert_eq!(arrangement.arrival().await, forkchoice(2));
    arrangement.open_gate();
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(arrangement.seen()[1..], ["forkchoice 3", "forkchoice 1", "forkchoice 2"]);
}

#[tokio::test]
async fn a_slow_hook_does_not_hold_up_the_next_forkchoice_update() {
    let hold = Arc::new(Notify::new());
    let options =
        Options { mood: Mood::Answer, hold: Some(Arc::clone(&hold)), ..Options::default() };
    let arrangement = Arc::new(arrange(options).await);
    let mut callers = JoinSet::new();
    for timestamp in 1..=3 {
        let caller = Arc::clone(&arrangement);
        callers.spawn(async move { caller.send(&forkchoice(timestamp)).await });
        // The execution client gets it although the first hook is still looking.
        assert_eq!(arrangement.arrival().await, forkchoice(timestamp));
        arrangement.until_seen(1).await;
    }
    assert_eq!(arrangement.seen(), ["forkchoice 1"]);
    for looked_at in 1..=3 {
        arrangement.until_seen(looked_at).await;
        hold.notify_one();
        assert!(callers.join_next().await.unwrap().unwrap().1.contains(OURS));
    }
    assert_eq!(arrangement.seen(), ["forkchoice 1", "forkchoice 2", "forkchoice 3"]);
}
