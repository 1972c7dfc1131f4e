//! A scripted execution client behind a real JSON-RPC server.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use jsonrpsee::core::SubscriptionResult;
use jsonrpsee::server::{RpcModule, Server, ServerHandle};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use preconf_chain::Header;
use preconf_upstream::{Upstream, UpstreamConfig};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, broadcast, watch};
use tower::ServiceBuilder;

/// Longer than anything here takes, so that a failing test ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What happens when a method is called, before it is answered.
pub(crate) type OnCall = Box<dyn Fn(&Execution, &str) + Send + Sync>;

/// An execution client: a tree of headers with one head, and a state that is computed from keys.
pub(crate) struct Execution {
    /// Every call: method and parameters.
    pub(crate) asked: Mutex<Vec<(String, Value)>>,
    /// How many HTTP requests came, batches counted once.
    pub(crate) http_requests: Arc<AtomicUsize>,
    /// Whether blocks may be named by number only.
    pub(crate) refuses_pins: AtomicBool,
    /// Calls of state methods wait for one permit each, if set.
    pub(crate) gate: Option<Semaphore>,
    pub(crate) on_call: Mutex<Option<OnCall>>,
    /// Answers that are given as they are written here, by method.
    scripted: Mutex<HashMap<&'static str, String>>,
    headers: Mutex<HashMap<B256, Header>>,
    head: Mutex<B256>,
    notifications: broadcast::Sender<Value>,
    /// How long the client takes to say what is in its pool.
    pub(crate) slow_pool: Mutex<Duration>,
    /// Told of everything that [`Execution::until`] can wait for.
    changed: Arc<watch::Sender<()>>,
}

/// A subscription to new heads. Its end is told, too.
struct Subscriber {
    notifications: Option<broadcast::Receiver<Value>>,
    changed: Arc<watch::Sender<()>>,
}

impl Subscriber {
    fn new(execution: &Execution) -> Self {
        let notifications = Some(execution.notifications.subscribe());
        execution.changed.send_replace(());
        Self { notifications, changed: Arc::clone(&execution.changed) }
    }

    async fn recv(&mut self) -> Result<Value, broadcast::error::RecvError> {
        self.notifications.as_mut().unwrap().recv().await
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.notifications = None;
        self.changed.send_replace(());
    }
}

impl Execution {
    pub(crate) fn new() -> Self {
        Self::with_genesis(header(0, B256::ZERO, 0))
    }

    pub(crate) fn with_genesis(genesis: Header) -> Self {
        let hash = genesis.hash_slow();
        Self {
            asked: Mutex::default(),
            http_requests: Arc::default(),
            refuses_pins: AtomicBool::new(false),
            gate: None,
            on_call: Mutex::default(),
            scripted: Mutex::default(),
            headers: Mutex::new(HashMap::from([(hash, genesis)])),
            head: Mutex::new(hash),
            notifications: broadcast::channel(256).0,
            slow_pool: Mutex::default(),
            changed: Arc::default(),
        }
    }

    /// Makes state calls wait until permits are added to the gate.
    pub(crate) fn gated(self) -> Self {
        Self { gate: Some(Semaphore::new(0)), ..self }
    }

    /// A client with a chain of this many blocks after genesis.
    pub(crate) fn with_blocks(count: u64) -> Self {
        let execution = Self::new();
        execution.extend(count, 0);
        execution
    }

    /// Answers a method with this JSON from now on.
    pub(crate) fn script(&self, method: &'static str, answer: impl ToString) {
        self.scripted.lock().unwrap().insert(method, answer.to_string());
    }

    /// What a method was last called with.
    pub(crate) fn last_params(&self, method: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        asked.iter().rfind(|(called, _)| called == method).unwrap().1.clone()
    }

    /// Adds blocks on the head, the last of which becomes the head, without a notification.
    pub(crate) fn extend(&self, count: u64, salt: u8) -> Vec<B256> {
        self.extend_from(self.head(), count, salt)
    }

    pub(crate) fn extend_from(&self, mut parent: B256, count: u64, salt: u8) -> Vec<B256> {
        let mut hashes = Vec::new();
        for _ in 0..count {
            let number = self.header(parent).number + 1;
            let header = header(number, parent, salt);
            parent = header.hash_slow();
            self.add(header);
            hashes.push(parent);
        }
        self.set_head(parent);
        hashes
    }

