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
//!
//! What is published is in the [`Journal`] before, if there is one: a flashblock before it is
//! signed, so that one that was signed and not published can be published by the process after this
//! one. A flashblock that cannot be written down is not published.
//!
//! * [`lease`] — the right to publish: taken, kept and lost.
//! * [`statement`] — what is owed.

mod lease;
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
use preconf_chassis::{Backoff, Check, Shutdown};
use preconf_primitives::{
    AbandonReason, Arrival, Epoch, Flashblock, FlashblockParts, Opening, PayloadId, Position,
    Progress, Retracted, Session, Succession,
};
use preconf_signing::{
    Lease, OpenSession, OpenedSession, SignFlashblock, Signatures, SignedFlashblock,
    SignerRefusalReason, v2,
};
use preconf_telemetry::{Remembered, Trace, current_traceparent};
use preconf_wire::{
    feed::FeedItem,
    signer::{SignerClient, SignerError},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

use crate::{feed::Feed, journal::Journal, metrics::Metrics};

use lease::LEASE_POLL;
use statement::{LEASE_LOST, Owed, Statement, cause};

/// How often a flashblock is tried: its build ends then.
const ATTEMPTS: u32 = 3;
/// How long a retraction is tried to be signed, by whoever has the lease.
const RETRACTION: Duration = Duration::from_secs(3_600);
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
        /// What its flashblocks are traced in.
        trace: Trace,
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
    /// The last one is out: readers have the whole block.
    Completed { build: BuildId },
    /// The signer refused or did not answer: the build is over.
    Failed { build: BuildId, reason: AbandonReason },
    /// The lease is ours: what is built is published from here on.
    Leads,
    /// It is not ours any more.
    Follows,
}

/// What a publisher works with.
pub(crate) struct Parts {
    pub(crate) signer: SignerClient,
    pub(crate) feed: Arc<Feed>,
    pub(crate) metrics: Arc<Metrics>,
    /// How transactions came, by their hashes.
    pub(crate) submissions: Arc<Remembered<B256>>,
    /// Under which name it takes the lease.
    pub(crate) holder: String,
    pub(crate) lease_duration: Duration,
    pub(crate) journal: Option<Journal>,
    /// The flashblock that this builder may have had signed before it was started again.
    pub(crate) unsigned: Option<Flashblock>,
    /// Whether the consensus client may come here.
    pub(crate) check: Check,
    pub(crate) published: mpsc::Sender<Published>,
}

/// Signs and publishes.
pub(crate) struct Publisher {
    parts: Parts,
    lease: Option<Lease>,
    /// When the lease is renewed, or asked for.
    lease_due: Instant,
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
}

