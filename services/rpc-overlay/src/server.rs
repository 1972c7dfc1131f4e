//! The public port: JSON-RPC over HTTP and WebSocket.
//!
//! Decides the limits: connections, in all and from one address, bytes of a request and of an
//! answer, entries of a batch, how long a request may take to arrive and a connection may be silent.
//! When all places are taken, newcomers wait in the kernel's queue; who has as many as one address
//! may have is refused.
//!
//! At shutdown the port closes at once, and requests under way are answered.

mod idle;
mod prefixes;
mod refusal;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jsonrpsee::{
    Methods,
    server::{
        BatchRequestConfig, PingConfig, RandomStringIdProvider, Server, ServerConfig,
        middleware::rpc::RpcServiceBuilder, serve_with_graceful_shutdown, stop_channel,
    },
};
use preconf_chassis::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tower::ServiceBuilder;
use tracing::debug;

use self::{
    idle::Idle,
    prefixes::{Counted, Prefixes},
    refusal::Refusals,
};
use crate::{
    dispatch::{Dispatch, MAX_ANSWER_BYTES},
    metrics::Metrics,
};

/// The largest request.
const MAX_REQUEST_BYTES: u32 = 15 * 1024 * 1024;
/// The most entries of a batch.
const MAX_BATCH: u32 = 100;
/// How many answers may wait for one WebSocket before it is read no further.
const MAX_WAITING_ANSWERS: u32 = 64;
/// How long a request may take to arrive, on top of what its answer may take.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How long a connection may be silent. WebSockets are pinged more often.
const IDLE: Duration = Duration::from_secs(120);
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the port allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections served at a time.
    pub(crate) max_connections: u32,
    /// Of these, from one address (IPv6: one /64); 0 is no limit.
    pub(crate) max_connections_per_address: u32,
    /// How long an answer may take.
    pub(crate) deadline: Duration,
}

/// What a connection occupies.
#[derive(Debug)]
struct Place {
    _counted: Counted,
    _place: OwnedSemaphorePermit,
}

/// Serves until shutdown, and then until the requests under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    dispatch: Dispatch,
    limits: Limits,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let (stop, stopper) = stop_channel();
    let service = Server::builder()
        .set_config(config(limits))
        .set_http_middleware(ServiceBuilder::new().timeout(limits.deadline + ARRIVAL))
        .set_rpc_middleware(RpcServiceBuilder::new().layer_fn(move |_| dispatch.clone()))
        .to_service_builder();
    // An answer under way is not silence.
    let idle = IDLE.max(limits.deadline + ARRIVAL);
    let places = Arc::new(Semaphore::new(limits.max_connections as usize));
    let prefixes = Prefixes::new(limits.max_connections_per_address);
    let refusals = Refusals::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            (stream, address, place) = accept(&listener, &places) => {
                let Some(counted) = prefixes.count(address) else {
                    drop(place);
                    metrics.connections_refused.inc();
                    let refusal = refusals.clone().refuse(stream);
                    connections.spawn(async { refusal.await; Ok(()) });
                    continue;
                };
                let stream = Idle::new(stream, idle, Place { _counted: counted, _place: place });
                let service = service.clone().build(Methods::new(), stop.clone());
                let stopped = stop.clone().shutdown();
                connections.spawn(serve_with_graceful_shutdown(stream, service, stopped));
            }
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    debug!(%error, "a connection failed");
                }
            }
        }
    }
    drop((listener, service, stop));
    // It fails only if there is no connection left to stop.
    let _ = stopper.stop();
    while connections.join_next().await.is_some() {}
    // WebSockets have tasks of their own.
    stopper.stopped().await;
    Ok(())
}

fn config(limits: Limits) -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(MAX_ANSWER_BYTES)
        .max_connections(limits.max_connections)
        .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
        .set_message_buffer_capacity(MAX_WAITING_ANSWERS)
        .set_id_provider(RandomStringIdProvider::new(16))
        .enable_ws_ping(PingConfig::new())
        .build()
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, IpAddr, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match accept_one(listener).await {
            Ok((stream, address)) => return (stream, address.ip(), place),
            Err(error) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, address))
}
