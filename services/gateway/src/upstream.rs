//! From the upstream to the hub: every message is verified and put in order before it is served.
//!
//! What is missing is asked for once, by leaving the connection and resuming at the first position
//! that was not served. An end that came before it is held meanwhile, and served after a stated gap
//! when it has waited for too long; a session that begins after it comes again with the replay. What
//! the upstream does not have, or what was asked for in vain, is stated as a gap.
//!
//! A message is handled to its end before the next one is looked at. Verifying and encoding take
//! longer than a millisecond and happen off the runtime. What is bad is counted and dropped; after
//! [`STRIKES`] bad messages the connection is left and opened again.

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use preconf_chassis::{Chain, Check};
use preconf_primitives::{Position, Seq};
use preconf_signing::{Refusal, Verifier};
use preconf_subscribe::{BadFrame, Disconnect, Event, Subscription};
use preconf_telemetry::{LogLimit, span_with_parent};
use preconf_wire::feed::FeedItem;
use tokio::task::spawn_blocking;
use tracing::{Span, debug, error, field, info, info_span, warn};

use crate::{
    frame::{End, Frame, Sealing, Subject, Unserved},
    held::{Held, HeldEnd},
    hub::Hub,
    metrics::{Metrics, kind},
    order::{Contradiction, Order, Verdict},
};

/// How many bad messages a connection may bring.
const STRIKES: u32 = 16;
/// How often the same complaint is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The one task that feeds the hub.
pub(crate) struct Upstream {
    pub(crate) subscription: Subscription,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) ready: Check,
    pub(crate) state: State,
}

/// What is remembered from one message to the next.
pub(crate) struct State {
    order: Order,
    /// Bad messages on this connection.
    strikes: u32,
    /// What the upstream said that it does not have, from the first position up to the second:
    /// asking for it is no use.
    given_up: Option<(Position, Position)>,
    /// What was asked for when something was missing last: asking again is no use, either.
    asked_for: Option<Option<Position>>,
    /// The gap that was stated last.
    stated: Option<(Position, Position)>,
    held: Held,
    /// How long an end is held.
    patience: Duration,
    complaints: Complaints,
}

/// One limit for each reason, so that one complaint does not hide another.
struct Complaints([LogLimit; 7]);

/// Why a message is bad.
#[derive(Clone, Copy)]
enum Bad {
    Malformed,
    Unsealed,
    Seal,
    Signature,
    Contradiction(Contradiction),
}

impl Bad {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsealed => "unsealed",
            Self::Seal => "bad_seal",
            Self::Signature => "bad_signature",
            Self::Contradiction(contradiction) => contradiction.as_str(),
        }
    }

    const fn number(self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::Unsealed => 1,
            Self::Seal => 2,
            Self::Signature => 3,
            Self::Contradiction(Contradiction::Equivocation) => 4,
            Self::Contradiction(Contradiction::AfterLast) => 5,
            Self::Contradiction(Contradiction::SecondEnd) => 6,
        }
    }
}

impl From<Refusal> for Bad {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadSeal => Self::Seal,
            Refusal::BadSignature => Self::Signature,
        }
    }
}

impl State {
    /// Nothing received; an end is held for as long as `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        let complaints = Complaints(std::array::from_fn(|_| LogLimit::new(LOG_INTERVAL)));
        Self {
            order: Order::default(),
            strikes: 0,
            given_up: None,
            asked_for: None,
            stated: None,
            held: Held::default(),
            patience,
            complaints,
        }
    }

    /// Whether asking for what follows from `wanted` on is no use.
    fn is_in_vain(&self, wanted: Option<Position>) -> bool {
        let is_given_up = self
            .given_up
            .is_some_and(|(from, to)| wanted.is_none_or(|wanted| (from..to).contains(&wanted)));
        is_given_up || self.asked_for == Some(wanted)
    }

    /// When what is held has waited for too long.
    fn held_until(&self) -> Option<Instant> {
        self.held.since().map(|since| since + self.patience)
    }
}

impl Upstream {
    /// Follows the upstream `until` nobody is left to be served.
    pub(crate) async fn run(mut self, until: impl Future<Output = ()>) -> Result<(), Infallible> {
        let mut until = std::pin::pin!(until);
        loop {
            let event = tokio::select! {
                event = self.subscription.next() => event,
                () = passed(self.state.held_until()) => {
                    self.release_held(None);
                    continue;
                }
                () = &mut until => return Ok(()),
            };
            match event {
                Event::Connected => self.connected(),
                Event::Disconnected(disconnect) => self.disconnected(&disconnect),
                Event::Item(item) => self.receive(item).await,
                Event::Upstream(_) => self.bad(Bad::Unsealed, "a flashblock without a seal"),
                Event::BadFrame(bad) => self.malformed(&bad),
                Event::Raw(_) => {}
            }
        }
    }

    fn connected(&mut self) {
        self.state.strikes = 0;
        self.state.given_up = None;
        self.metrics.upstream_connected.set(1);
        self.ready.ready();
    }

