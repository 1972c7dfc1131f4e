//! Putting the parts together.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use alloy_primitives::B256;
use preconf_chain::ChainSpec;
use preconf_chassis::{ConfigError, Context, Endpoint, Exit, Security, channel};
use preconf_telemetry::Remembered;
use preconf_upstream::{StateFetcher, Upstream};
use preconf_wire::{ingress::IngressClient, pending::PendingClient};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    Latest, client_check,
    dispatch::Dispatch,
    follow::{Follower, Views},
    forward::Forwarder,
    metrics::Metrics,
    rpc::Rpc,
    server::{self, Limits},
    submit::{LOOKUP, Pool},
};

/// The fewest answers computed side by side, whatever the machine.
const MIN_WORKERS: usize = 4;
/// Traces of transactions that wait for their receipts; the oldest are forgotten.
const TRACED: usize = 4_096;

/// All that an overlay needs: files are read and checked, nothing is open.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) http_addr: SocketAddr,
    pub(crate) pending: Endpoint,
    /// None: transactions go to the execution client.
    pub(crate) ingress: Option<Endpoint>,
    pub(crate) security: Security,
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) latest: Latest,
    pub(crate) gas_cap: u64,
    pub(crate) forwards: Upstream,
    pub(crate) states: Upstream,
    pub(crate) limits: Limits,
    pub(crate) max_age: Duration,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("binding {address}")]
struct Bind {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves until the context is shut down.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    spawn(prepared, &context).await?;
    Ok(())
}

/// Binds and serves on the context's tasks, and says where.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn spawn(prepared: Prepared, context: &Context) -> Result<SocketAddr, Exit> {
    let address = prepared.http_addr;
    let listener = TcpListener::bind(address).await.map_err(|source| Bind { address, source })?;
    let local = listener.local_addr().map_err(|source| Bind { address, source })?;
    let metrics = Metrics::new(&context.registry);
    context.follow_certificates(&prepared.security);
    let (publisher, views) = Views::new(prepared.max_age);
    let pending = channel(&prepared.pending, &prepared.security)?;
    let traces = Arc::new(Remembered::new(TRACED));
    let client = PendingClient::new(pending);
    let follower = Follower::new(client, publisher, metrics.clone(), traces.clone());
    let pool = pool(&prepared, &metrics, traces)?;
    let Prepared { spec, latest, gas_cap, forwards, states, limits, .. } = prepared;

    let rpc = Rpc {
        spec: Arc::clone(&spec),
        latest,
        gas_cap,
        views: views.clone(),
        client: Forwarder::new(forwards.clone(), metrics.clone()),
        fetcher: StateFetcher::new(states),
        pool,
        workers: Arc::new(Semaphore::new(workers())),
        metrics: metrics.clone(),
    };
    let dispatch = Dispatch::new(Arc::new(rpc), limits.deadline);
    let (tasks, shutdown) = (&context.tasks, || context.shutdown.clone());
    let questions = forwards.apart();
    let client = context.health.check("execution-client");
    let snapshot = context.health.check("snapshot");
    tasks.spawn("execution-client", client_check::watch(questions, spec, client, shutdown()));
    tasks.spawn("consumer", follower.follow(shutdown()));
    tasks.spawn("first-snapshot", views.begin(snapshot, shutdown()));
    tasks.spawn("json-rpc", server::serve(listener, dispatch, limits, metrics, shutdown()));
    context.announce("json-rpc", &format_args!("http://{local}"));
    Ok(local)
}

fn pool(
    prepared: &Prepared,
    metrics: &Metrics,
    traces: Arc<Remembered<B256>>,
) -> Result<Option<Pool>, ConfigError> {
    let Some(ingress) = &prepared.ingress else { return Ok(None) };
    let channel = channel(ingress, &prepared.security)?;
    let client = |deadline| {
        IngressClient::new(channel.clone(), deadline).with_metadata(preconf_telemetry::inject)
    };
    let deadline = prepared.limits.deadline;
    let lookups = client(LOOKUP.min(deadline));
    Ok(Some(Pool::new(client(deadline), lookups, metrics.clone(), traces)))
}

fn workers() -> usize {
    thread::available_parallelism().map_or(MIN_WORKERS, |cores| cores.get().max(MIN_WORKERS))
}
