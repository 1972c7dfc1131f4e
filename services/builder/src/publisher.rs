//! Publishing: each flashblock is signed, in order, and only then put on the feed.
//!
//! The publisher holds the lease and the open session. What the signer refuses or does not answer
//! ends the build it belongs to: nothing unsigned is ever published, and nothing is published twice
//! with another content. Retrying is safe, because identical content has an identical signature.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use preconf_assembly::{BuildId, Cut};
use preconf_chassis::Shutdown;
use preconf_primitives::{
    AbandonReason, Arrival, Flashblock, FlashblockParts, Opening, PayloadId, Position, Progress,
    Retracted, Session, Succession,
};
use preconf_signing::{
    Lease, OpenSession, SignFlashblock, SignedFlashblock, SignerRefusalReason, v2,
};
use preconf_telemetry::current_traceparent;
use preconf_wire::{
    feed::FeedItem,
    signer::{SealSession, SignerClient, SignerError},
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at},
};
use tracing::{Instrument, info, info_span, warn};

use crate::{feed::Feed, metrics::Metrics};

/// How often a call to the signer is tried.
const ATTEMPTS: u32 = 3;

/// What is to be published.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A build begins.
    Open {
        build: BuildId,
        block_number: u64,
        parent_hash: B256,
        payload_id: PayloadId,
        opening: Box<Opening>,
    },
    /// It has a flashblock.
    Flashblock { build: BuildId, cut: Cut, is_last: bool },
    /// It has become a block.
    Sealed { build: BuildId, block_hash: B256, state_root: B256 },
    /// It ends without one.
    Abandon { build: BuildId, reason: AbandonReason },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// A flashblock is out.
    Flashblock { build: BuildId },
    /// The signer refused or did not answer: the build is over.
    Failed { build: BuildId, reason: AbandonReason },
}

/// Signs and publishes.
pub(crate) struct Publisher {
    signer: SignerClient,
    feed: Arc<Feed>,
    metrics: Arc<Metrics>,
    holder: String,
    lease_duration: Duration,
    lease: Option<Lease>,
    live: Option<Live>,
    progress: Progress,
    published: mpsc::Sender<Published>,
}

