//! A proxy between a caller and a scripted execution client, over real sockets, with hooks that do
//! as they are told.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::B256;
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
use preconf_engine::proxy::{EngineHooks, ForkchoiceCall, HookFuture, PayloadVersion};
use preconf_engine::{EngineClient, EngineProxy, JwtSecret, ProxyConfig};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

pub(crate) const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";
pub(crate) const OURS: &str = "0x0909090909090909";
pub(crate) const THEIRS: &str = "0x0101010101010101";

/// Longer than anything here takes, so that a failing test ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn inbound() -> Arc<JwtSecret> {
    Arc::new(JwtSecret::from_bytes([1; 32]))
}

pub(crate) fn outbound() -> Arc<JwtSecret> {
    Arc::new(JwtSecret::from_bytes([2; 32]))
}

// ---- the execution client -------------------------------------------------------------------

type Script = dyn Fn(&str) -> (StatusCode, String) + Send + Sync;

/// An execution client that answers what it is told to and remembers what it was asked.
pub(crate) struct Execution {
    pub(crate) asked: Mutex<Vec<Bytes>>,
    /// Each request waits for one permit, if set.
    pub(crate) gate: Option<tokio::sync::Semaphore>,
    pub(crate) arrived: mpsc::Sender<String>,
    pub(crate) script: Box<Script>,
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

pub(crate) fn by_method(body: &str) -> (StatusCode, String) {
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

pub(crate) fn forkchoice_answer(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"payloadStatus":{{"status":"VALID","latestValidHash":"{HASH}","validationError":null}},"payloadId":"{id}"}}}}"#
    )
}

// ---- the hooks ------------------------------------------------------------------------------

/// What the hooks do when they are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Decline,
    Answer,
    Panic,
    PanicLater,
    Hang,
    Block,
    /// For much longer than [`Mood::Block`].
    BlockLong,
}

/// How long a hook blocks its thread that does so for long.
pub(crate) const LONG: Duration = Duration::from_secs(10);

pub(crate) struct Hooks {
    pub(crate) mood: Mutex<Mood>,
    pub(crate) seen: watch::Sender<Vec<String>>,
    /// Forkchoice hooks wait for this, if set.
    pub(crate) hold: Option<Arc<Notify>>,
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
            Mood::BlockLong => {
                std::thread::park_timeout(LONG);
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
            assert!(answer.payload_id.is_none_or(|id| id == THEIRS.parse().unwrap()));
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

    fn forkchoice_unseen(&self, head: Option<B256>) {
        assert_ne!(*self.mood.lock().unwrap(), Mood::Panic, "in a plain function");
        let head = head.map_or("any".to_owned(), |head| format!("{:#x}", head[0]));
        self.saw(format!("unseen {head}"));
    }
}

// ---- the arrangement ------------------------------------------------------------------------

pub(crate) struct Arrangement {
    pub(crate) proxy: EngineProxy,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) execution: Arc<Execution>,
    pub(crate) arrivals: tokio::sync::Mutex<mpsc::Receiver<String>>,
    pub(crate) address: SocketAddr,
    pub(crate) http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    pub(crate) servers: JoinSet<()>,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) mood: Mood,
    pub(crate) config: ProxyConfig,
    pub(crate) gated: bool,
    pub(crate) hold: Option<Arc<Notify>>,
    /// Where the hooks run, if not where the proxy is served.
    pub(crate) hooks_on: Option<Handle>,
}

impl Default for Options {
    fn default() -> Self {
        let config = ProxyConfig { hook_deadline: PATIENCE, ..ProxyConfig::default() };
        Self { mood: Mood::Decline, config, gated: false, hold: None, hooks_on: None }
    }
}

pub(crate) async fn serve(servers: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

pub(crate) async fn arrange(options: Options) -> Arrangement {
    arrange_with(options, by_method).await
}

pub(crate) async fn arrange_with(
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
    let proxy = {
        let _inside = options.hooks_on.as_ref().map(Handle::enter);
        EngineProxy::new(client, inbound(), hooks.clone(), options.config)
    };
    let address = serve(&mut servers, proxy.router()).await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let arrivals = tokio::sync::Mutex::new(arrivals);
    Arrangement { proxy, hooks, execution, arrivals, address, http, servers }
}

impl Arrangement {
    pub(crate) async fn send(&self, body: &str) -> (StatusCode, String) {
        let (status, _, body) = self.send_as(&inbound().sign(now()), body).await;
        (status, body)
    }

    pub(crate) async fn send_as(&self, token: &str, body: &str) -> (StatusCode, HeaderMap, String) {
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

    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.execution.asked.lock().unwrap();
        asked.iter().map(|body| String::from_utf8(body.to_vec()).unwrap()).collect()
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.hooks.seen.borrow().clone()
    }

    pub(crate) async fn arrival(&self) -> String {
        let mut arrivals = self.arrivals.lock().await;
        tokio::time::timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap()
    }

    pub(crate) async fn until_seen(&self, count: usize) {
        let mut seen = self.hooks.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.len() >= count);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }

    pub(crate) fn open_gate(&self) {
        self.execution.gate.as_ref().unwrap().add_permits(1);
    }
}

pub(crate) fn forkchoice(timestamp: u64) -> String {
    let address = "0x3333333333333333333333333333333333333333";
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_forkchoiceUpdatedV3","params":[{{"headBlockHash":"{HASH}","safeBlockHash":"{HASH}","finalizedBlockHash":"{HASH}"}},{{"timestamp":"{timestamp:#x}","prevRandao":"{HASH}","suggestedFeeRecipient":"{address}","withdrawals":[],"parentBeaconBlockRoot":"{HASH}"}}]}}"#
    )
}

pub(crate) fn get_payload(version: u8, id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_getPayloadV{version}","params":["{id}"]}}"#
    )
}

pub(crate) fn new_payload() -> String {
    let bloom = format!("0x{}", "00".repeat(256));
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"engine_newPayloadV4","params":[{{"parentHash":"{HASH}","feeRecipient":"0x3333333333333333333333333333333333333333","stateRoot":"{HASH}","receiptsRoot":"{HASH}","logsBloom":"{bloom}","prevRandao":"{HASH}","blockNumber":"0x64","gasLimit":"0x1c9c380","gasUsed":"0x0","timestamp":"0x5","extraData":"0x","baseFeePerGas":"0x7","blockHash":"{HASH}","transactions":[],"withdrawals":[],"blobGasUsed":"0x0","excessBlobGas":"0x0"}},[],"{HASH}",[]]}}"#
    )
}
