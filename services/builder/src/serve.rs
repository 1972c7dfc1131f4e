//! Wiring: listeners, tasks, and who owns them.

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use parking_lot::Mutex;
use preconf_chain::ChainSpec;
use preconf_chassis::{Backoff, Context, Exit, Shutdown, channel, grpc};
use preconf_engine::ProxyConfig;
use preconf_primitives::{AbandonReason, Flashblock};
use preconf_telemetry::Remembered;
use preconf_upstream::{
    Head, OtherChain, StateFetcher, Upstream, UpstreamConfig, UpstreamError, warn_of_ignored_keys,
};
use preconf_wire::{feed, ingress, payload, signer::SignerClient};
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::service::Routes;
use tracing::{error, warn};

use crate::{
    Prepared,
    build::BuildThread,
    feed::Feed,
    ingress::Ingress,
    journal::Journal,
    metrics::Metrics,
    payloads::Payloads,
    publisher::{Parts, Publisher},
    sequencer::{Builds, Lineage, QUESTIONS, Sequencer},
    speculation::Speculation,
    standby::Standby,
};

/// How long the signer may take.
const SIGNER_DEADLINE: Duration = Duration::from_millis(500);
/// How long state that a build misses is asked for: half a block of the fastest chains.
const READ_BOUND: Duration = Duration::from_secs(1);
/// How long a hook may take beyond sealing: after it, it is a fault, and the consensus client gets
/// what the execution client has answered.
const HANGING: Duration = Duration::from_millis(200);
/// Openings and flashblocks that wait to be published, and places for the ends of builds: a few for
/// each build. A build that finds no room ends.
const OUTGOING: usize = 64;
/// Traces of transactions that wait to be in a flashblock; the oldest are forgotten.
const TRACED: usize = 4_096;
/// Forkchoice updates that wait to be acted upon; further ones are passed on and not acted upon.
const WANTED: usize = 16;

/// Serves until the process is told to stop.
///
/// # Errors
/// If a listener cannot be bound, or the execution client is of another chain.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    let Prepared { config, spec, payloads, door, security } = prepared;
    let metrics = Arc::new(Metrics::new(&context.registry));
    warn_of_ignored_keys(&spec);

    let engine = door.execution_client()?;
    let ws = config.execution_ws_url.clone();
    let has_pool = ws.is_some();
    let mut upstream = UpstreamConfig { ws, ..UpstreamConfig::new(config.execution_url.clone()) };
    // Sealing may take its whole budget for one call.
    upstream.timeout = upstream.timeout.max(Duration::from_millis(config.seal_budget_ms));
    let upstream = Upstream::new(upstream)?;
    let signer = SignerClient::new(channel(&config.signer, &security)?, SIGNER_DEADLINE)
        .with_metadata(preconf_telemetry::inject);
    let submissions = Arc::new(Remembered::new(TRACED));

    let (timing, limits) = (config.timing(), config.pool_limits());
    let (thread, orders, effects) = BuildThread::new(spec.clone(), timing, limits, metrics.clone());
    let (outgoing, to_publish) = mpsc::channel(OUTGOING);
    let (wanted, to_prepare) = mpsc::channel(WANTED);
    let (published, reports) = mpsc::channel(OUTGOING);
    let fetcher = StateFetcher::new(upstream.clone());
    let sequencer = Arc::new(Sequencer {
        spec: spec.clone(),
        urgent: fetcher.apart(),
        sealing: fetcher.apart(),
        fetcher,
        engine: engine.clone(),
        metrics: metrics.clone(),
        submissions: submissions.clone(),
        orders,
        outgoing,
        wanted,
        gas_target: config.builder_gaslimit,
        cache_entries: config.state_cache_entries,
        seal_budget: Duration::from_millis(config.seal_budget_ms),
        read_bound: READ_BOUND,
        questions: Arc::new(Semaphore::new(QUESTIONS)),
        head: watch::Sender::new(None),
        lineage: Mutex::new(Lineage::default()),
        doubts_state: AtomicBool::new(false),
        builds: Builds::default(),
        heard: Mutex::default(),
    });
    // The feed says goodbye, and the consensus client's door closes, when the last word has been
    // said, which is after the shutdown begins.
    let spoken = Shutdown::new();
    let last_word = LastWord(spoken.clone());
    // The chain comes first: before anything is read, asked or waited for. What the hooks begin
    // meanwhile waits in the queues above.
    //
    // The hook may wait for our seal; the door has asked for the fallback meanwhile.
    let hook_deadline = Duration::from_millis(config.seal_budget_ms) + HANGING;
    let limits = ProxyConfig { hook_deadline, ..ProxyConfig::default() };
    let building = sequencer.clone();
    let (tell, left_alone) = watch::channel(false);
    let switched = move |is_left_alone| {
        if is_left_alone {
            building.give_up_all(AbandonReason::Passthrough);
        }
        tell.send_replace(is_left_alone);
    };
    door.open(&context, sequencer.clone(), limits, spoken.clone(), switched).await?;
    let following = sequencer.clone().follow_client(left_alone);
    spawn_until_shutdown(&context, "follow the client", following);
    if let Some((endpoint, slots)) = payloads {
        let listener = context.bind("payloads", &endpoint, &security).await?;
        let listener = listener.allow_names(config.payloads_allow_names.clone());
        let routes = Routes::new(payload::payloads(Arc::new(Payloads::new(&sequencer, slots))));
        let serving = grpc::serve(listener, routes, context.shutdown.clone());
        context.tasks.spawn("payloads", serving);
    }

    let origin = Arc::new(Feed::new(spoken));
    let journal = config.journal.as_deref().map(|path| read(path, &origin)).transpose()?;
    let (journal, unsigned) = journal.unzip();
    let unsigned = unsigned.flatten();
    let kept = origin.kept();
    let publisher = Publisher::new(Parts {
        signer: signer.clone(),
        feed: origin.clone(),
        metrics: metrics.clone(),
        submissions,
        holder: config.lease_holder,
        lease_duration: Duration::from_millis(config.lease_ms),
        journal,
        unsigned: unsigned.clone(),
        check: context.health.check("lease"),
        published,
    });

    let feed_listener = context.bind("feed", &config.feed_listen, &security).await?;
    let ingress_listener = context.bind("ingress", &config.ingress_listen, &security).await?;

    let tasks = &context.tasks;
    tasks.spawn_thread("build", || thread.run());
    let shutdown = context.shutdown.clone();
    tasks.spawn("publish", async move {
        let _last_word = last_word;
        publisher.run(to_publish, shutdown).await;
        Ok::<(), Infallible>(())
    });
    let carrying = sequencer.clone().carry_out(effects, reports, context.shutdown.clone());
    tasks.spawn("sequence", async move {
        carrying.await;
        Ok::<(), Infallible>(())
    });
    let check = context.health.check("execution client");
    let learner = sequencer.clone();
    let shutdown = context.shutdown.clone();
    tasks.spawn("learn the chain", async move {
        let learn = learn_chain(&upstream, &check, &spec);
        let learn = async {
            let head = learn.await?;
            if !kept.is_empty() || unsigned.is_some() {
                let items = kept.into_iter().map(|(_, item)| item).collect();
                learner.recover(items, unsigned, &head).await;
            }
            learner.learn_head(head).await;
            check.ready();
            // What was promised before comes first.
            learner.prepare(to_prepare).await;
            Ok::<(), OtherChain>(())
        };
        tokio::select! {
            prepared = learn => prepared?,
            () = shutdown.cancelled() => {}
        }
        Ok::<(), OtherChain>(())
    });

    if let Some(url) = config.standby_feed {
        let (sequencer, security) = (sequencer.clone(), security.clone());
        let standby = Standby { sequencer, metrics, signer, url, security };
        let shutdown = context.shutdown.clone();
        tasks.spawn("standby", async move {
            tokio::select! {
                ended = standby.listen() => ended,
                () = shutdown.cancelled() => Ok(()),
            }
        });
    }
    let routes = Routes::new(feed::server(origin));
    tasks.spawn("feed", grpc::serve(feed_listener, routes, context.shutdown.clone()));
    let (speculation, speculator) = Speculation::new(config.speculation_percent);
    if let Some(speculator) = speculator {
        spawn_until_shutdown(&context, "speculate", speculator.run(sequencer.clone()));
    }
    let ingress = Arc::new(Ingress::new(sequencer.clone(), speculation, config.private_pool));
    if has_pool {
        let ingress = ingress.clone();
        let pool = sequencer.fetcher.upstream().clone();
        let following = async move { ingress.follow_pool(pool).await };
        spawn_until_shutdown(&context, "follow the pool", following);
    }
    let routes = Routes::new(ingress::server(ingress));
    tasks.spawn("ingress", grpc::serve(ingress_listener, routes, context.shutdown.clone()));
    Ok(())
}