    fn disconnected(&mut self, disconnect: &Disconnect) {
        self.metrics.disconnected.get([disconnect.reason.as_str()]).inc();
        self.metrics.upstream_connected.set(0);
        self.ready.not_ready(disconnect.to_string());
    }

    /// Leaves the connection; the next one begins at the first position that was not published.
    fn reconnect(&mut self, reason: &'static str) {
        self.metrics.disconnected.get([reason]).inc();
        self.metrics.upstream_connected.set(0);
        self.ready.not_ready(reason);
        self.subscription.reconnect();
    }

    async fn receive(&mut self, item: FeedItem) {
        let received_at = Instant::now();
        match &item {
            FeedItem::Gap { wanted, next } => {
                info!(%wanted, %next, "the upstream cannot replay what was missed");
                self.state.given_up = Some((*wanted, *next));
                return self.dropped("gap");
            }
            FeedItem::Goodbye { .. } => return self.dropped("goodbye"),
            FeedItem::Flashblock(_)
            | FeedItem::Abandoned(_)
            | FeedItem::Sealed(_)
            | FeedItem::Retracted(_) => {}
        }
        let span = info_span!(
            parent: None,
            "fanout",
            otel.kind = "consumer",
            kind = kind(&item),
            position = field::Empty,
            readers = field::Empty,
        );
        let verifier = Arc::clone(&self.verifier);
        let verified = spawn_blocking(move || Frame::verify(&verifier, item)).await;
        match verified.expect("verifying does not panic and is not aborted") {
            Ok(frame) => self.serve(frame, received_at, &span),
            Err(Unserved::Refused(refusal)) => {
                self.bad(refusal.into(), &refusal.to_string());
            }
            Err(Unserved::Hint) => self.dropped("hint"),
        }
    }

    fn serve(&mut self, frame: Frame, received_at: Instant, span: &Span) {
        let verdict = self.state.order.admit(frame.subject());
        match verdict {
            Verdict::Serve => {
                let may_release = frame.position().is_some();
                self.publish(frame, received_at, span);
                if may_release {
                    self.serve_held();
                }
            }
            Verdict::Follows(wanted) => self.follows(wanted, frame, received_at, span),
            Verdict::Duplicate => self.dropped("duplicate"),
            Verdict::Stale => self.dropped("stale"),
            Verdict::Missing => {
                self.dropped("out_of_order");
                self.ask(&frame);
            }
            Verdict::Contradiction(contradiction) => self.contradicted(&frame, contradiction),
        }
    }

    /// Asks for what a session begins or ends after. If that is no use, the gap is stated.
    fn follows(&mut self, wanted: Position, frame: Frame, received_at: Instant, span: &Span) {
        let is_asked = self.ask(&frame);
        match frame.subject() {
            Subject::Flashblock(sealing) if is_asked => {
                debug!(position = %sealing.arrival.position, "it comes again with the replay");
                self.dropped("out_of_order");
            }
            Subject::Flashblock(sealing) => {
                let next = sealing.arrival.position;
                self.release_held(Some(next));
                self.state_gap(wanted, next);
                self.state.order.admit_after_gap(frame.subject());
                self.publish(frame, received_at, span);
            }
            Subject::End(_) => {
                let end = HeldEnd { frame, received_at, span: span.clone() };
                if self.state.held.push(end).is_some() {
                    self.dropped("held_too_many");
                }
                if !is_asked {
                    self.release_held(None);
                }
            }
            Subject::Retraction(_) | Subject::Gap => {}
        }
    }

    /// Serves what was held and now follows.
    fn serve_held(&mut self) {
        for HeldEnd { frame, received_at, span } in self.state.held.take() {
            match self.state.order.admit(frame.subject()) {
                Verdict::Serve => self.publish(frame, received_at, &span),
                Verdict::Follows(_) => {
                    let _ = self.state.held.push(HeldEnd { frame, received_at, span });
                }
                Verdict::Duplicate => self.dropped("duplicate"),
                Verdict::Stale | Verdict::Missing => self.dropped("stale"),
                Verdict::Contradiction(contradiction) => self.contradicted(&frame, contradiction),
            }
        }
    }

    /// Serves what is held without what it has waited for, which is stated. `next` is where the feed
    /// goes on, if that is known.
    fn release_held(&mut self, next: Option<Position>) {
        for HeldEnd { frame, received_at, span } in self.state.held.take() {
            let (Some(wanted), Subject::End(end)) = (self.hub.head(), frame.subject()) else {
                continue;
            };
            // Whatever follows is in a later session.
            let later = Position::new(Seq::new(end.seq.get().saturating_add(1)), 0);
            match self.state.order.admit(frame.subject()) {
                Verdict::Serve => {}
                Verdict::Follows(_) => {
                    self.state_gap(wanted, next.unwrap_or(later));
                    self.state.order.admit_after_gap(frame.subject());
                }
                Verdict::Duplicate
                | Verdict::Stale
                | Verdict::Missing
                | Verdict::Contradiction(_) => {
                    self.dropped("stale");
                    continue;
                }
            }
            self.publish(frame, received_at, &span);
        }
    }

