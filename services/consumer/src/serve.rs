//! Putting the parts together.

use std::{convert::Infallible, sync::Arc};

use preconf_chain::ChainSpec;
use preconf_chassis::{ConfigError, Context, Endpoint, Exit, Security, grpc};
use preconf_pending::{Limits, Machine};
use preconf_primitives::Seq;
use preconf_signing::{PublicKey, Verifier};
use preconf_subscribe::{FeedUrl, Subscription};
use preconf_upstream::{StateFetcher, Upstream};
use preconf_wire::pending;
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;

use crate::{
    PayloadIdCheck, Policy,
    audit::{self, Auditor},
    execution_client::Watcher,
    executor::{self, Executor, Spans},
    feed,
    heads::Follower,
    hub::Hub,
    link::Link,
    metrics::Metrics,
    state,
    verify::{Complaints, Signatures, Trust, Verification, now_ms},
};

/// How many messages may wait to be read from the subscription, and how many for the verifier.
/// Each may be some megabytes, and nobody has vouched for any of them yet.
const UNVERIFIED: usize = 16;

/// All that a consumer needs: files are read and checked, nothing is open.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) feed: FeedUrl,
    pub(crate) policy: Policy,
    pub(crate) payload_id_check: PayloadIdCheck,
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) upstream: Upstream,
    pub(crate) listen: Endpoint,
    pub(crate) allow_names: Vec<String>,
    pub(crate) max_overlays: usize,
    pub(crate) limits: Limits,
    pub(crate) security: Security,
}

/// Serves until the context is shut down.
///
/// # Errors
/// If the endpoint cannot be bound.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    spawn(prepared, &context).await?;
    Ok(())
}

/// Binds and serves on the context's tasks, and says where.
///
/// # Errors
/// If the endpoint cannot be bound.
pub async fn spawn(prepared: Prepared, context: &Context) -> Result<Endpoint, Exit> {
    let Prepared {
        feed,
        policy,
        payload_id_check,
        keys,
        spec,
        upstream,
        listen,
        allow_names,
        max_overlays,
        limits,
        security,
    } = prepared;
    let metrics = Metrics::new(&context.registry);
    context.follow_certificates(&security);
    let listener = context.bind("pending", &listen, &security).await?.allow_names(allow_names);
    let local = listener.local().clone();
    let hub = Arc::new(Hub::new(max_overlays, metrics.clone()));
    let link = Arc::new(Link::default());
    let (executor, inputs) = mpsc::channel(executor::QUEUE);
    let (audits, wanted) = mpsc::channel(audit::QUEUE);
    let (needs, needed) = watch::channel(None);

    let verifier = Verifier::new(spec.chain_id(), keys);
    let trust = match policy {
        Policy::Seal => Trust::Seals,
        // The clock, so that numbers do not come again after a restart.
        Policy::V1 => {
            Trust::Signatures(Box::new(Signatures::new(Seq::new(now_ms()), payload_id_check)))
        }
    };
    let subscription = subscribe(feed, policy, security, &link)?;
    let verification = (verifier, trust);
    follow_feed(context, subscription, verification, &link, executor.clone(), &metrics);
    follow_chain(context, &upstream, &spec, executor.clone());
    let (tasks, shutdown) = (&context.tasks, || context.shutdown.clone());
    let auditor = Auditor { upstream: upstream.clone(), wanted, executor: executor.clone() };
    tasks.spawn("audit", auditor.run(shutdown()));
    let fetcher = StateFetcher::new(upstream);
    let reader = state::Reader { fetcher, needs: needed, executor, metrics: metrics.clone() };
    tasks.spawn("state", reader.run(shutdown()));
    let machine = match policy {
        Policy::Seal => Machine::new(spec, limits),
        Policy::V1 => Machine::new(spec, limits).unsealed(),
    };
    let executor = Executor {
        machine,
        inputs,
        link,
        hub: Arc::clone(&hub),
        needs,
        audits,
        metrics,
        spans: Spans::default(),
        complaints: executor::Complaints::new(),
    };
    tasks.spawn_thread("executor", move || -> Result<(), Infallible> {
        executor.run();
        Ok(())
    });
    let (closing, wish) = (Arc::clone(&hub), shutdown());
    tasks.spawn("overlays", async move {
        wish.cancelled().await;
        closing.close();
        Ok::<(), Infallible>(())
    });
    tasks.spawn("grpc", grpc::serve(listener, Routes::new(pending::server(hub)), shutdown()));
    Ok(local)
}

/// Follows the feed from where the machine is, if it can be told.
fn subscribe(
    url: FeedUrl,
    policy: Policy,
    security: Security,
    link: &Arc<Link>,
) -> Result<Subscription, ConfigError> {
    let link = Arc::clone(link);
    Subscription::spawn(
        url,
        preconf_subscribe::Config { security, queue: UNVERIFIED, ..Default::default() },
        move || match policy {
            Policy::Seal => Some(link.cursor()),
            Policy::V1 => None,
        },
    )
}

/// Spawns what brings verified messages to the executor.
fn follow_feed(
    context: &Context,
    subscription: Subscription,
    (verifier, trust): (Verifier, Trust),
    link: &Arc<Link>,
    executor: mpsc::Sender<executor::Input>,
    metrics: &Metrics,
) {
    let complaints = Arc::new(Complaints::new());
    let (unverified, arrived) = mpsc::channel(UNVERIFIED);
    let reader = feed::Reader {
        subscription,
        link: Arc::clone(link),
        verifier: unverified,
        complaints: Arc::clone(&complaints),
        metrics: metrics.clone(),
        ready: context.health.check("feed"),
    };
    context.tasks.spawn("feed", reader.run(context.shutdown.clone()));
    let link = Arc::clone(link);
    let metrics = metrics.clone();
    let verification =
        Verification { verifier, trust, link, arrived, executor, complaints, metrics };
    let shutdown = context.shutdown.clone();
    context.tasks.spawn_thread("verify", move || -> Result<(), Infallible> {
        verification.run(&shutdown);
        Ok(())
    });
}

/// Spawns what brings canonical heads to the executor.
fn follow_chain(
    context: &Context,
    upstream: &Upstream,
    spec: &Arc<ChainSpec>,
    executor: mpsc::Sender<executor::Input>,
) {
    let (known, is_known) = watch::channel(false);
    let watcher = Watcher {
        upstream: upstream.clone(),
        spec: Arc::clone(spec),
        ready: context.health.check("execution-client"),
        known,
    };
    context.tasks.spawn("execution-client", watcher.run(context.shutdown.clone()));
    let follower = Follower {
        upstream: upstream.clone(),
        known: is_known,
        executor,
        ready: context.health.check("head"),
    };
    context.tasks.spawn("heads", follower.run(context.shutdown.clone()));
}
