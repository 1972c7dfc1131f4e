//! The key behind the machine: answers `signer.v1`.
//!
//! The order of every answer: the machine decides and commits under one lock, which is never held
//! across an await; if there is a record, what it committed is waited for until it is on the disk,
//! also by those who only ask again; then, and only then, the signature is made, on a thread of its
//! own. A caller that gives up in between finds the decision when it asks again, and gets the same
//! bytes.
//!
//! Leases, sessions and refusals are logged as they happen; refusals at most once a second for
//! each reason, with the number that was not logged. No line carries key material.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use preconf_primitives::{
    AbandonReason, Abandoned, Digest, Epoch, Position, Retracted, Sealed, Seq, Session,
};
use preconf_signing::{
    Head, Lease, OpenSession, OpenedSession, SignFlashblock, Signature, Signatures,
    SignedStatement, SignerRefusal, SignerRefusalReason, v2,
};
use preconf_telemetry::LogLimit;
use preconf_wire::signer::{SealSession, SignerService};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::{debug, error, info};

use crate::{
    Signatory,
    metrics::{Kind, Metrics},
    record::{Line, Recorder, Room},
    watermark::{Decision, Entry, Grant, Opened, Record, Refused, Tip, Watermark},
};

/// How many signatures are made at a time. Further ones wait; there are at most as many of them as
/// the listener admits requests.
const MAX_SIGNING: usize = 8;
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How much of a holder's name is logged.
const MAX_LOGGED_NAME: usize = 64;

/// A signer.
#[derive(Debug)]
pub struct Signer {
    watermark: Arc<Mutex<Watermark>>,
    recorder: Recorder,
    signatory: Arc<Signatory>,
    clock: Clock,
    signing: Semaphore,
    metrics: Metrics,
    complaints: Mutex<[LogLimit; SignerRefusalReason::ALL.len()]>,
}

impl Signer {
    /// Puts a key behind a machine that goes on at the clock's time.
    pub(crate) fn new(
        signatory: Signatory,
        watermark: Arc<Mutex<Watermark>>,
        recorder: Recorder,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let signer = Self {
            watermark,
            recorder,
            signatory: Arc::new(signatory),
            clock,
            signing: Semaphore::new(MAX_SIGNING),
            metrics,
            complaints: Mutex::new(std::array::from_fn(|_| LogLimit::new(LOG_INTERVAL))),
        };
        signer.show(signer.watermark().tip());
        signer
    }

