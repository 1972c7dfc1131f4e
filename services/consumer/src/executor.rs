//! The thread that owns the machine: inputs in, work, effects out.
//!
//! It takes at most one input and does at most one step at a time, so that neither a flood of
//! messages nor a long block keeps the other waiting. It never waits for anything but its inputs:
//! what cannot be handed over at once is dropped and counted.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use preconf_chassis::Chain;
use preconf_pending::{
    CanonicalHead, Effect, Evidence, HeadRelation, Machine, Need, Received, Reception, Refusal,
    StatementReception, Step,
    snapshot::{ExecutedFlashblock, Update},
};
use preconf_primitives::Position;
use preconf_telemetry::{LogLimit, span_with_parent};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    watch,
};
use tracing::{Span, debug, error, info, info_span, warn};

use crate::{
    audit::Content,
    hub::Hub,
    link::Link,
    metrics::{Metrics, as_gauge},
    verify::Message,
};

/// How many inputs may wait. Who has another one waits, and so in the end does the feed.
pub(crate) const QUEUE: usize = 64;
/// How often a sequencer that breaks the protocol is logged, for each way of doing so.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How many spans wait for their flashblock to be executed. The oldest are ended first.
const MAX_SPANS: usize = 256;

/// What the machine is given.
#[derive(Debug)]
pub(crate) enum Input {
    /// A verified message of a connection to the feed.
    Feed { generation: u64, message: Box<Message> },
    /// The head of the canonical chain.
    Head(Box<CanonicalHead>),
    /// The state that a need names is in memory.
    StateArrived(u64),
    /// A canonical block, if it could be had.
    Content { hash: B256, content: Option<Content> },
}

/// The thread that executes.
pub(crate) struct Executor {
    pub(crate) machine: Machine,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) link: Arc<Link>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) needs: watch::Sender<Option<Need>>,
    pub(crate) audits: mpsc::Sender<B256>,
    pub(crate) metrics: Metrics,
    pub(crate) spans: Spans,
    pub(crate) complaints: Complaints,
}

/// One limit for each way in which the sequencer can break the protocol.
#[derive(Debug)]
pub(crate) struct Complaints {
    equivocation: LogLimit,
    after_last: LogLimit,
    no_room: LogLimit,
    statement: LogLimit,
}

impl Complaints {
    pub(crate) const fn new() -> Self {
        Self {
            equivocation: LogLimit::new(LOG_INTERVAL),
            after_last: LogLimit::new(LOG_INTERVAL),
            no_room: LogLimit::new(LOG_INTERVAL),
            statement: LogLimit::new(LOG_INTERVAL),
        }
    }
}

/// The spans of flashblocks that were received and not executed yet.
#[derive(Debug, Default)]
pub(crate) struct Spans(BTreeMap<Position, Span>);