/// The session that is open.
struct Live {
    build: BuildId,
    session: Session,
    trace: Trace,
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
    #[error("writing the journal")]
    Journal(#[source] std::io::Error),
    #[error("the signer signed another digest than ours")]
    Digest,
    #[error("{0} does not follow what was published before: {1:?}")]
    Order(Position, Succession),
}

impl Publisher {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            lease: None,
            lease_due: Instant::now(),
            live: None,
            owed: VecDeque::new(),
            next_try: Instant::now(),
            backoff: Backoff::new(),
            held: None,
            progress: Progress::new(),
        }
    }

    /// Publishes what comes, in order, and keeps the lease, until the process is told to stop; then
    /// what is still waiting, and the end of the open session.
    pub(crate) async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>, shutdown: Shutdown) {
        self.keep_lease().await;
        loop {
            tokio::select! {
                () = sleep_until(self.next_try), if !self.owed.is_empty() => self.say().await,
                next = outgoing.recv(), if self.owed.is_empty() => match next {
                    Some(next) => self.publish(next).await,
                    None => break,
                },
                () = sleep_until(self.lease_due) => self.keep_lease().await,
                () = shutdown.cancelled() => break,
            }
            self.release().await;
        }
        if timeout(LAST_WORDS, self.drain(outgoing)).await.is_err() {
            for owed in std::mem::take(&mut self.owed) {
                self.lose(&owed.statement, "shutdown");
            }
            // What was signed and not published is this builder's to publish: the lease runs out.
            return;
        }
        self.release_lease().await;
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
            Outgoing::Open { build, block_number, parent_hash, payload_id, opening, trace } => {
                let span = info_span!("open session", build = build.0, block_number);
                trace.adopt(&span);
                let opened =
                    self.open(build, block_number, parent_hash, payload_id, opening, trace);
                opened.instrument(span).await.map_err(|error| (build, error))
            }
            Outgoing::Flashblock { build, cut } if self.is_live(build) => {
                self.flashblock(build, cut, false).await.map_err(|error| (build, error))
            }
            Outgoing::Seal { build, last, block_hash, state_root } if self.is_live(build) => {
                match self.flashblock(build, last, true).await {
                    Ok(()) => {
                        self.seal(block_hash, state_root);
                        self.tell(Published::Completed { build }).await;
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
        if let PublishError::Signer(SignerError::Refused(refusal)) = error
            && refusal.reason == SignerRefusalReason::LeaseLost
        {
            // The next renewal would have said so.
            self.lose_lease().await;
            self.lease_due = Instant::now();
        }
        let reason = match self.lease {
            Some(_) => AbandonReason::SignerUnavailable,
            None => AbandonReason::LeaseLost,
        };
        self.end_live(reason);
        self.tell(Published::Failed { build, reason }).await;
    }

    /// The sequencer is gone only when the process ends.
    async fn tell(&self, what: Published) {
        let _ = self.parts.published.send(what).await;
    }

    async fn open(
        &mut self,
        build: BuildId,
        block_number: u64,
        parent_hash: B256,
        payload_id: PayloadId,
        opening: Box<Opening>,
        trace: Trace,
    ) -> Result<(), PublishError> {
        self.shorten_journal()?;
        let epoch = match self.lease {
            Some(lease) => lease.epoch,
            None => self.take_lease().await?.epoch,
        };
        let request = OpenSession { epoch, block_number, parent_hash, payload_id };
        let opened = open_session(&self.parts.signer, request).await;
        let opened = match opened {
            Err(SignerError::Refused(refusal))
                if refusal.reason == SignerRefusalReason::LeaseLost =>
            {
                let epoch = self.take_lease().await?.epoch;
                open_session(&self.parts.signer, OpenSession { epoch, ..request }).await
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
            trace,
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
        let span = info_span!(
            "flashblock",
            otel.kind = "producer",
            build = build.0,
            position = field::Empty,
            transactions,
            is_last,
        );
        if let Some(live) = &self.live {
            live.trace.adopt(&span);
        }
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
        if let Some(journal) = &mut self.parts.journal {
            journal.flashblock(&flashblock).map_err(PublishError::Journal)?;
        }
        let signed = self.signed(session.epoch, flashblock, &content).await?;
        if let Some(live) = &mut self.live {
            live.opening = None;
            live.parent_digest = digest;
            live.next_index += 1;
        }
        self.progress.accept(&arrival);
        self.parts.metrics.flashblock(&signed.flashblock, started.elapsed());
        self.parts.feed.publish(at, FeedItem::Flashblock(signed));
        Span::current().record("position", field::display(at));
        self.trace_transactions(at, &cut);
        // Owed from here on, so that the assembler may forget them.
        self.retract(at, session, &cut);
        self.tell(Published::Flashblock { build, index: cut.index }).await;
        Ok(())
    }

    /// Tells the traces of the transactions where they have gone, and the other way round.
    fn trace_transactions(&self, at: Position, cut: &Cut) {
        let (span, flashblock) = (Span::current(), Trace::current());
        for transaction in &cut.transactions {
            let Some(submission) = self.parts.submissions.take(transaction.hash()) else {
                continue;
            };
            submission.link(&span);
            let preconfirmed = info_span!(parent: None, "preconfirmed", position = %at);
            submission.adopt(&preconfirmed);
            flashblock.link(&preconfirmed);
            preconfirmed.in_scope(|| ());
        }
    }

    /// A flashblock with its signatures, which are in the journal.
    async fn signed(
        &mut self,
        epoch: Epoch,
        flashblock: Flashblock,
        content: &v2::Content,
    ) -> Result<SignedFlashblock, PublishError> {
        let v2::Content { position, hashes, published_at_ms, is_last, parent_digest, .. } =
            *content;
        let request =
            SignFlashblock { epoch, position, hashes, published_at_ms, is_last, parent_digest };
        let signatures = sign(&self.parts.signer, &request).await.map_err(PublishError::Signer)?;
        let Signatures { digest, signature, seal } = signatures;
        if digest != content.digest() {
            return Err(PublishError::Digest);
        }
        if let Some(journal) = &mut self.parts.journal {
            let written = journal.signatures(position, &signature, &seal);
            written.map_err(PublishError::Journal)?;
        }
        Ok(SignedFlashblock { flashblock, signature, seal })
    }

    fn shorten_journal(&mut self) -> Result<(), PublishError> {
        match &mut self.parts.journal {
            Some(journal) if journal.is_long() => {
                journal.rewrite(&self.parts.feed.kept()).map_err(PublishError::Journal)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Owes the retractions of the flashblock at `at`.
    fn retract(&mut self, at: Position, session: Session, cut: &Cut) {
        if cut.retractions.is_empty() {
            return;
        }
        self.parts.metrics.retracted(&cut.retractions);
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
        let patience = match statement {
            // Nobody else says it, and the assembler has forgotten the promise.
            Statement::Retracted(_) => RETRACTION,
            Statement::Sealed { .. } | Statement::Abandoned { .. } => self.parts.lease_duration,
        };
        let until = Instant::now() + patience;
        self.owed.push_back(Owed { statement, at, until });
    }

    /// Has the first of what is owed signed, or puts it off, or gives it up.
    async fn say(&mut self) {
        let Some(owed) = self.owed.pop_front() else { return };
        let Some(lease) = self.lease else {
            if Instant::now() >= owed.until {
                return self.lose(&owed.statement, LEASE_LOST);
            }
            // It may be ours again at once: a signer that was started again gives it to the first.
            self.next_try = Instant::now() + LEASE_POLL;
            return self.owed.push_front(owed);
        };
        match owed.statement.sign(&self.parts.signer, lease.epoch).await {
            Ok(item) => {
                self.backoff.reset();
                let journal = self.parts.journal.as_mut();
                let written = journal.map_or(Ok(()), |journal| journal.statement(owed.at, &item));
                if let Err(error) = written {
                    warn!(%error, "a statement is not in the journal");
                }
                self.parts.feed.publish(owed.at, item);
            }
            Err(SignerError::Refused(refusal))
                if refusal.reason == SignerRefusalReason::LeaseLost
                    && matches!(owed.statement, Statement::Retracted(_)) =>
            {
                self.lose_lease().await;
                self.lease_due = Instant::now();
                self.owed.push_front(owed);
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
        self.parts.metrics.lost_statement(statement.as_str(), cause);
        self.backoff.reset();
        self.next_try = Instant::now();
    }
}

impl Live {
    /// The position of the last published flashblock, or of the first if none was.
    const fn last(&self) -> Position {
        Position::new(self.session.seq, self.next_index.saturating_sub(1))
    }
}

/// Asks for a session.
async fn open_session(
    signer: &SignerClient,
    request: OpenSession,
) -> Result<OpenedSession, SignerError> {
    let span = info_span!("preconf.signer.v1.Signer/OpenSession", otel.kind = "client");
    signer.open_session(request).instrument(span).await
}

/// Asks again with the same content while the signer does not answer.
async fn sign(
    signer: &SignerClient,
    request: &SignFlashblock,
) -> Result<preconf_signing::Signatures, SignerError> {
    let mut attempt = 1;
    loop {
        let span = info_span!("preconf.signer.v1.Signer/Sign", otel.kind = "client");
        match signer.sign(request).instrument(span).await {
            Err(SignerError::Unavailable(_)) if attempt < ATTEMPTS => attempt += 1,
            answer => return answer,
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
