//! Puts the parts together: binds, spawns, and tells where it listens.

use std::{fs, io, net::SocketAddr, sync::Arc, time::Duration};

use preconf_chassis::{Context, Endpoint, Exit, Security, grpc};
use preconf_signing::Verifier;
use preconf_subscribe::Subscription;
use preconf_wire::feed;
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::service::Routes;
use tracing::warn;

use crate::{
    Config,
    drain::Drain,
    grpc::Feed,
    hub::Hub,
    listener::Port,
    metrics::Metrics,
    upstream::{State, Upstream},
};

/// Files that are open besides those of readers: listeners, the upstream, health.
const FILES_BESIDES: usize = 64;

/// Where a gateway listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The WebSocket.
    pub websocket: SocketAddr,
    /// The gRPC feed, if it is served.
    pub feed: Option<Endpoint>,
}

/// The WebSocket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("binding ws://{address}")]
struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Serves the feed in `context`; returns when everything is bound and spawned.
///
/// # Errors
/// If a port cannot be bound or an endpoint is not allowed.
pub async fn serve(config: &Config, security: Security, context: Context) -> Result<(), Exit> {
    start(config, security, context).await.map(drop)
}

/// As [`serve`], and tells where.
///
/// # Errors
/// If a port cannot be bound or an endpoint is not allowed.
pub async fn start(
    config: &Config,
    security: Security,
    context: Context,
) -> Result<Addresses, Exit> {
    context.follow_certificates(&security);
    warn_of_few_files(config.max_connections.get());
    let metrics = Metrics::new(&context.registry);
    let hub = Arc::new(Hub::new(config.limits(), metrics.clone()));
    let cursor = Arc::clone(&hub);
    let subscription = Subscription::spawn(
        config.upstream.clone(),
        preconf_subscribe::Config { security: security.clone(), ..Default::default() },
        move || cursor.head(),
    )?;
    let places = Arc::new(Semaphore::new(config.max_connections.get()));
    let address = config.flashblock_ws_addr;
    let listener =
        TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
    let websocket = listener.local_addr().map_err(|source| BindError { address, source })?;
    context.announce("websocket", &format_args!("ws://{websocket}"));
    let feed = match &config.feed_listen {
        Some(endpoint) => Some(context.bind("feed", endpoint, &security).await?),
        None => None,
    };
    let feed_endpoint = feed.as_ref().map(|listener| listener.local().clone());

    let upstream = Upstream {
        subscription,
        verifier: Arc::new(Verifier::new(config.chain_id, config.sequencer_pubkeys.clone())),
        hub: Arc::clone(&hub),
        metrics: metrics.clone(),
        ready: context.health.check("upstream"),
        state: State::new(Duration::from_millis(config.repair_patience_ms)),
    };
    let drain = Arc::new(Drain::new(context.shutdown.clone(), config.drain_spread()));
    let (ending, taken, all) = (drain.clone(), places.clone(), config.max_connections.get());
    let until = async move { ending.over(&taken, all).await };
    context.tasks.spawn("upstream", upstream.run(until));
    let port = Port {
        hub: Arc::clone(&hub),
        places: Arc::clone(&places),
        metrics: metrics.clone(),
        drain: Arc::clone(&drain),
    };
    context.tasks.spawn("websocket", port.run(listener));
    if let Some(listener) = feed {
        let feed = Feed { hub, places, metrics, drain };
        let routes = Routes::new(feed::server(Arc::new(feed)));
        context.tasks.spawn("feed", grpc::serve(listener, routes, context.shutdown.clone()));
    }
    Ok(Addresses { websocket, feed: feed_endpoint })
}

/// Each connection is an open file. What the operating system allows is a setting of the operator's,
/// who should not have to find out at the thousandth reader.
fn warn_of_few_files(max_connections: usize) {
    let limit = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(open_files);
    if let Some(limit) = limit
        && limit < max_connections.saturating_add(FILES_BESIDES)
    {
        warn!(limit, max_connections, "the limit of open files is too low for --max-connections");
    }
}

/// The soft limit of open files, as Linux writes it.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_the_first_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             63204                63204                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files  unlimited  unlimited  files"), None);
        assert_eq!(open_files(""), None);
    }
}
