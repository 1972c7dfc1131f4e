//! Publishing: each flashblock is signed, in order, and only then put on the feed.
//!
//! The publisher holds the lease and the open session. What the signer refuses or does not answer
//! ends the build it belongs to: nothing unsigned is ever published, and nothing is published twice
//! with another content. Retrying is safe, because identical content has an identical signature.
//!
//! Retractions and the ends of sessions are statements: they are owed until the signer has signed
//! them (see [`statement`]). While something is owed nothing else is published, because the signer
//! ends only the newest session; the lease is renewed all the same. Nobody waits for the publisher
//! meanwhile: what does not fit into its queue ends the build it belongs to, and each build has its
//! place there for its end.

mod statement;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use preconf_assembly::{BuildId, Cut};
use preconf_chassis::{Backoff, Shutdown};
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
    signer::{SignerClient, SignerError},
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep_until, timeout},
};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{feed::Feed, metrics::Metrics};

use statement::{LEASE_LOST, Owed, Statement, cause};

/// How often a flashblock is tried: its build ends then.
const ATTEMPTS: u32 = 3;
/// How long the last statements may take when the process stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    Flashblock { build: BuildId, cut: Cut },
    /// It has become a block, which its last flashblock completes.
    Seal { build: BuildId, last: Cut, block_hash: B256, state_root: B256 },
    /// It ends without one.
    Abandon { build: BuildId, reason: AbandonReason },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The flashblock with this index is out.
    Flashblock { build: BuildId, index: u64 },
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
    /// What has to be signed before anything else is published, in order: few, as nothing new is
    /// begun meanwhile.
    owed: VecDeque<Owed>,
    /// When the first of them is asked for again.
    next_try: Instant,
    backoff: Backoff,
    /// The opening of a build that waits until the one before has ended.
    held: Option<Outgoing>,
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
            owed: VecDeque::new(),
            next_try: Instant::now(),
            backoff: Backoff::new(),
            held: None,
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
                () = sleep_until(self.next_try), if !self.owed.is_empty() => self.say().await,
                next = outgoing.recv(), if self.owed.is_empty() => match next {
                    Some(next) => self.publish(next).await,
                    None => break,
                },
                _ = renewal.tick() => self.renew_lease().await,
                () = shutdown.cancelled() => break,
            }
            self.release().await;
        }
        if timeout(LAST_WORDS, self.drain(outgoing)).await.is_err() {
            for owed in std::mem::take(&mut self.owed) {
                self.lose(&owed.statement, "shutdown");
            }
        }
    }

    /// Publishes what is waiting, and ends the open session.
    async fn drain(&mut self, mut outgoing: mpsc::Receiver<Outgoing>) {
        loop {
            self.release().await;
            if !self.owed.is_empty() {
                sleep_until(self.next_try).await;
                self.say().await;
            } else if let Ok(next) = outgoing.try_recv() {
                self.publish(next).await;
            } else if self.live.is_some() {
                self.end_live(AbandonReason::Shutdown);
            } else {
                return;
            }
        }
    }

    /// Goes on with what waited for the end of the session before.
    async fn release(&mut self) {
        if self.owed.is_empty()
            && let Some(held) = self.held.take()
        {
            self.publish(held).await;
        }
    }

    async fn publish(&mut self, next: Outgoing) {
        let outcome = match next {
            Outgoing::Open { .. } if self.live.is_some() => {
                // Whoever gives up a build says why; one that is still open was replaced.
                self.end_live(AbandonReason::HeadChanged);
                self.held = Some(next);
                Ok(())
            }
            Outgoing::Open { build, block_number, parent_hash, payload_id, opening } => {
                let opened = self.open(build, block_number, parent_hash, payload_id, opening);
                opened.await.map_err(|error| (build, error))
            }
            Outgoing::Flashblock { build, cut } if self.is_live(build) => {
                self.flashblock(build, cut, false).await.map_err(|error| (build, error))
            }
            Outgoing::Seal { build, last, block_hash, state_root } if self.is_live(build) => {
                match self.flashblock(build, last, true).await {
                    Ok(()) => {
                        self.seal(block_hash, state_root);
                        Ok(())
                    }
                    Err(error) => Err((build, error)),
                }
            }
            Outgoing::Abandon { build, reason } if self.is_live(build) => {
                self.end_live(reason);
                Ok(())
            }
            // The build has failed or was replaced: nothing more of it is published.
            Outgoing::Flashblock { .. } | Outgoing::Seal { .. } | Outgoing::Abandon { .. } => {
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
        self.end_live(reason);
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
        let transactions = cut.transactions.len();
        let span = info_span!("flashblock", build = build.0, index = cut.index, transactions);
        self.sign_flashblock(build, cut, is_last).instrument(span).await
    }

    async fn sign_flashblock(
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
        // Owed from here on, so that the assembler may forget them.
        self.retract(at, session, &cut);
        self.tell(Published::Flashblock { build, index: cut.index }).await;
        Ok(())
    }

    /// Owes the retractions of the flashblock at `at`.
    fn retract(&mut self, at: Position, session: Session, cut: &Cut) {
        if cut.retractions.is_empty() {
            return;
        }
        self.metrics.retracted(&cut.retractions);
        let block_number = session.block_number;
        let retracted = Retracted { at, block_number, retractions: cut.retractions.clone() };
        self.owe(Statement::Retracted(retracted), at);
    }

    /// Owes the block of the open session.
    fn seal(&mut self, block_hash: B256, state_root: B256) {
        let Some(live) = self.live.take() else { return };
        let seq = live.session.seq;
        self.owe(Statement::Sealed { seq, block_hash, state_root }, live.last());
    }

    /// Abandons the open session, if there is one.
    fn end_live(&mut self, reason: AbandonReason) {
        let Some(live) = self.live.take() else { return };
        let seq = live.session.seq;
        info!(%seq, reason = reason.as_str(), "session abandoned");
        self.owe(Statement::Abandoned { seq, reason }, live.last());
    }

    fn owe(&mut self, statement: Statement, at: Position) {
        if self.owed.is_empty() {
            self.next_try = Instant::now();
        }
        let until = Instant::now() + self.lease_duration;
        self.owed.push_back(Owed { statement, at, until });
    }

    /// Has the first of what is owed signed, or puts it off, or gives it up.
    async fn say(&mut self) {
        let Some(owed) = self.owed.pop_front() else { return };
        let Some(lease) = self.lease else { return self.lose(&owed.statement, LEASE_LOST) };
        match owed.statement.sign(&self.signer, lease.epoch).await {
            Ok(item) => {
                self.backoff.reset();
                self.feed.publish(owed.at, item);
            }
            Err(error @ SignerError::Unavailable(_)) if Instant::now() < owed.until => {
                let error = &error as &dyn std::error::Error;
                debug!(statement = owed.statement.as_str(), error, "asked again");
                // There is one publisher for a signer: nobody to spread out from.
                self.next_try = Instant::now() + self.backoff.next_delay(1.0);
                self.owed.push_front(owed);
            }
            Err(error) => {
                let source = &error as &dyn std::error::Error;
                warn!(statement = owed.statement.as_str(), error = source, "not signed");
                self.lose(&owed.statement, cause(&error));
            }
        }
    }

    fn lose(&mut self, statement: &Statement, cause: &'static str) {
        warn!(?statement, cause, "a statement is given up");
        self.metrics.lost_statement(statement.as_str(), cause);
        self.backoff.reset();
        self.next_try = Instant::now();
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
                if let Some(build) = self.live.as_ref().map(|live| live.build) {
                    let reason = AbandonReason::LeaseLost;
                    self.end_live(reason);
                    self.tell(Published::Failed { build, reason }).await;
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