    /// Makes this block the head.
    pub(crate) fn add(&self, header: Header) {
        let hash = header.hash_slow();
        self.headers.lock().unwrap().insert(hash, header);
        self.set_head(hash);
    }

    pub(crate) fn head(&self) -> B256 {
        *self.head.lock().unwrap()
    }

    pub(crate) fn set_head(&self, hash: B256) {
        *self.head.lock().unwrap() = hash;
    }

    pub(crate) fn header(&self, hash: B256) -> Header {
        self.headers.lock().unwrap()[&hash].clone()
    }

    /// The canonical block with this number.
    pub(crate) fn canonical(&self, number: u64) -> Option<B256> {
        let mut hash = self.head();
        loop {
            let header = self.header(hash);
            match header.number.cmp(&number) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => return Some(hash),
                std::cmp::Ordering::Greater => hash = header.parent_hash,
            }
        }
    }

    /// Tells the subscribers of new heads; the change lets a test leave something out.
    pub(crate) fn notify(&self, hash: B256, change: impl FnOnce(&mut Value)) {
        let mut object = object(&self.header(hash));
        change(&mut object);
        self.tell(object);
    }

    /// Tells the subscribers this.
    pub(crate) fn tell(&self, notification: Value) {
        let _ = self.notifications.send(notification);
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.notifications.receiver_count()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == method).count()
    }

    pub(crate) fn http_requests(&self) -> usize {
        self.http_requests.load(Ordering::Relaxed)
    }

    async fn answer(&self, method: &str, params: Value) -> Result<Box<RawValue>, ErrorObjectOwned> {
        self.asked.lock().unwrap().push((method.to_owned(), params.clone()));
        self.changed.send_replace(());
        if method == "txpool_content" {
            let pause = *self.slow_pool.lock().unwrap();
            tokio::time::sleep(pause).await;
        }
        if let Some(answer) = self.scripted.lock().unwrap().get(method) {
            return Ok(RawValue::from_string(answer.clone()).unwrap());
        }
        let result = self.compute(method, params).await?;
        Ok(to_raw_value(&result).unwrap())
    }

    async fn compute(&self, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        if let Some(on_call) = &*self.on_call.lock().unwrap() {
            on_call(self, method);
        }
        let is_state = matches!(
            method,
            "eth_getBalance" | "eth_getTransactionCount" | "eth_getCode" | "eth_getStorageAt"
        );
        if is_state {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let block = params.as_array().unwrap().last().unwrap().clone();
            self.check_block(&block)?;
        }
        let first = || params[0].clone();
        let address = || serde_json::from_value::<Address>(first()).unwrap();
        Ok(match method {
            "test_hang" => pending().await,
            "test_echo" => first(),
            "test_fail" => return Err(ErrorObjectOwned::owned(3, "it failed", Some(first()))),
            "eth_chainId" => json!("0x539"),
            "eth_getBalance" => json!(balance(address())),
            "eth_getTransactionCount" => json!(U64::from(nonce(address()))),
            "eth_getCode" => json!(code(address())),
            "eth_getStorageAt" => {
                let slot: B256 = serde_json::from_value(params[1].clone()).unwrap();
                json!(B256::from(value(address(), slot.into())))
            }
            "eth_getBlockByHash" => {
                let hash: B256 = serde_json::from_value(first()).unwrap();
                self.headers.lock().unwrap().get(&hash).map_or(Value::Null, object)
            }
            "eth_getBlockByNumber" if first() == "latest" => object(&self.header(self.head())),
            "eth_getBlockByNumber" => {
                let number: U64 = serde_json::from_value(first()).unwrap();
                let hash = self.canonical(number.to());
                hash.map_or(Value::Null, |hash| object(&self.header(hash)))
            }
            "eth_sendRawTransaction" => {
                json!(keccak256(serde_json::from_value::<Bytes>(first()).unwrap()))
            }
            _ => unreachable!("{method} is not registered"),
        })
    }

    fn check_block(&self, block: &Value) -> Result<(), ErrorObjectOwned> {
        if block.is_string() {
            return Ok(());
        }
        if self.refuses_pins.load(Ordering::Relaxed) {
            let message = "invalid argument 1: argument must be a hex string";
            return Err(ErrorObjectOwned::owned(-32602, message, None::<()>));
        }
        let hash: B256 = serde_json::from_value(block["blockHash"].clone()).unwrap();
        assert_eq!(block["requireCanonical"], false);
        if self.headers.lock().unwrap().contains_key(&hash) {
            return Ok(());
        }
        Err(ErrorObjectOwned::owned(-32000, "header not found", None::<()>))
    }
}