    /// Waits until nothing can be recorded any more.
    pub(crate) fn record_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.recorder.ended()
    }

    /// Asks the machine, records what it decides as new, and waits until that is on the disk, and
    /// all that the decision may follow from.
    async fn decide<T: Clone + Into<Record>>(
        &self,
        asked: Asked,
        ask: impl FnOnce(&Watermark, Duration) -> Result<Decision<T>, Refused>,
    ) -> Result<Decision<T>, SignerRefusal> {
        let room = self.recorder.room().await;
        let (decided, handed) = self.decide_and_commit(ask, room);
        self.recorder.synced(handed).await;
        match decided {
            Ok(decision) => Ok(decision),
            Err(refused) => Err(self.refuse(asked, refused).await),
        }
    }

    fn decide_and_commit<T: Clone + Into<Record>>(
        &self,
        ask: impl FnOnce(&Watermark, Duration) -> Result<Decision<T>, Refused>,
        room: Room<'_>,
    ) -> (Result<Decision<T>, Refused>, u64) {
        let mut watermark = self.watermark();
        // Read under the lock, so that the machine's time never goes back.
        let at = self.clock.now();
        let decided = ask(&watermark, at);
        if let Ok(Decision::New(record)) = &decided {
            let record = record.clone().into();
            watermark.commit(&record, at);
            room.hand_over(Line { at, record });
            self.show(watermark.tip());
        }
        (decided, self.recorder.handed())
    }

    /// Looks at the machine, and waits until all that is seen there is on the disk.
    async fn look<T>(&self, at: impl FnOnce(&Watermark) -> T) -> T {
        let (seen, handed) = {
            let watermark = self.watermark();
            (at(&watermark), self.recorder.handed())
        };
        self.recorder.synced(handed).await;
        seen
    }

    /// Logs and counts a refusal, and signs its evidence again.
    async fn refuse(&self, asked: Asked, refused: Refused) -> SignerRefusal {
        let Refused { reason, evidence, expected } = refused;
        let label = reason.as_str();
        self.metrics.refusals.get([label]).inc();
        if let Some(suppressed) = self.complain(reason) {
            let Asked { operation, epoch, seq, index, block_number } = asked;
            let expected = expected.map(tracing::field::display);
            if reason == SignerRefusalReason::Equivocation {
                error!(reason = label, operation, epoch, seq, index, suppressed, "refused");
            } else {
                info!(
                    reason = label,
                    operation, epoch, seq, index, block_number, expected, suppressed, "refused"
                );
            }
        }
        let evidence = match evidence {
            Some(entry) => Some(Box::new(self.signatures(*entry).await)),
            None => None,
        };
        SignerRefusal { reason, evidence, expected }
    }

    fn complain(&self, reason: SignerRefusalReason) -> Option<u64> {
        let at = SignerRefusalReason::ALL.iter().position(|&known| known == reason)?;
        // A limit that was left half-way by a panic is still a limit.
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints[at].admit(Instant::now())
    }

    async fn signatures(&self, entry: Entry) -> Signatures {
        let (signature, seal) = tokio::join!(
            self.sign_apart(move |signatory| signatory.signature(&entry)),
            self.sign_apart(move |signatory| signatory.seal(entry.digest)),
        );
        Signatures { digest: entry.digest, signature, seal }
    }

    async fn statement<T>(&self, statement: T, digest: Digest) -> SignedStatement<T> {
        let seal = self.sign_apart(move |signatory| signatory.seal(digest)).await;
        SignedStatement { statement, seal }
    }

    /// Signs on a thread that serves nobody else meanwhile.
    async fn sign_apart(
        &self,
        sign: impl FnOnce(&Signatory) -> Signature + Send + 'static,
    ) -> Signature {
        let _place = self.signing.acquire().await.expect("the semaphore is never closed");
        let signatory = Arc::clone(&self.signatory);
        spawn_blocking(move || sign(&signatory))
            .await
            .expect("signing does not panic, and the runtime outlives the requests it serves")
    }

    fn count<T>(&self, kind: Kind, decision: &Decision<T>) {
        let counters = match decision {
            Decision::New(_) => &self.metrics.signatures,
            Decision::Known(_) => &self.metrics.repeats,
        };
        counters.get([kind.as_str()]).inc();
    }

    fn show(&self, tip: Tip) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.epoch.set(number(tip.epoch.get()));
        self.metrics.last_seq.set(number(tip.last_seq.get()));
    }

    fn watermark(&self) -> MutexGuard<'_, Watermark> {
        self.watermark.lock().expect("after a panic in the machine nothing may be signed any more")
    }
}

/// The machine's time: whole milliseconds, as they are recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Duration,
    started: Instant,
}

impl Clock {
    /// A clock that goes on at `start`.
    pub(crate) fn from(start: Duration) -> Self {
        Self { start, started: Instant::now() }
    }