/// Says, when it is gone, that the last word has been said: nobody waits for a publisher that failed
/// or was never started.
struct LastWord(Shutdown);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

fn spawn_until_shutdown(
    context: &Context,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let shutdown = context.shutdown.clone();
    context.tasks.spawn(name, async move {
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        Ok::<(), Infallible>(())
    });
}

/// The journal, and the flashblock that may have been signed. What was, the feed gets.
fn read(path: &Path, feed: &Feed) -> Result<(Journal, Option<Flashblock>), io::Error> {
    let opened = Journal::open(path, |at, item| feed.restore(at, item));
    let (journal, recovered) = opened.map_err(|source| {
        io::Error::new(source.kind(), format!("opening the journal {}: {source}", path.display()))
    })?;
    if recovered.torn > 0 {
        let path = path.display();
        warn!(%path, bytes = recovered.torn, "the end of the journal is not whole, and is left out");
    }
    Ok((journal, recovered.unsigned))
}

/// Waits for the execution client, and compares its chain with ours.
///
/// A client that follows other rules is no reason to end: it would be left without a consensus
/// client. What is built by the wrong rules it calls invalid, and its own blocks are handed out.
async fn learn_chain(
    upstream: &Upstream,
    check: &preconf_chassis::Check,
    spec: &ChainSpec,
) -> Result<Head, OtherChain> {
    let mut backoff = Backoff::new();
    check.not_ready("has not answered yet");
    loop {
        let asked = async { Ok((upstream.other_chain(spec).await?, upstream.latest().await?)) };
        let failure: UpstreamError = match asked.await {
            Ok((None, head)) => return Ok(head),
            Ok((Some(other @ OtherChain::Chain { .. }), _)) => return Err(other),
            Ok((Some(other @ OtherChain::Rules { .. }), head)) => {
                let error = &other as &dyn std::error::Error;
                error!(error, "blocks built by these rules will be invalid");
                return Ok(head);
            }
            Err(error) => error,
        };
        warn!(error = &failure as &dyn std::error::Error, "no answer yet");
        check.not_ready(failure.to_string());
        backoff.wait().await;
    }
}
