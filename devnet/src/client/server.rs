//! The ports: the Engine API behind a token, and everything else over HTTP and WebSocket, on one
//! port or on one each.
//!
//! An id is echoed as it was written where HTTP has a port of its own; the shared port takes ids
//! that are strings, natural numbers or null.
//!
//! Whatever executes runs on the blocking threads of the runtime. The public port may keep
//! [`PUBLIC_CALLS`] of them busy; further calls wait, and are refused after [`PATIENCE`]. The
//! consensus client never waits for the public.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::RpcModule;
use jsonrpsee::server::{
    BatchRequestConfig, PingConfig, RandomStringIdProvider, Server, ServerConfig,
    ServerConfigBuilder, ServerHandle,
};
use jsonrpsee::types::ErrorObjectOwned;
use preconf_engine::rpc::{Params, code};
use preconf_engine::{JsonRpcServer, JwtSecret, RpcError};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use super::methods::{Answer, Method};
use super::subscriptions::subscribe;
use super::{ExecutionClient, engine, eth};

/// How many calls of the public port are executed at once.
const PUBLIC_CALLS: usize = 16;

/// How long a call waits for its turn.
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

/// Where to listen; port 0 takes any that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The Engine API.
    pub engine: SocketAddr,
    /// JSON-RPC over HTTP; over WebSocket too unless that has a port of its own.
    pub http: SocketAddr,
    /// JSON-RPC over WebSocket, if it is not served on the same port.
    pub websocket: Option<SocketAddr>,
}

/// A client that can be reached. Dropping it closes all ports.
#[derive(Debug)]
pub struct Running {
    /// Where the Engine API is.
    pub engine_addr: SocketAddr,
    /// Where JSON-RPC is: over HTTP, and over WebSocket unless that is elsewhere.
    pub rpc_addr: SocketAddr,
    /// Where JSON-RPC over WebSocket is.
    pub websocket_addr: SocketAddr,
    engine: JoinHandle<io::Result<()>>,
    http: Option<JoinHandle<io::Result<()>>>,
    rpc: ServerHandle,
}

impl Running {
    /// Returns when one of the ports is no longer served.
    pub async fn ended(&mut self) {
        let http_ended = async {
            match &mut self.http {
                Some(http) if !http.is_finished() => drop(http.await),
                Some(_) => (),
                None => std::future::pending().await,
            }
        };
        if self.engine.is_finished() {
            return;
        }
        tokio::select! {
            _ = &mut self.engine => (),
            () = http_ended => (),
            () = self.rpc.clone().stopped() => (),
        }
    }

    /// Closes all ports and returns when nobody is served any more.
    pub async fn stop(mut self) {
        self.close();
        for port in [Some(&mut self.engine), self.http.as_mut()].into_iter().flatten() {
            if !port.is_finished() {
                // It ends because it is aborted.
                port.await.ok();
            }
        }
        self.rpc.clone().stopped().await;
    }

    fn close(&self) {
        self.engine.abort();
        if let Some(http) = &self.http {
            http.abort();
        }
        self.rpc.stop().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the Engine API and one port for everything else.
///
/// # Errors
///
/// If one of them cannot be listened on.
pub async fn serve(
    client: Arc<ExecutionClient>,
    engine: SocketAddr,
    jwt: Arc<JwtSecret>,
    rpc: SocketAddr,
) -> Result<Running, ServeError> {
    serve_on(client, Ports { engine, http: rpc, websocket: None }, jwt).await
}

/// Opens the ports.
///
/// # Errors
///
/// If one of them cannot be listened on.
pub async fn serve_on(
    client: Arc<ExecutionClient>,
    ports: Ports,
    jwt: Arc<JwtSecret>,
) -> Result<Running, ServeError> {
    let turns = Arc::new(Semaphore::new(PUBLIC_CALLS));
    let (engine, engine_addr) = bind(ports.engine, "the Engine API").await?;
    let engine_router = engine_server(&client, jwt).router();
    let own_http = match ports.websocket {
        Some(_) => Some(bind(ports.http, "JSON-RPC over HTTP").await?),
        None => None,
    };
    let (listen, what) = match ports.websocket {
        Some(websocket) => (websocket, "JSON-RPC over WebSocket"),
        None => (ports.http, "JSON-RPC"),
    };
    let failed = |source| ServeError::Listen { what, address: listen, source };
    let mut config = rpc_config();
    if ports.websocket.is_some() {
        config = config.ws_only();
    }
    let server = Server::builder().set_config(config.build()).build(listen).await;
    let server = server.map_err(failed)?;
    let websocket_addr = server.local_addr().map_err(failed)?;

    let rpc_addr = own_http.as_ref().map_or(websocket_addr, |(_, address)| *address);
    let http = own_http.map(|(listener, _)| {
        let router = http_server(&client, &turns).router();
        tokio::spawn(async move { axum::serve(listener, router).await })
    });
    let engine = tokio::spawn(async move { axum::serve(engine, engine_router).await });
    let rpc = server.start(rpc_module(client, turns));
    Ok(Running { engine_addr, rpc_addr, websocket_addr, engine, http, rpc })
}

async fn bind(
    address: SocketAddr,
    what: &'static str,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn engine_server(client: &Arc<ExecutionClient>, jwt: Arc<JwtSecret>) -> JsonRpcServer {
    let methods = engine::METHODS.iter().chain(engine::TESTING).copied().chain(eth::methods());
    methods.fold(JsonRpcServer::new().secret(jwt), |server, method| {
        let client = client.clone();
        server.method(method.name, move |params| run(client.clone(), method, params))
    })
}

/// What everybody may ask over HTTP.
fn http_server(client: &Arc<ExecutionClient>, turns: &Arc<Semaphore>) -> JsonRpcServer {
    let server =
        JsonRpcServer::new().body_limit(MAX_REQUEST_BYTES as usize).batch_limit(MAX_BATCH as usize);
    public_methods().fold(server, |server, method| {
        let (client, turns) = (client.clone(), turns.clone());
        server.method(method.name, move |params| {
            let (client, turns) = (client.clone(), turns.clone());
            async move { run_in_turn(client, method, params, &turns).await }
        })
    })
}

fn public_methods() -> impl Iterator<Item = Method> {
    engine::TESTING.iter().copied().chain(eth::methods())
}

fn rpc_config() -> ServerConfigBuilder {
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
}

fn rpc_module(client: Arc<ExecutionClient>, turns: Arc<Semaphore>) -> RpcModule<ExecutionClient> {
    let mut module = RpcModule::from_arc(client);
    for method in public_methods() {
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
                async move { subscribe(params, pending, &client).await }
            },
        )
        .expect("there is one kind of subscription");
    module
}

pub(super) fn parse(params: Option<&str>) -> Result<Params, ErrorObjectOwned> {
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

pub(super) fn error_object(error: RpcError) -> ErrorObjectOwned {
    let code = i32::try_from(error.code).unwrap_or(jsonrpsee::types::error::INTERNAL_ERROR_CODE);
    ErrorObjectOwned::owned(code, error.message, error.data)
}