    fn now(self) -> Duration {
        let now = self.start.saturating_add(self.started.elapsed());
        Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What a refusal is logged with.
#[derive(Clone, Copy, Default)]
struct Asked {
    operation: &'static str,
    epoch: Option<u64>,
    seq: Option<u64>,
    index: Option<u64>,
    block_number: Option<u64>,
}

impl Asked {
    fn by(operation: &'static str, epoch: Epoch) -> Self {
        Self { operation, epoch: Some(epoch.get()), ..Self::default() }
    }

    fn of(self, seq: Seq) -> Self {
        Self { seq: Some(seq.get()), ..self }
    }

    fn at(self, Position { seq, index }: Position) -> Self {
        Self { index: Some(index), ..self.of(seq) }
    }

    fn for_block(self, block_number: u64) -> Self {
        Self { block_number: Some(block_number), ..self }
    }
}

impl SignerService for Signer {
    async fn head(&self) -> Result<Head, SignerRefusal> {
        let Tip { epoch, last_seq, position, digest } = self.look(Watermark::tip).await;
        let public_key = self.signatory.public_key();
        let chain_id = self.signatory.chain_id();
        Ok(Head { public_key, chain_id, epoch, position, digest, last_seq })
    }

    async fn acquire_lease(
        &self,
        holder: String,
        duration: Duration,
    ) -> Result<Lease, SignerRefusal> {
        let asked = Asked { operation: "acquire_lease", ..Asked::default() };
        let ask = |machine: &Watermark, now| machine.acquire_lease(&holder, duration, now);
        let Grant { epoch, holder, duration } = self.decide(asked, ask).await?.into_inner();
        let holder: String = holder.chars().take(MAX_LOGGED_NAME).collect();
        info!(%epoch, holder = ?holder, duration = ?duration, "lease acquired");
        // Nobody but the new holder, who waits for this answer, can have moved it meanwhile.
        let last_digest = self.watermark().tip().digest;
        Ok(Lease { epoch, duration, last_digest })
    }

    async fn renew_lease(&self, epoch: Epoch) -> Result<Duration, SignerRefusal> {
        let asked = Asked::by("renew_lease", epoch);
        let grant = self.decide(asked, |machine, _| machine.renew_lease(epoch)).await?.into_inner();
        debug!(%epoch, duration = ?grant.duration, "lease renewed");
        Ok(grant.duration)
    }

    async fn release_lease(&self, epoch: Epoch) -> Result<(), SignerRefusal> {
        let asked = Asked::by("release_lease", epoch);
        self.decide(asked, |machine, _| machine.release_lease(epoch)).await?;
        info!(%epoch, "lease released");
        Ok(())
    }

    async fn open_session(&self, request: OpenSession) -> Result<OpenedSession, SignerRefusal> {
        let asked = Asked::by("open_session", request.epoch).for_block(request.block_number);
        let ask = |machine: &Watermark, now| machine.open_session(&request, now);
        let decision = self.decide(asked, ask).await?;
        let Opened { session, parent_digest } = *decision.get();
        let Session { epoch, seq, block_number, parent_hash, payload_id } = session;
        if let Decision::New(_) = decision {
            self.metrics.sessions.inc();
            info!(%seq, %epoch, block_number, %parent_hash, %payload_id, "session opened");
        }
        Ok(OpenedSession { seq, parent_digest })
    }

    async fn sign(&self, request: SignFlashblock) -> Result<Signatures, SignerRefusal> {
        let received = Instant::now();
        let asked = Asked::by("sign", request.epoch).at(request.position);
        let ask = |machine: &Watermark, now| machine.sign(&request, now);
        let decision = self.decide(asked, ask).await?;
        // Before the wait, which the caller may give up.
        self.count(Kind::Flashblock, &decision);
        let signatures = self.signatures(*decision.get()).await;
        self.metrics.sign_seconds.observe(received.elapsed().as_secs_f64());
        debug!(position = %request.position, digest = %signatures.digest, "flashblock signed");
        Ok(signatures)
    }

    async fn abandon(
        &self,
        epoch: Epoch,
        seq: Seq,
        reason: AbandonReason,
    ) -> Result<SignedStatement<Abandoned>, SignerRefusal> {
        let asked = Asked::by("abandon", epoch).of(seq);
        let ask = |machine: &Watermark, now| machine.abandon(epoch, seq, reason, now);
        let decision = self.decide(asked, ask).await?;
        self.count(Kind::Abandoned, &decision);
        if let Decision::New(Abandoned { block_number, .. }) = decision {
            info!(%seq, block_number, reason = reason.as_str(), "session abandoned");
        }
        let abandoned = decision.into_inner();
        let digest = v2::abandoned_digest(&abandoned);
        Ok(self.statement(abandoned, digest).await)
    }

    async fn seal(&self, request: SealSession) -> Result<SignedStatement<Sealed>, SignerRefusal> {
        let SealSession { epoch, seq, block_hash, state_root } = request;
        let asked = Asked::by("seal", epoch).of(seq);
        let ask = |machine: &Watermark, now| machine.seal(epoch, seq, block_hash, state_root, now);
        let decision = self.decide(asked, ask).await?;
        self.count(Kind::Sealed, &decision);
        if let Decision::New(Sealed { block_number, .. }) = decision {
            info!(%seq, block_number, %block_hash, "session sealed");
        }
        let sealed = decision.into_inner();
        let digest = v2::sealed_digest(&sealed);
        Ok(self.statement(sealed, digest).await)
    }

    async fn retract(
        &self,
        epoch: Epoch,
        retracted: Retracted,
    ) -> Result<SignedStatement<Retracted>, SignerRefusal> {
        let asked = Asked::by("retract", epoch).at(retracted.at).for_block(retracted.block_number);
        let digest = v2::retracted_digest(&retracted);
        let ask = |machine: &Watermark, now| machine.retract(epoch, retracted.at, digest, now);
        let decision = self.decide(asked, ask).await?;
        self.count(Kind::Retracted, &decision);
        if let Decision::New(_) = decision {
            let Retracted { at, block_number, retractions } = &retracted;
            info!(%at, block_number, transactions = retractions.len(), "retraction signed");
        }
        Ok(self.statement(retracted, digest).await)
    }

    async fn evidence(&self, position: Position) -> Result<Option<Signatures>, SignerRefusal> {
        match self.look(|machine| machine.evidence(position)).await {
            Some(entry) => Ok(Some(self.signatures(entry).await)),
            None => Ok(None),
        }
    }
}
