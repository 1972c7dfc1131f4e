//! Puts the parts together: binds, spawns, and tells where it listens.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use preconf_chassis::{Context, Endpoint, Exit, channel, grpc};
use preconf_wire::payload::{PayloadsClient, proposers};
use tonic::service::Routes;
use tracing::info;

use crate::{
    Prepared,
    api::Api,
    health::Healths,
    listen,
    metrics::Metrics,
    port::Port,
    quota::Quotas,
    reload::{Files, Hangup},
    setter::Setter,
    turns::Turns,
};

/// Where a payload server listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For validators.
    pub payloads: SocketAddr,
    /// For whoever says whose turn it is, if anybody may.
    pub proposers: Option<Endpoint>,
}

/// The public port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("binding {address}")]
struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Serves payloads in `context`; returns when everything is bound and spawned.
///
/// # Errors
/// If a port cannot be bound or an endpoint is not allowed.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    start(prepared, context).await.map(drop)
}

/// As [`serve`], and tells where.
///
/// # Errors
/// If a port cannot be bound or an endpoint is not allowed.
pub async fn start(prepared: Prepared, context: Context) -> Result<Addresses, Exit> {
    let hangup = Hangup::take()?;
    let Prepared { config, seen, validators, certificate, cometbft, security, clock } = prepared;
    let metrics = Metrics::new(&context.registry);
    context.follow_certificates(&security);
    let turns = Turns::new();
    let healths = Healths::new();
    let builder = PayloadsClient::new(channel(&config.builder_payloads, &security)?)
        .with_metadata(preconf_telemetry::inject);

    let address = config.payload_addr;
    let bind = |source| BindError { address, source };
    let listener = listen::on(address).map_err(bind)?;
    let payloads = listener.local_addr().map_err(bind)?;
    let proposers_listener = match &config.proposers_listen {
        Some(endpoint) => Some(context.bind("proposers", endpoint, &security).await?),
        None => None,
    };
    let proposers_at = proposers_listener.as_ref().map(|listener| listener.local().clone());

    let (tasks, shutdown) = (&context.tasks, || context.shutdown.clone());
    let check = context.health.check("builder");
    tasks.spawn("health", healths.clone().follow(builder.clone(), check, shutdown()));
    if let Some(node) = cometbft {
        let every = Duration::from_millis(config.cometbft_poll_ms);
        let announced = metrics.announced.get(["cometbft"]);
        let check = context.health.check("cometbft");
        tasks.spawn("cometbft", node.follow(every, turns.clone(), announced, check, shutdown()));
    }
    if let Some(listener) = proposers_listener {
        let listener = listener.allow_names(config.proposers_allow_names.clone());
        let announced = metrics.announced.get(["grpc"]);
        let setter = Setter { turns: turns.clone(), announced };
        let routes = Routes::new(proposers(Arc::new(setter)));
        tasks.spawn("proposers", grpc::serve(listener, routes, shutdown()));
    }
    validators.announce();
    let (tls_enabled, num_validator_jwts) = (certificate.is_some(), validators.len());
    info!(address = %payloads, tls_enabled, num_validator_jwts, "Starting preconf API server");
    let api = Api {
        validators: validators.clone(),
        quotas: Mutex::new(Quotas::new(config.requests_per_second)),
        turns,
        builder,
        builder_deadline: config.builder_deadline(),
        healths,
        metrics: metrics.clone(),
        clock,
        complaints: Api::complaints(),
    };
    let scheme = if tls_enabled { "https" } else { "http" };
    let tls = certificate.as_ref().map(|certificate| certificate.server());
    let port = Port { router: api.router(), tls, shutdown: shutdown() };
    let files = Files { validators, certificate };
    let (paths, reload) = (files.paths(), move || files.reload(&metrics));
    tasks.spawn("reload", hangup.obey(paths, seen, reload, shutdown()));
    tasks.spawn("payloads", port.serve(listener));
    context.announce("payloads", &format_args!("{scheme}://{payloads}"));
    Ok(Addresses { payloads, proposers: proposers_at })
}