    /// Says that something from `wanted` on was never received, once.
    fn state_gap(&mut self, wanted: Position, next: Position) {
        if self.state.stated.replace((wanted, next)) == Some((wanted, next)) {
            return;
        }
        warn!(%wanted, %next, "the sequencer signed something that was never received");
        self.hub.publish(Frame::gap(wanted, next));
        self.metrics.served.get(["gap"]).inc();
    }

    /// Asks once for what is missing, and says whether it may come.
    fn ask(&mut self, frame: &Frame) -> bool {
        let wanted = self.hub.head();
        if self.state.is_in_vain(wanted) {
            return false;
        }
        debug!(position = ?frame.position(), ?wanted, "something is missing");
        self.state.asked_for = Some(wanted);
        self.reconnect("out_of_order");
        true
    }

    fn publish(&mut self, frame: Frame, received_at: Instant, span: &Span) {
        // The trace is the sequencer's to name, so it is believed only now.
        let published_at_ms = match frame.item().as_ref() {
            FeedItem::Flashblock(signed) => {
                let flashblock = &signed.flashblock;
                if let Some(traceparent) = flashblock.traceparent() {
                    span_with_parent(span, traceparent.as_str());
                }
                Some(flashblock.published_at_ms())
            }
            FeedItem::Abandoned(_)
            | FeedItem::Sealed(_)
            | FeedItem::Retracted(_)
            | FeedItem::Gap { .. }
            | FeedItem::Goodbye { .. } => None,
        };
        self.metrics.served.get([kind(frame.item())]).inc();
        let position = frame.position();
        // One span for all readers.
        span.record("position", position.map(field::display));
        span.record("readers", self.hub.readers());
        let (messages, bytes) = span.in_scope(|| {
            debug!(?position, "serving");
            let size = self.hub.publish(frame);
            self.metrics.fanout_seconds.observe(received_at.elapsed().as_secs_f64());
            if let Some(published_at_ms) = published_at_ms {
                self.metrics.age_seconds.observe(age(published_at_ms).as_secs_f64());
            }
            size
        });
        self.metrics.window_messages.set(messages as i64);
        self.metrics.window_bytes.set(bytes as i64);
    }

    fn dropped(&self, reason: &'static str) {
        self.metrics.dropped.get([reason]).inc();
    }

    fn malformed(&mut self, bad: &BadFrame) {
        self.bad(Bad::Malformed, &Chain(bad).to_string());
    }

    fn bad(&mut self, bad: Bad, detail: &str) {
        if let Some(suppressed) = self.complain(bad) {
            warn!(reason = bad.as_str(), detail, suppressed, "bad message dropped");
        }
        self.strike(bad);
    }

    /// Someone must look: the sequencer's key signed both.
    fn contradicted(&mut self, frame: &Frame, contradiction: Contradiction) {
        let bad = Bad::Contradiction(contradiction);
        if let Some(suppressed) = self.complain(bad) {
            let reason = bad.as_str();
            match frame.subject() {
                Subject::Flashblock(sealing) => {
                    let Sealing { arrival, seal } = sealing;
                    let known = self.hub.flashblock(arrival.position);
                    let known = known
                        .as_deref()
                        .and_then(sealed)
                        .map(|known| (known.arrival.digest.to_string(), known.seal.to_string()));
                    error!(
                        reason,
                        position = %arrival.position,
                        digest = %arrival.digest,
                        parent_digest = %arrival.parent_digest,
                        %seal,
                        ?known,
                        suppressed,
                        "the sequencer contradicts itself"
                    );
                }
                Subject::End(End { seq, digest, .. }) => {
                    error!(reason, %seq, %digest, suppressed, "the sequencer contradicts itself");
                }
                Subject::Retraction(_) | Subject::Gap => {}
            }
        }
        self.strike(bad);
    }

    fn complain(&mut self, bad: Bad) -> Option<u64> {
        self.state.complaints.0[bad.number()].admit(Instant::now())
    }

    fn strike(&mut self, bad: Bad) {
        self.metrics.invalid.get([bad.as_str()]).inc();
        self.state.strikes += 1;
        if self.state.strikes >= STRIKES {
            warn!(strikes = STRIKES, "the upstream sends bad messages, reconnecting");
            self.state.strikes = 0;
            self.reconnect("bad_messages");
        }
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn sealed(frame: &Frame) -> Option<&Sealing> {
    match frame.subject() {
        Subject::Flashblock(sealing) => Some(sealing),
        Subject::End(_) | Subject::Retraction(_) | Subject::Gap => None,
    }
}

fn age(published_at_ms: u64) -> Duration {
    let published_at = UNIX_EPOCH + Duration::from_millis(published_at_ms);
    // A clock that is behind the sequencer's makes it the youngest possible.
    SystemTime::now().duration_since(published_at).unwrap_or_default()
}
