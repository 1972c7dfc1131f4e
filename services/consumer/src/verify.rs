//! From what claims to be signed to what is: one thread, so that the order stays.
//!
//! Checking a seal and recovering the senders of a full flashblock take milliseconds, on neither
//! the runtime nor the thread that executes.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use preconf_chassis::Shutdown;
use preconf_pending::Received;
use preconf_primitives::{Abandoned, Position, Retracted, Sealed, Seq};
use preconf_signing::{Checked, Refusal, SignedStatement, Verified, Verifier};
use preconf_telemetry::LogLimit;
use preconf_wire::{feed::FeedItem, json::UpstreamFlashblock};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    PayloadIdCheck,
    executor::Input,
    feed::{Arrived, Content},
    link::Link,
    metrics::Metrics,
    payload_id::binds,
    v1::{self, Numbering, Place, Unplaced},
};

/// How often the same complaint is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A verified message.
#[derive(Debug)]
pub(crate) enum Message {
    Flashblock(Received),
    Sealed(Verified<SignedStatement<Sealed>>),
    Abandoned(Verified<SignedStatement<Abandoned>>),
    Retracted(Verified<SignedStatement<Retracted>>),
    /// A hint: the feed does not have what was wanted.
    NotReplayed {
        wanted: Position,
        next: Position,
    },
}

/// Why a message is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It has no meaning.
    Malformed,
    /// It carries no seal.
    Unsealed,
    /// It is of a feed with seals, and the policy is for one without.
    Sealed,
    /// Its seal is by none of the configured keys, or for another chain.
    Seal,
    /// So is its v1 signature.
    Signature,
    /// Its payload id does not bind its base and withdrawals.
    PayloadId,
}

impl Bad {
    const COUNT: usize = 6;

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsealed => "unsealed",
            Self::Sealed => "sealed",
            Self::Seal => "bad_seal",
            Self::Signature => "bad_signature",
            Self::PayloadId => "payload_id",
        }
    }
}

/// A message that was not taken.
#[derive(Debug)]
struct Refused {
    bad: Bad,
    detail: String,
}

impl Refused {
    fn new(bad: Bad, detail: impl ToString) -> Self {
        Self { bad, detail: detail.to_string() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadSeal => Self::new(Bad::Seal, refusal),
            Refusal::BadSignature => Self::new(Bad::Signature, refusal),
        }
    }
}

/// One limit for each reason, so that one complaint does not hide another.
#[derive(Debug)]
pub(crate) struct Complaints(Mutex<[LogLimit; Bad::COUNT]>);

impl Complaints {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(std::array::from_fn(|_| LogLimit::new(LOG_INTERVAL))))
    }

    pub(crate) fn complain(&self, bad: Bad, detail: &str, now: Instant) {
        if let Some(suppressed) = self.0.lock()[bad as usize].admit(now) {
            warn!(reason = bad.as_str(), detail, suppressed, "bad message");
        }
    }
}

/// What makes a flashblock the sequencer's.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Its seal, which covers all that it says.
    Seals,
    /// Its v1 signature, and the payload id for what that does not cover.
    Signatures(Box<Signatures>),
}

/// What is remembered of a feed without seals.
#[derive(Debug)]
pub(crate) struct Signatures {
    numbering: Numbering,
    check: PayloadIdCheck,
    holes: LogLimit,
}

impl Signatures {
    /// Numbers sessions from `next_seq` on.
    pub(crate) const fn new(next_seq: Seq, check: PayloadIdCheck) -> Self {
        let holes = LogLimit::new(LOG_INTERVAL);
        Self { numbering: Numbering::from(next_seq), check, holes }
    }
}

type Tools<'a> = (&'a Verifier, &'a Metrics, &'a Complaints);

impl Signatures {
    /// Takes a flashblock that follows; what was sent and has no place is counted.
    fn take(
        &mut self,
        upstream: UpstreamFlashblock,
        tools: Tools<'_>,
    ) -> Result<Option<Message>, Refused> {
        match self.numbering.place(&upstream) {
            Ok(place) => self.verify(upstream, place, tools).map(Some),
            Err(unplaced) => self.count(&upstream, unplaced, tools).map(|()| None),
        }
    }

