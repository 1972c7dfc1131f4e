//! Following the consumer: updates in, views out.
//!
//! Invariants: there is one newest view, and it changes as a whole; an update that has no meaning,
//! or does not fit to those before it, ends the connection and changes nothing that is served; each
//! connection starts from nothing. A view that is older than the limit is not given out, whether or
//! not the consumer is connected: answers then come from the execution client, and readiness stays.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use futures_util::StreamExt;
use preconf_chassis::{Backoff, Chain, Check, Shutdown};
use preconf_pending::snapshot::{BadUpdate, ExecutedFlashblock, SnapshotStore, Update};
use preconf_telemetry::{Remembered, Trace, span_with_parent};
use preconf_wire::pending::{PendingClient, PendingError};
use tokio::{
    sync::watch,
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout},
};
use tracing::{Span, debug, info, info_span, warn};

use crate::{metrics::Metrics, view::View};

/// How long the consumer may take to accept a subscription.
const SUBSCRIBE: Duration = Duration::from_secs(5);

type Newest = Option<Arc<View>>;

/// Where the newest view is found. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    newest: watch::Receiver<Newest>,
    max_age: Duration,
}

impl Views {
    /// A place for views, still empty, and its only writer.
    pub(crate) fn new(max_age: Duration) -> (Publisher, Self) {
        let (publish, newest) = watch::channel(None);
        (Publisher(publish), Self { newest, max_age })
    }

    /// The newest view, unless it is too old. A request calls this once.
    pub(crate) fn current(&self) -> Newest {
        let view = self.newest.borrow().clone()?;
        (view.received.elapsed() <= self.max_age).then_some(view)
    }

    /// Holds readiness back until there is a first view, but no longer than a view may be old.
    pub(crate) async fn begin(
        mut self,
        check: Check,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        check.not_ready("no snapshot from the consumer yet");
        tokio::select! {
            first = timeout(self.max_age, self.newest.wait_for(Option::is_some)) => {
                if first.is_err() {
                    warn!("no snapshot from the consumer: the execution client answers alone");
                }
                check.ready();
            }
            () = shutdown.cancelled() => {}
        }
        shutdown.cancelled().await;
        Ok(())
    }
}

/// The only writer of [`Views`].
#[derive(Debug)]
pub(crate) struct Publisher(watch::Sender<Newest>);

/// Why a connection to the consumer ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the consumer did not answer in time")]
    TooSlow,
    #[error("the consumer's stream cannot be used")]
    Stream(#[source] PendingError),
    #[error("the consumer ended the stream")]
    Closed,
    #[error("an update does not fit to those before it")]
    BadUpdate(#[source] BadUpdate),
    #[error("an update could not be prepared for answers")]
    Unusable(#[source] JoinError),
}

impl Ended {
    /// The label in metrics of the update at fault, if one is.
    const fn update(&self) -> Option<&'static str> {
        match self {
            Self::Stream(PendingError::Invalid(_)) => Some("invalid"),
            Self::BadUpdate(_) | Self::Unusable(_) => Some("bad"),
            Self::TooSlow | Self::Stream(PendingError::Stream(_)) | Self::Closed => None,
        }
    }
}

/// Follows one consumer.
#[derive(Debug)]
pub(crate) struct Follower {
    client: PendingClient,
    publisher: Publisher,
    metrics: Metrics,
    /// How transactions were sent, by their hashes.
    submissions: Arc<Remembered<B256>>,
    backoff: Backoff,
}

impl Follower {
    pub(crate) const fn new(
        client: PendingClient,
        publisher: Publisher,
        metrics: Metrics,
        submissions: Arc<Remembered<B256>>,
    ) -> Self {
        Self { client, publisher, metrics, submissions, backoff: Backoff::new() }
    }

    /// Follows until shutdown, whatever the consumer does.
    pub(crate) async fn follow(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let follow = async {
            let mut failures = 0_u32;
            loop {
                let Err(ended) = self.connection(&mut failures).await;
                self.complain(&ended, failures);
                failures = failures.saturating_add(1);
                self.backoff.wait().await;
            }
        };
        tokio::select! {
            never = follow => never,
            () = shutdown.cancelled() => Ok(()),
        }
    }

    async fn connection(&mut self, failures: &mut u32) -> Result<Infallible, Ended> {
        let updates = timeout(SUBSCRIBE, self.client.subscribe()).await;
        let updates = updates.map_err(|_| Ended::TooSlow)?.map_err(Ended::Stream)?;
        let mut updates = std::pin::pin!(updates);
        let mut store = SnapshotStore::new();
        let mut arrived = Vec::new();
        while let Some(update) = updates.next().await {
            let update = update.map_err(Ended::Stream)?;
            arrived
                .extend(update.executed.iter().map(|executed| (begin(executed), executed.clone())));
            let snapshot = store.apply(&update).map_err(Ended::BadUpdate)?;
            if update.is_part {
                // What is shown now may be more.
                continue;
            }
            let (id, previous) = (snapshot.id, self.publisher.0.borrow().clone());
            let view = spawn_blocking(move || {
                Arc::new(View::new(snapshot, previous.as_deref(), Instant::now()))
            });
            let view = view.await.map_err(Ended::Unusable)?;
            self.count(&update, &view);
            self.publisher.0.send_replace(Some(view));
            for (span, executed) in arrived.drain(..) {
                span.in_scope(|| self.served(&executed));
            }
            if *failures > 0 || self.metrics.connected.get() == 0 {
                info!(snapshot = id, failures, "following the consumer");
            }
            self.metrics.connected.set(1);
            *failures = 0;
            self.backoff.reset();
        }
        Err(Ended::Closed)
    }

    fn complain(&self, ended: &Ended, failures: u32) {
        self.metrics.connected.set(0);
        if let Some(outcome) = ended.update() {
            self.metrics.updates.get([outcome]).inc();
        }
        let error = Chain(ended);
        if failures == 0 {
            warn!(%error, "the consumer is not followed");
        } else {
            debug!(%error, failures, "the consumer is still not followed");
        }
    }

    /// A flashblock is in the view that is shown, within its span.
    fn served(&self, executed: &ExecutedFlashblock) {
        let published = Duration::from_millis(executed.published_at_ms);
        self.metrics.flashblock_age.observe(now().saturating_sub(published).as_secs_f64());
        let flashblock = Trace::current();
        for executed in &executed.transactions {
            let Some(submission) = self.submissions.take(executed.transaction.hash()) else {
                continue;
            };
            let receipt = info_span!(parent: None, "receipt served");
            submission.adopt(&receipt);
            flashblock.link(&receipt);
            receipt.in_scope(|| ());
        }
    }

    fn count(&self, update: &Update, view: &View) {
        let now = now();
        for retraction in &update.retracted {
            info!(?retraction, "retracted");
        }
        self.metrics.retracted.inc_by(update.retracted.len() as u64);
        self.metrics.updates.get(["applied"]).inc();
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.snapshot_id.set(gauge(view.snapshot.id));
        self.metrics.snapshot_received.set(gauge(now.as_secs()));
        self.metrics.snapshot_blocks.set(gauge(view.snapshot.blocks.len() as u64));
        self.metrics.canonical_number.set(gauge(view.snapshot.canonical.number));
    }
}

/// A span for a flashblock that has arrived, in its trace.
fn begin(executed: &ExecutedFlashblock) -> Span {
    let span = info_span!(
        parent: None,
        "snapshot",
        otel.kind = "consumer",
        position = %executed.position,
    );
    if let Some(traceparent) = &executed.traceparent {
        span_with_parent(&span, traceparent.as_str());
    }
    span
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
