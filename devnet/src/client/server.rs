//! The two ports: the Engine API behind a token, and everything else over HTTP and WebSocket.
//!
//! Whatever executes runs on the blocking threads of the runtime. The public port may keep
//! [`PUBLIC_CALLS`] of them busy; further calls wait, and are refused after [`PATIENCE`]. The
//! consensus client never waits for the public.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::RpcModule;
use jsonrpsee::core::server::{PendingSubscriptionSink, SubscriptionSink};
use jsonrpsee::server::{
    BatchRequestConfig, PingConfig, RandomStringIdProvider, Server, ServerConfig, ServerHandle,
};
use jsonrpsee::types::ErrorObjectOwned;
use preconf_engine::rpc::{Params, code};
use preconf_engine::{JsonRpcServer, JwtSecret, RpcError};
use serde_json::value::{RawValue, to_raw_value};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::{JoinHandle, spawn_blocking};

use super::chain::ChainBlock;
use super::eth::HeadNotification;
use super::methods::{Answer, Method};
use super::{ExecutionClient, engine, eth};

/// How many calls of the public port are executed at once.
const PUBLIC_CALLS: usize = 16;

/// How long a call waits for its turn, and a notification for its reader.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest request and the largest answer of the public port.
const MAX_REQUEST_BYTES: u32 = 16 * 1024 * 1024;
const MAX_ANSWER_BYTES: u32 = 64 * 1024 * 1024;

const MAX_CONNECTIONS: u32 = 1_024;
const MAX_SUBSCRIPTIONS: u32 = 64;
const MAX_BATCH: u32 = 1_000;
const NOTIFICATIONS_WAITING: u32 = 256;
const PING_INTERVAL: Duration = Duration::from_secs(10);
const SUBSCRIPTION_ID_LENGTH: usize = 16;

/// Why the client cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be listened on.
    #[error("listening on {address} for {what}")]
    Listen {
        /// What it is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A client that can be reached. Dropping it closes both ports.
#[derive(Debug)]
pub struct Running {
    /// Where the Engine API is.
    pub engine_addr: SocketAddr,
    /// Where JSON-RPC is, over HTTP and WebSocket.
    pub rpc_addr: SocketAddr,
    engine: JoinHandle<io::Result<()>>,
    rpc: ServerHandle,
}

impl Running {
    /// Returns when one of the ports is no longer served.
    pub async fn ended(&mut self) {
        if self.engine.is_finished() {
            return;
        }
        tokio::select! {
            _ = &mut self.engine => (),
            () = self.rpc.clone().stopped() => (),
        }
    }

    /// Closes both ports and returns when nobody is served any more.
    pub async fn stop(mut self) {
        self.engine.abort();
        self.rpc.stop().ok();
        self.ended().await;
        self.rpc.clone().stopped().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.abort();
        self.rpc.stop().ok();
    }
}

/// Opens the two ports; 0 takes any that is free.
///
/// # Errors
///
/// If one of them cannot be listened on.
pub async fn serve(
    client: Arc<ExecutionClient>,
    engine_listen: SocketAddr,
    jwt: Arc<JwtSecret>,
    rpc_listen: SocketAddr,
) -> Result<Running, ServeError> {
    let failed = |what, address| move |source| ServeError::Listen { what, address, source };
    let engine_failed = failed("the Engine API", engine_listen);
    let rpc_failed = failed("JSON-RPC", rpc_listen);

    let listener = TcpListener::bind(engine_listen).await.map_err(engine_failed)?;
    let engine_addr = listener.local_addr().map_err(engine_failed)?;
    let server = Server::builder().set_config(rpc_config()).build(rpc_listen).await;
    let server = server.map_err(rpc_failed)?;
    let rpc_addr = server.local_addr().map_err(rpc_failed)?;

    let router = engine_server(&client, jwt).router();
    let engine = tokio::spawn(async move { axum::serve(listener, router).await });
    let rpc = server.start(rpc_module(client));
    Ok(Running { engine_addr, rpc_addr, engine, rpc })
}

fn engine_server(client: &Arc<ExecutionClient>, jwt: Arc<JwtSecret>) -> JsonRpcServer {
    let methods = engine::METHODS.iter().chain(engine::TESTING).copied().chain(eth::methods());
    methods.fold(JsonRpcServer::new().secret(jwt), |server, method| {
        let client = client.clone();
        server.method(method.name, move |params| run(client.clone(), method, params))
    })
}

fn rpc_config() -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(MAX_ANSWER_BYTES)
        .max_connections(MAX_CONNECTIONS)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
        .set_message_buffer_capacity(NOTIFICATIONS_WAITING)
        .enable_ws_ping(PingConfig::new().ping_interval(PING_INTERVAL))
        // Numbers, the default, are no subscription ids to most libraries.
        .set_id_provider(RandomStringIdProvider::new(SUBSCRIPTION_ID_LENGTH))
        .build()
}

