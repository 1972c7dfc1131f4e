//! From what claims to be signed to what is: one thread, so that the order stays.
//!
//! Checking a seal and recovering the senders of a full flashblock take milliseconds, on neither
//! the runtime nor the thread that executes.

use std::{sync::Arc, time::Duration, time::Instant};

use parking_lot::Mutex;
use preconf_chassis::Shutdown;
use preconf_pending::Received;
use preconf_primitives::{Abandoned, Position, Retracted, Sealed};
use preconf_signing::{Checked, Refusal, SignedStatement, Verified, Verifier};
use preconf_telemetry::LogLimit;
use preconf_wire::feed::FeedItem;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{executor::Input, feed::Arrived, link::Link, metrics::Metrics};

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
    /// Its seal is by none of the configured keys, or for another chain.
    Seal,
}

impl Bad {
    const COUNT: usize = 3;

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsealed => "unsealed",
            Self::Seal => "bad_seal",
        }
    }
}

impl From<Refusal> for Bad {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            // Only the seal is checked: it covers all that the signature covers.
            Refusal::BadSeal | Refusal::BadSignature => Self::Seal,
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
            warn!(reason = bad.as_str(), detail, suppressed, "bad message dropped");
        }
    }
}

/// The thread that verifies.
pub(crate) struct Verification {
    pub(crate) verifier: Verifier,
    pub(crate) link: Arc<Link>,
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) executor: mpsc::Sender<Input>,
    pub(crate) complaints: Arc<Complaints>,
    pub(crate) metrics: Metrics,
}

impl Verification {
    /// Verifies until nothing arrives any more.
    pub(crate) fn run(mut self, shutdown: &Shutdown) {
        while let Some(Arrived { generation, item }) = self.arrived.blocking_recv() {
            if generation != self.link.generation() || shutdown.is_cancelled() {
                continue;
            }
            let started = Instant::now();
            let verified = self.verify(item);
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
                Err(refusal) => self.bad(refusal),
            }
        }
    }

    fn verify(&self, item: FeedItem) -> Result<Option<Message>, Refusal> {
        Ok(Some(match item {
            FeedItem::Flashblock(signed) => {
                let verified = self.verifier.flashblock(signed, Checked::Seal)?;
                Message::Flashblock(Received::decode(verified))
            }
            FeedItem::Sealed(signed) => Message::Sealed(self.verifier.sealed(signed)?),
            FeedItem::Abandoned(signed) => Message::Abandoned(self.verifier.abandoned(signed)?),
            FeedItem::Retracted(signed) => Message::Retracted(self.verifier.retracted(signed)?),
            FeedItem::Gap { wanted, next } => Message::NotReplayed { wanted, next },
            FeedItem::Goodbye { .. } => return Ok(None),
        }))
    }

    fn bad(&self, refusal: Refusal) {
        let bad = Bad::from(refusal);
        self.complaints.complain(bad, &refusal.to_string(), Instant::now());
        self.metrics.invalid.get([bad.as_str()]).inc();
        if self.link.strike() {
            info!("the feed sends bad messages, connecting again");
        }
    }
}