    /// Verifies a flashblock, and only then remembers it.
    fn verify(
        &mut self,
        upstream: UpstreamFlashblock,
        place: Place,
        (verifier, metrics, complaints): Tools<'_>,
    ) -> Result<Message, Refused> {
        let signature = upstream.signature;
        let flashblock = v1::flashblock(upstream, place, now_ms())
            .map_err(|invalid| Refused::new(Bad::Malformed, invalid))?;
        let verified = verifier.unsealed(flashblock, signature)?;
        let flashblock = verified.flashblock();
        let is_bound = || {
            let id = flashblock.payload_id();
            flashblock.opening().is_none_or(|opening| binds(id, opening))
        };
        match self.check {
            PayloadIdCheck::Require if !is_bound() => {
                return Err(Refused::new(Bad::PayloadId, UNBOUND));
            }
            PayloadIdCheck::Warn if !is_bound() => {
                metrics.unbound.inc();
                complaints.complain(Bad::PayloadId, UNBOUND, Instant::now());
            }
            PayloadIdCheck::Require | PayloadIdCheck::Warn | PayloadIdCheck::Off => {}
        }
        self.numbering.accept(flashblock, verified.digest());
        Ok(Message::Flashblock(Received::decode(verified)))
    }

    fn count(
        &mut self,
        upstream: &UpstreamFlashblock,
        unplaced: Unplaced,
        (verifier, metrics, _): Tools<'_>,
    ) -> Result<(), Refused> {
        let UpstreamFlashblock { payload_id, index, block_number, transactions, signature, .. } =
            upstream;
        verifier.v1(*block_number, *payload_id, *index, transactions, signature)?;
        metrics.flashblocks.get([unplaced.as_str()]).inc();
        if matches!(unplaced, Unplaced::Gap | Unplaced::Equivocation)
            && let Some(suppressed) = self.holes.admit(Instant::now())
        {
            let reason = unplaced.as_str();
            warn!(reason, block_number, index, suppressed, "a session is shown no further");
        }
        Ok(())
    }
}

/// The thread that verifies.
pub(crate) struct Verification {
    pub(crate) verifier: Verifier,
    pub(crate) trust: Trust,
    pub(crate) link: Arc<Link>,
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) executor: mpsc::Sender<Input>,
    pub(crate) complaints: Arc<Complaints>,
    pub(crate) metrics: Metrics,
}

impl Verification {
    /// Verifies until nothing arrives any more.
    pub(crate) fn run(mut self, shutdown: &Shutdown) {
        while let Some(Arrived { generation, content }) = self.arrived.blocking_recv() {
            if generation != self.link.generation() || shutdown.is_cancelled() {
                continue;
            }
            let started = Instant::now();
            let verified = self.verify(content);
            self.metrics.verify_seconds.observe(started.elapsed().as_secs_f64());
            match verified {
                Ok(Some(message)) => {
                    // A hint is nobody's word.
                    if !matches!(message, Message::NotReplayed { .. }) {
                        self.link.forgive();
                    }
                    let message = Box::new(message);
                    if self.executor.blocking_send(Input::Feed { generation, message }).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(Refused { bad, detail }) => self.bad(bad, &detail),
            }
        }
    }

    fn verify(&mut self, content: Content) -> Result<Option<Message>, Refused> {
        match (&mut self.trust, content) {
            (Trust::Seals, Content::Item(item)) => Ok(sealed(&self.verifier, item)?),
            (Trust::Seals, Content::Unsealed(_)) => {
                Err(Refused::new(Bad::Unsealed, "a flashblock without a seal"))
            }
            (Trust::Signatures(_), Content::Item(_)) => {
                Err(Refused::new(Bad::Sealed, "a message of a feed with seals: --policy seal"))
            }
            (Trust::Signatures(signatures), Content::Unsealed(flashblock)) => {
                let tools = (&self.verifier, &self.metrics, &*self.complaints);
                signatures.take(flashblock, tools)
            }
        }
    }

    fn bad(&self, bad: Bad, detail: &str) {
        self.complaints.complain(bad, detail, Instant::now());
        self.metrics.invalid.get([bad.as_str()]).inc();
        if self.link.strike() {
            info!("the feed sends bad messages, connecting again");
        }
    }
}

const UNBOUND: &str = "the payload id does not bind base and withdrawals";

/// Verifies a message of a feed with seals.
fn sealed(verifier: &Verifier, item: FeedItem) -> Result<Option<Message>, Refusal> {
    Ok(Some(match item {
        FeedItem::Flashblock(signed) => {
            // The seal covers all that the signature covers.
            let verified = verifier.flashblock(signed, Checked::Seal)?;
            Message::Flashblock(Received::decode(verified))
        }
        FeedItem::Sealed(signed) => Message::Sealed(verifier.sealed(signed)?),
        FeedItem::Abandoned(signed) => Message::Abandoned(verifier.abandoned(signed)?),
        FeedItem::Retracted(signed) => Message::Retracted(verifier.retracted(signed)?),
        FeedItem::Gap { wanted, next } => Message::NotReplayed { wanted, next },
        FeedItem::Goodbye { .. } => return Ok(None),
    }))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