fn rpc_module(client: Arc<ExecutionClient>) -> RpcModule<ExecutionClient> {
    let turns = Arc::new(Semaphore::new(PUBLIC_CALLS));
    let mut module = RpcModule::from_arc(client);
    for method in engine::TESTING.iter().copied().chain(eth::methods()) {
        let turns = turns.clone();
        module
            .register_async_method(method.name, move |params, client, _| {
                let (turns, params) = (turns.clone(), parse(params.as_str()));
                async move { run_in_turn(client, method, params?, &turns).await.map_err(error_object) }
            })
            .expect("every method is listed once");
    }
    module
        .register_subscription(
            "eth_subscribe",
            "eth_subscription",
            "eth_unsubscribe",
            |params, pending, client, _| {
                let params = parse(params.as_str());
                async move { subscribe(params, pending, client.heads()).await }
            },
        )
        .expect("there is one kind of subscription");
    module
}

fn parse(params: Option<&str>) -> Result<Params, ErrorObjectOwned> {
    let malformed = |_| error_object(RpcError::invalid_params("the parameters must be an array"));
    let raw = params.map(serde_json::from_str::<&RawValue>).transpose().map_err(malformed)?;
    Params::parse(raw).map_err(error_object)
}

async fn run_in_turn(
    client: Arc<ExecutionClient>,
    method: Method,
    params: Params,
    turns: &Semaphore,
) -> Answer {
    let busy = RpcError::new(code::SERVER_ERROR, "the server is busy");
    let turn = tokio::time::timeout(PATIENCE, turns.acquire()).await;
    let Ok(Ok(_turn)) = turn else { return Err(busy) };
    run(client, method, params).await
}

/// Calls a method where it may take its time.
async fn run(client: Arc<ExecutionClient>, method: Method, params: Params) -> Answer {
    let called = spawn_blocking(move || method.call(&client, &params)).await;
    called.unwrap_or_else(|_| Err(RpcError::internal(format!("{} failed", method.name))))
}

async fn subscribe(
    params: Result<Params, ErrorObjectOwned>,
    pending: PendingSubscriptionSink,
    heads: broadcast::Receiver<Arc<ChainBlock>>,
) {
    let kind = params.and_then(|params| params.required::<String>(0, "kind").map_err(error_object));
    match kind.as_deref() {
        Ok("newHeads") => (),
        Ok(_) => {
            let refusal = RpcError::invalid_params("only newHeads can be subscribed to");
            return pending.reject(error_object(refusal)).await;
        }
        Err(error) => return pending.reject(error.clone()).await,
    }
    // Whoever has gone away before the answer wants no notifications.
    if let Ok(sink) = pending.accept().await {
        notify(&sink, heads).await;
    }
}

/// Hands heads on until the reader goes away or is too slow: then the subscription ends, so that
/// he never takes a chain with holes for a whole one.
async fn notify(sink: &SubscriptionSink, mut heads: broadcast::Receiver<Arc<ChainBlock>>) {
    loop {
        let head = tokio::select! {
            head = heads.recv() => head,
            () = sink.closed() => return,
        };
        let Ok(head) = head else { return };
        let Ok(message) = to_raw_value(&HeadNotification::from(&*head)) else { return };
        if sink.send_timeout(message, PATIENCE).await.is_err() {
            return;
        }
    }
}

fn error_object(error: RpcError) -> ErrorObjectOwned {
    let code = i32::try_from(error.code).unwrap_or(jsonrpsee::types::error::INTERNAL_ERROR_CODE);
    ErrorObjectOwned::owned(code, error.message, error.data)
}