impl Executor {
    /// Works until there is nobody left to bring an input.
    pub(crate) fn run(mut self) {
        let mut is_busy = false;
        loop {
            let input = if is_busy {
                match self.inputs.try_recv() {
                    Ok(input) => Some(input),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match self.inputs.blocking_recv() {
                    Some(input) => Some(input),
                    None => return,
                }
            };
            if let Some(input) = input {
                self.take(input);
            }
            is_busy = self.step();
            self.carry_out();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            // What was received before a replay was asked for comes again.
            Input::Feed { generation, .. } if generation != self.link.generation() => {}
            Input::Feed { message, .. } => self.message(*message),
            Input::Head(head) => self.head(*head),
            Input::StateArrived(id) => self.machine.state_arrived(id),
            Input::Content { hash, content } => self.content(hash, content.as_deref()),
        }
    }

    fn message(&mut self, message: Message) {
        let now = Instant::now();
        let (kind, reception) = match message {
            Message::Flashblock(received) => return self.flashblock(received, now),
            Message::NotReplayed { wanted, next } => {
                info!(%wanted, %next, "the feed cannot replay what was missed");
                return self.machine.not_replayed(wanted, next);
            }
            Message::Sealed(signed) => ("sealed", self.machine.sealed(signed, now)),
            Message::Abandoned(signed) => ("abandoned", self.machine.abandoned(signed, now)),
            Message::Retracted(signed) => ("retracted", self.machine.retracted(signed)),
        };
        self.metrics.statements.get([kind, reception.as_str()]).inc();
        match reception {
            StatementReception::Diverged(refusal) => self.diverged(&refusal),
            StatementReception::Contradiction => {
                if let Some(suppressed) = self.complaints.statement.admit(now) {
                    warn!(
                        kind,
                        suppressed, "a statement contradicts the flashblocks of its session"
                    );
                }
            }
            StatementReception::Accepted
            | StatementReception::Duplicate
            | StatementReception::Unknown
            | StatementReception::Gap(_) => {}
        }
    }

    fn flashblock(&mut self, received: Received, now: Instant) {
        let flashblock = received.flashblock();
        let (position, traceparent) = (flashblock.position(), flashblock.traceparent().cloned());
        let flashblock_transactions = flashblock.transactions().len();
        let reception = self.machine.flashblock(received, now);
        self.metrics.flashblocks.get([reception.as_str()]).inc();
        match reception {
            Reception::Accepted => {
                let span = info_span!(
                    parent: None,
                    "execute",
                    otel.kind = "consumer",
                    %position,
                    transactions = flashblock_transactions,
                );
                if let Some(traceparent) = traceparent {
                    span_with_parent(&span, traceparent.as_str());
                }
                self.spans.insert(position, span);
            }
            Reception::Equivocation(evidence) => {
                if let Some(suppressed) = self.complaints.equivocation.admit(now) {
                    contradicted(&evidence, suppressed);
                }
            }
            Reception::AfterLast => {
                if let Some(suppressed) = self.complaints.after_last.admit(now) {
                    warn!(%position, suppressed, "a flashblock after the end of its session");
                }
            }
            Reception::NoRoom => {
                if let Some(suppressed) = self.complaints.no_room.admit(now) {
                    warn!(%position, suppressed, "no room for a flashblock");
                }
            }
            Reception::Gap(missing) => debug!(%position, %missing, "something is missing"),
            Reception::Late | Reception::Duplicate | Reception::Stale => {}
        }
    }

    fn head(&mut self, head: CanonicalHead) {
        let (number, hash) = (head.header.number, head.hash);
        let report = self.machine.head(head);
        self.metrics.heads.get([report.relation.as_str()]).inc();
        self.metrics.audited(report.audit);
        match report.relation {
            HeadRelation::Foreign => {
                warn!(number, %hash, "another block than the promised one is canonical");
            }
            HeadRelation::Ours
            | HeadRelation::Unpromised
            | HeadRelation::Known
            | HeadRelation::Ancestor => {
                debug!(number, %hash, relation = report.relation.as_str(), "canonical head");
            }
        }
    }

    fn content(&mut self, hash: B256, content: Option<&[(B256, preconf_chain::Receipt)]>) {
        let Some(audit) = self.machine.content(hash, content) else { return };
        self.metrics.audited(audit);
        if audit.missing > 0 || audit.altered > 0 {
            warn!(%hash, ?audit, "promises were not kept");
        } else {
            info!(%hash, ?audit, "promises were kept");
        }
    }

    /// Does one thing and says whether there may be more.
    fn step(&mut self) -> bool {
        let span = self.machine.next_position().and_then(|position| self.spans.get(position));
        let span = span.unwrap_or_else(Span::none);
        let started = Instant::now();
        let step = span.in_scope(|| self.machine.work());
        match step {
            Step::Idle | Step::Waiting => return false,
            Step::Opened(seq) => debug!(%seq, "a session was begun"),
            Step::Closed(seq) => debug!(%seq, "a session was executed to its end"),
            Step::Executed(executed) => {
                span.in_scope(|| self.executed(&executed, started.elapsed()));
            }
            Step::Refused { refusal: refusal @ Refusal::Diverged { .. }, .. } => {
                self.diverged(&refusal);
            }
            Step::Refused { position, refusal } => {
                self.metrics.refused.get([refusal.as_str()]).inc();
                error!(%position, error = %Chain(&refusal), "a session is executed no further");
            }
        }
        true
    }

    fn executed(&mut self, executed: &ExecutedFlashblock, took: Duration) {
        self.spans.remove(executed.position);
        self.metrics.execution_seconds.observe(took.as_secs_f64());
        self.metrics.executed.inc();
        self.metrics.transactions.inc_by(executed.transactions.len() as u64);
        self.metrics.age_seconds.observe(age(executed.published_at_ms).as_secs_f64());
    }

    fn diverged(&self, refusal: &Refusal) {
        self.metrics.refused.get([refusal.as_str()]).inc();
        error!(error = %Chain(refusal), "the sequencer's block is not what its flashblocks make");
    }

    /// Carries out what the machine wants.
    fn carry_out(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Publish(update) => self.publish(update),
                Effect::RequestReplay(from) => {
                    info!(%from, "asking the feed for what was missed");
                    self.metrics.replays.inc();
                    self.link.replay(from);
                }
                Effect::FetchCanonical(hash) => {
                    if self.audits.try_send(hash).is_err() {
                        self.content(hash, None);
                    }
                }
            }
        }
        self.link.set_cursor(self.machine.cursor());
        let need = self.machine.need();
        self.needs.send_if_modified(|current| {
            let id = |need: &Need| need.id;
            let is_news = current.as_ref().map(id) != need.map(id);
            if is_news {
                *current = need.cloned();
            }
            is_news
        });
        self.measure();
    }

    fn publish(&self, update: Arc<Update>) {
        self.metrics.published(&update);
        for retraction in &update.retracted {
            let (transaction, cause) = (retraction.transaction, retraction.cause.as_str());
            info!(%transaction, cause, "a preconfirmed transaction was not kept");
        }
        self.hub.publish(update);
    }

    fn measure(&self) {
        let (sessions, bytes) = self.machine.held();
        self.metrics.sessions.set(as_gauge(sessions as u64));
        self.metrics.session_bytes.set(as_gauge(bytes as u64));
        let Some(head) = self.machine.canonical().map(|head| head.header.number) else { return };
        self.metrics.head_number.set(as_gauge(head));
        let newest = self.machine.newest_number().unwrap_or(head);
        self.metrics.head_lag_blocks.set(as_gauge(newest.saturating_sub(head)));
    }
}

impl Spans {
    fn insert(&mut self, position: Position, span: Span) {
        self.0.insert(position, span);
        if self.0.len() > MAX_SPANS {
            self.0.pop_first();
        }
    }

    fn get(&self, position: Position) -> Option<Span> {
        self.0.get(&position).cloned()
    }

    fn remove(&mut self, position: Position) {
        self.0.remove(&position);
    }
}

/// Someone must look: the sequencer's key signed both.
fn contradicted(evidence: &Evidence, suppressed: u64) {
    let Evidence { known, other } = evidence;
    let position = other.flashblock().position();
    let signed = |received: &Received| (received.digest().get(), received.signed().seal);
    let (digest, seal) = signed(other);
    let known = known.as_ref().map(signed);
    error!(%position, %digest, %seal, ?known, suppressed, "the sequencer contradicts itself");
}

fn age(published_at_ms: u64) -> Duration {
    let published_at = UNIX_EPOCH.checked_add(Duration::from_millis(published_at_ms));
    // A clock that is behind the sequencer's makes it the youngest possible.
    published_at.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}