/// The session that is open.
struct Live {
    build: BuildId,
    session: Session,
    /// Goes out with index 0.
    opening: Option<Box<Opening>>,
    parent_digest: preconf_primitives::Digest,
    next_index: u64,
}

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("asking the signer")]
    Signer(#[source] SignerError),
    #[error("the flashblock is not valid")]
    Flashblock(#[source] preconf_primitives::InvalidFlashblock),
    #[error("the signer signed another digest than ours")]
    Digest,
    #[error("{0} does not follow what was published before: {1:?}")]
    Order(Position, Succession),
}

impl Publisher {
    pub(crate) fn new(
        signer: SignerClient,
        feed: Arc<Feed>,
        metrics: Arc<Metrics>,
        holder: String,
        lease_duration: Duration,
        published: mpsc::Sender<Published>,
    ) -> Self {
        Self {
            signer,
            feed,
            metrics,
            holder,
            lease_duration,
            lease: None,
            live: None,
            progress: Progress::new(),
            published,
        }
    }

    /// Publishes what comes, in order, and keeps the lease, until the process is told to stop; then
    /// what is still waiting, and the end of the open session.
    pub(crate) async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>, shutdown: Shutdown) {
        let third = self.lease_duration / 3;
        let mut renewal = interval_at(Instant::now() + third, third);
        if let Err(error) = self.take_lease().await {
            warn!(error = &error as &dyn std::error::Error, "the lease is not ours yet");
        }
        loop {
            tokio::select! {
                next = outgoing.recv() => match next {
                    Some(next) => self.publish(next).await,
                    None => break,
                },
                _ = renewal.tick() => self.renew_lease().await,
                () = shutdown.cancelled() => break,
            }
        }
        while let Ok(next) = outgoing.try_recv() {
            self.publish(next).await;
        }
        self.end_live(AbandonReason::Shutdown).await;
    }

    async fn publish(&mut self, next: Outgoing) {
        let outcome = match next {
            Outgoing::Open { build, block_number, parent_hash, payload_id, opening } => {
                // Whoever gives up a build says why; one that is still open was replaced.
                self.end_live(AbandonReason::HeadChanged).await;
                let opened = self.open(build, block_number, parent_hash, payload_id, opening);
                opened.await.map_err(|error| (build, error))
            }
            Outgoing::Flashblock { build, cut, is_last } if self.is_live(build) => {
                let span = info_span!(
                    "flashblock",
                    build = build.0,
                    index = cut.index,
                    transactions = cut.transactions.len()
                );
                let sent = self.flashblock(build, cut, is_last).instrument(span).await;
                sent.map_err(|error| (build, error))
            }
            Outgoing::Sealed { build, block_hash, state_root } if self.is_live(build) => {
                self.seal(block_hash, state_root).await;
                Ok(())
            }
            Outgoing::Abandon { build, reason } if self.is_live(build) => {
                self.end_live(reason).await;
                Ok(())
            }
            // The build has failed or was replaced: nothing more of it is published.
            Outgoing::Flashblock { .. } | Outgoing::Sealed { .. } | Outgoing::Abandon { .. } => {
                Ok(())
            }
        };
        if let Err((build, error)) = outcome {
            self.fail(build, &error).await;
        }
    }

    fn is_live(&self, build: BuildId) -> bool {
        self.live.as_ref().is_some_and(|live| live.build == build)
    }

    async fn fail(&mut self, build: BuildId, error: &PublishError) {
        warn!(
            build = build.0,
            error = error as &dyn std::error::Error,
            "the build ends: it cannot be signed"
        );
        let reason = if self.lease.is_none() {
            AbandonReason::LeaseLost
        } else {
            AbandonReason::SignerUnavailable
        };
        self.end_live(reason).await;
        self.tell(Published::Failed { build, reason }).await;
    }

    /// The sequencer is gone only when the process ends.
    async fn tell(&self, what: Published) {
        let _ = self.published.send(what).await;
    }

    async fn open(
        &mut self,
        build: BuildId,
        block_number: u64,
        parent_hash: B256,
        payload_id: PayloadId,
        opening: Box<Opening>,
    ) -> Result<(), PublishError> {
        let epoch = match self.lease {
            Some(lease) => lease.epoch,
            None => self.take_lease().await?.epoch,
        };
        let request = OpenSession { epoch, block_number, parent_hash, payload_id };
        let opened = self.signer.open_session(request).await;
        let opened = match opened {
            Err(SignerError::Refused(refusal))
                if refusal.reason == SignerRefusalReason::LeaseLost =>
            {
                let epoch = self.take_lease().await?.epoch;
                self.signer.open_session(OpenSession { epoch, ..request }).await
            }
            opened => opened,
        };
        let opened = opened.map_err(PublishError::Signer)?;
        let epoch = self.lease.map_or(epoch, |lease| lease.epoch);
        let session = Session { epoch, seq: opened.seq, block_number, parent_hash, payload_id };
        info!(seq = %session.seq, block_number, %parent_hash, build = build.0, "session opened");
        self.live = Some(Live {
            build,
            session,
            opening: Some(opening),
            parent_digest: opened.parent_digest,
            next_index: 0,
        });
        Ok(())
    }

    async fn flashblock(
        &mut self,
        build: BuildId,
        cut: Cut,
        is_last: bool,
    ) -> Result<(), PublishError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let started = std::time::Instant::now();
        let session = live.session;
        let at = Position::new(session.seq, live.next_index);
        let transactions: Vec<_> =
            cut.transactions.iter().map(|transaction| transaction.encoded().clone()).collect();
        let flashblock = Flashblock::new(FlashblockParts {
            payload_id: session.payload_id,
            position: at,
            block_number: session.block_number,
            opening: live.opening.as_deref().cloned(),
            transactions,
            is_last,
            published_at_ms: unix_ms(),
            traceparent: current_traceparent().and_then(|text| text.parse().ok()),
            parent_digest: live.parent_digest,
        })
        .map_err(PublishError::Flashblock)?;
        let content = v2::Content::of(&flashblock);
        let digest = content.digest();
        let arrival = Arrival::of(&flashblock, digest);
        match self.progress.succession(&arrival) {
            Succession::Next | Succession::NewSession | Succession::Rewind => {}
            succession @ (Succession::Duplicate
            | Succession::Equivocation
            | Succession::AfterLast
            | Succession::Gap(_)
            | Succession::Stale) => return Err(PublishError::Order(at, succession)),
        }
        let request = SignFlashblock {
            epoch: session.epoch,
            position: at,
            hashes: content.hashes,
            published_at_ms: content.published_at_ms,
            is_last,
            parent_digest: content.parent_digest,
        };
        let signatures = sign(&self.signer, &request).await.map_err(PublishError::Signer)?;
        if signatures.digest != digest {
            return Err(PublishError::Digest);
        }
        live.opening = None;
        live.parent_digest = digest;
        live.next_index += 1;
        self.progress.accept(&arrival);
        self.metrics.flashblock(&flashblock, started.elapsed());
        let signature = signatures.signature;
        let signed = SignedFlashblock { flashblock, signature, seal: signatures.seal };
        self.feed.publish(at, FeedItem::Flashblock(signed));
        self.tell(Published::Flashblock { build }).await;
        self.retract(at, session, cut).await;
        Ok(())
    }

    /// Says what the flashblock at `at` shows to be no longer promised.
    async fn retract(&self, at: Position, session: Session, cut: Cut) {
        if cut.retractions.is_empty() {
            return;
        }
        self.metrics.retracted(&cut.retractions);
        let block_number = session.block_number;
        let retracted = Retracted { at, block_number, retractions: cut.retractions };
        match self.signer.retract(session.epoch, &retracted).await {
            Ok(signed) => self.feed.publish(at, FeedItem::Retracted(signed)),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "a retraction was not signed");
            }
        }
    }

    async fn seal(&mut self, block_hash: B256, state_root: B256) {
        let Some(live) = self.live.take() else { return };
        let Session { epoch, seq, .. } = live.session;
        let request = SealSession { epoch, seq, block_hash, state_root };
        match self.signer.seal(request).await {
            Ok(signed) => self.feed.publish(live.last(), FeedItem::Sealed(signed)),
            Err(error) => {
                warn!(%seq, error = &error as &dyn std::error::Error, "the seal was not signed");
            }
        }
    }

    /// Abandons the open session, if there is one.
    async fn end_live(&mut self, reason: AbandonReason) {
        let Some(live) = self.live.take() else { return };
        let Session { epoch, seq, .. } = live.session;
        info!(%seq, reason = reason.as_str(), "session abandoned");
        match self.signer.abandon(epoch, seq, reason).await {
            Ok(signed) => self.feed.publish(live.last(), FeedItem::Abandoned(signed)),
            Err(error) => {
                warn!(%seq, error = &error as &dyn std::error::Error, "the end was not signed");
            }
        }
    }

    async fn take_lease(&mut self) -> Result<Lease, PublishError> {
        self.lease = None;
        let lease = self.signer.acquire_lease(&self.holder, self.lease_duration).await;
        let lease = lease.map_err(PublishError::Signer)?;
        info!(epoch = %lease.epoch, "lease acquired");
        self.metrics.epoch(lease.epoch);
        self.lease = Some(lease);
        Ok(lease)
    }

    async fn renew_lease(&mut self) {
        let Some(lease) = self.lease else {
            if let Err(error) = self.take_lease().await {
                warn!(error = &error as &dyn std::error::Error, "the lease is not ours yet");
            }
            return;
        };
        match self.signer.renew_lease(lease.epoch).await {
            Ok(_) => {}
            Err(SignerError::Refused(refusal)) => {
                warn!(reason = refusal.reason.as_str(), "the lease is lost");
                self.lease = None;
                if let Some(live) = self.live.take() {
                    let reason = AbandonReason::LeaseLost;
                    self.tell(Published::Failed { build: live.build, reason }).await;
                }
            }
            Err(error @ (SignerError::Unavailable(_) | SignerError::Invalid(_))) => {
                warn!(error = &error as &dyn std::error::Error, "the lease was not renewed");
            }
        }
    }
}

impl Live {
    /// The position of the last published flashblock, or of the first if none was.
    const fn last(&self) -> Position {
        Position::new(self.session.seq, self.next_index.saturating_sub(1))
    }
}

/// Asks again with the same content while the signer does not answer.
async fn sign(
    signer: &SignerClient,
    request: &SignFlashblock,
) -> Result<preconf_signing::Signatures, SignerError> {
    let mut attempt = 1;
    loop {
        match signer.sign(request).await {
            Err(SignerError::Unavailable(_)) if attempt < ATTEMPTS => attempt += 1,
            answer => return answer,
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