const METHODS: [&str; 14] = [
    "txpool_content",
    "testing_buildBlockV1",
    "eth_getBlockReceipts",
    "test_hang",
    "test_echo",
    "test_fail",
    "eth_chainId",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_getCode",
    "eth_getStorageAt",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_sendRawTransaction",
];

/// Serves a client until the handle is stopped or dropped.
pub(crate) async fn serve(
    execution: &Arc<Execution>,
    address: SocketAddr,
) -> (SocketAddr, ServerHandle) {
    let mut module = RpcModule::new(Arc::clone(execution));
    for method in METHODS {
        module
            .register_async_method(
                method,
                move |params: Params<'static>, execution, _| async move {
                    let params: Value = params.parse().unwrap_or(Value::Null);
                    let result = execution.answer(method, params).await?;
                    Ok::<Box<RawValue>, ErrorObjectOwned>(to_raw_value(&result).unwrap())
                },
            )
            .unwrap();
    }
    module
        .register_subscription(
            "eth_subscribe",
            "eth_subscription",
            "eth_unsubscribe",
            |_, pending, execution, _| async move {
                let mut notifications = Subscriber::new(&execution);
                let sink = pending.accept().await?;
                loop {
                    tokio::select! {
                        () = sink.closed() => break,
                        notification = notifications.recv() => {
                            let object = to_raw_value(&notification?)?;
                            sink.send(object).await?;
                        }
                    }
                }
                SubscriptionResult::Ok(())
            },
        )
        .unwrap();
    let (count, changed) = (Arc::clone(&execution.http_requests), Arc::clone(&execution.changed));
    let counting = ServiceBuilder::new().map_request(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        changed.send_replace(());
        request
    });
    let server = Server::builder().set_http_middleware(counting).build(address).await.unwrap();
    let address = server.local_addr().unwrap();
    (address, server.start(module))
}

pub(crate) fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A configuration for tests: patient, small batches.
pub(crate) fn config(address: SocketAddr) -> UpstreamConfig {
    UpstreamConfig {
        timeout: PATIENCE,
        max_batch: NonZeroUsize::new(10).unwrap(),
        poll_interval: Duration::from_millis(5),
        ..UpstreamConfig::new(format!("http://{address}").parse().unwrap())
    }
}

pub(crate) async fn start(execution: Execution) -> (Arc<Execution>, Upstream, ServerHandle) {
    let execution = Arc::new(execution);
    let (address, server) = serve(&execution, any_port()).await;
    (execution, Upstream::new(config(address)).unwrap(), server)
}

impl Execution {
    /// Waits until something holds of what was asked or of who is subscribed.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let holds = changed.wait_for(|()| condition(self));
        let waited = tokio::time::timeout(PATIENCE, holds).await;
        waited.expect("the condition comes true").expect("the sender is here");
    }
}

fn header(number: u64, parent_hash: B256, salt: u8) -> Header {
    Header {
        number,
        parent_hash,
        timestamp: 1_700_000_000 + 2 * number,
        extra_data: vec![salt].into(),
        gas_limit: 30_000_000,
        base_fee_per_gas: Some(7),
        ..Header::default()
    }
}

/// A block object without transactions.
fn object(header: &Header) -> Value {
    let mut object = serde_json::to_value(header).unwrap();
    object["hash"] = json!(header.hash_slow());
    object["size"] = json!("0x220");
    object["uncles"] = json!([]);
    object["transactions"] = json!([]);
    object["unheardOf"] = json!({ "field": 1 });
    object
}

// The state, the same at every block. Addresses that end in 0 do not exist, those that end in an
// odd number have code.

pub(crate) fn balance(address: Address) -> U256 {
    U256::from(address[19])
}

pub(crate) fn nonce(address: Address) -> u64 {
    u64::from(address[19] / 2)
}

pub(crate) fn code(address: Address) -> Bytes {
    if address[19] % 2 == 1 { vec![0x60, address[19]].into() } else { Bytes::new() }
}

pub(crate) fn value(address: Address, slot: U256) -> U256 {
    slot + U256::from(address[19])
}
