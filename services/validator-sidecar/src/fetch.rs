//! Asking the sequencers: in the order that [`Race`] says, and not those that [`Breaker`] leaves
//! alone.
//!
//! What comes back has only been decoded. It is handed out in the order of arrival, one at a time:
//! while one payload is decoded or looked at, nobody else is asked or read; if it is no good, the race
//! goes on. What a block takes of memory is bounded: for each sequencer of the list the bytes of one
//! answer, as many as an answer may have (of two, if it is the only one), and in the whole process one
//! answer that is decoded, whether anybody still waits for it or not.
//!
//! Silent is who had its time and sent no answer. Whose request was cut short, because the time of
//! the block was spent on something else, is not.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::{Mutex, RwLock};
use preconf_payload_api::{
    Answer, FetchError, FetchFailure, PayloadClient, PayloadRequest, PayloadResponse,
};
use preconf_telemetry::metrics::Gauge;
use tokio::{sync::Semaphore, task::spawn_blocking, time::sleep_until};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

use crate::{
    breaker::{Breaker, Change},
    metrics::{Metrics, Outcome},
    race::{End, Race, Step},
};

/// How long connecting to a sequencer ahead may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// The sequencers, in the order of the operator.
#[derive(Debug)]
pub(crate) struct Sequencers {
    list: Vec<Sequencer>,
    patience: Duration,
    /// Who had this time and did not answer is silent.
    enough: Duration,
    decoding: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Sequencer {
    host: String,
    /// What was read anew replaces it. The lock is held for a look-up.
    client: RwLock<PayloadClient>,
    breaker: Mutex<Breaker>,
    /// Held by the one task that connects ahead.
    connecting: Arc<Semaphore>,
    /// Of those that are left alone.
    lost: Gauge,
}

impl Sequencers {
    /// Sequencers of whom the next is asked if one has not answered within `patience`, for blocks
    /// that have this budget.
    pub(crate) fn new(
        clients: Vec<PayloadClient>,
        patience: Duration,
        budget: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let sequencer = |client: PayloadClient| Sequencer {
            host: client.host().to_owned(),
            client: RwLock::new(client),
            breaker: Mutex::default(),
            connecting: Arc::new(Semaphore::new(1)),
            lost: metrics.sequencers_lost.clone(),
        };
        let list = clients.into_iter().map(sequencer).collect();
        // Where the budget ends before the patience, nobody would ever be found to be silent.
        let enough = patience.min(budget / 2);
        Self { list, patience, enough, decoding: Arc::new(Semaphore::new(1)), metrics }
    }

    /// The host of one, for logs.
    pub(crate) fn host(&self, sequencer: usize) -> &str {
        self.list.get(sequencer).map_or("", |sequencer| &*sequencer.host)
    }

    /// Asks through these clients from now on, in the same order.
    pub(crate) fn replace(&self, clients: Vec<PayloadClient>) {
        for (sequencer, client) in self.list.iter().zip(clients) {
            *sequencer.client.write() = client;
        }
    }

    /// Connects to those that would be asked now, so that all that is left to do when a payload is
    /// wanted is to ask for it: DNS, TCP and TLS may need as long as there is time for a block. They
    /// are asked how they are, which keeps the connection for a while; what they say does not
    /// matter. Nobody waits for it.
    pub(crate) fn connect(&self) {
        let now = Instant::now();
        for sequencer in self.list.iter().filter(|one| one.breaker.lock().would_admit(now)) {
            let turn = sequencer.connecting.clone().try_acquire_owned();
            // Somebody is at it.
            let Ok(turn) = turn else { continue };
            let client = sequencer.client.read().clone();
            let connecting = async move {
                let _turn = turn;
                if let Err(error) = client.health(CONNECTING).await {
                    let error = &error as &dyn std::error::Error;
                    debug!(error, "a sequencer that may be asked soon");
                }
            };
            tokio::spawn(connecting.in_current_span());
        }
    }

    /// Decodes an answer when its turn has come. Dropped before, it is not decoded; later, it holds
    /// its place until it is.
    async fn decode(
        &self,
        sequencer: usize,
        answer: Answer,
    ) -> Result<PayloadResponse, FetchError> {
        let turn = self.decoding.clone().acquire_owned().await.expect("it is never closed");
        let decoded = spawn_blocking(move || {
            let _turn = turn;
            answer.decode()
        });
        let host = || self.host(sequencer).to_owned();
        decoded.await.map_err(|source| FetchError::Unfinished { host: host(), source })?
    }

    /// Begins to ask for a payload, and gives up at the deadline.
    pub(crate) fn ask(&self, request: PayloadRequest, deadline: Instant) -> Fetching<'_> {
        let race = Race::new(self.list.len(), self.patience);
        let (running, asked, heard) = (FuturesUnordered::new(), Vec::new(), None);
        Fetching { all: self, race, running, asked, heard, request, deadline }
    }
}

type Attempt<'a> =
    Pin<Box<dyn Future<Output = (Asked, Span, Result<Answer, FetchError>)> + Send + 'a>>;

/// A request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    sequencer: usize,
    at: Instant,
}

/// The requests for one payload. Dropped, it ends them.
pub(crate) struct Fetching<'a> {
    all: &'a Sequencers,
    race: Race,
    running: FuturesUnordered<Attempt<'a>>,
    /// Those that are running.
    asked: Vec<Asked>,
    /// When an answer came that is being decoded or was handed out: nobody is listened to until the
    /// next one is wanted.
    heard: Option<Instant>,
    request: PayloadRequest,
    deadline: Instant,
}

impl Fetching<'_> {
    /// The next payload, and which sequencer it is from; none if nobody is left to be asked.
    pub(crate) async fn next(&mut self) -> Option<(usize, PayloadResponse)> {
        self.heard = None;
        loop {
            let wake = match self.race.step(Instant::now()) {
                Step::Ask(sequencer) => {
                    self.begin(sequencer);
                    continue;
                }
                Step::WaitUntil(at) => Some(at),
                Step::Wait => None,
                Step::Over => return None,
            };
            let woken = async {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = self.running.next() => {
                    let (asked, span, answer) = ended?;
                    if let Some(response) = self.end(asked, answer).instrument(span).await {
                        return Some((asked.sequencer, response));
                    }
                }
                () = woken => {}
            }
        }
    }

    fn begin(&mut self, index: usize) {
        let Some(sequencer) = self.all.list.get(index) else { return };
        let at = Instant::now();
        let within = self.deadline.saturating_duration_since(at);
        if within.is_zero() || !sequencer.breaker.lock().admit(at) {
            self.race.ended(index, End::Settled);
            return;
        }
        let (asked, request) = (Asked { sequencer: index, at }, self.request);
        self.asked.push(asked);
        let span = info_span!(
            "fetch",
            otel.kind = "client",
            sequencer = sequencer.host,
            outcome = field::Empty,
        );
        let (client, whole) = (sequencer.client.read().clone(), span.clone());
        let attempt = async move { (asked, whole, client.ask(&request, within).await) };
        self.running.push(Box::pin(attempt.instrument(span)));
    }

    /// Within the span of the request.
    async fn end(
        &mut self,
        asked: Asked,
        answer: Result<Answer, FetchError>,
    ) -> Option<PayloadResponse> {
        self.heard = Some(Instant::now());
        self.judge(asked, answer.as_ref().err());
        let fetched = match answer {
            Ok(answer) => self.all.decode(asked.sequencer, answer).await,
            Err(error) => Err(error),
        };
        let outcome = outcome(&fetched);
        Span::current().record("outcome", outcome.as_str());
        self.all.metrics.fetch(outcome);
        match fetched {
            Ok(response) => Some(response),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                info!(error, "no payload from a sequencer");
                self.heard = None;
                None
            }
        }
    }

    /// What follows for a sequencer from its answer, or from having none.
    fn judge(&mut self, asked: Asked, error: Option<&FetchError>) {
        if let Some(at) = self.asked.iter().position(|running| *running == asked) {
            self.asked.swap_remove(at);
        }
        let Some(sequencer) = self.all.list.get(asked.sequencer) else { return };
        let now = Instant::now();
        let had_its_time = now.saturating_duration_since(asked.at) >= self.all.enough;
        let end = match error {
            Some(FetchError::Timeout { .. }) if !had_its_time => {
                sequencer.breaker.lock().abandoned(now);
                End::Silent
            }
            Some(error) if error.failure() == FetchFailure::Unavailable => {
                sequencer.silent();
                End::Silent
            }
            Some(_) | None => {
                sequencer.answered();
                End::Settled
            }
        };
        self.race.ended(asked.sequencer, end);
    }
}

fn outcome(fetched: &Result<PayloadResponse, FetchError>) -> Outcome {
    match fetched.as_ref().map_err(FetchError::failure) {
        Ok(_) => Outcome::Fetched,
        Err(FetchFailure::Unavailable) => Outcome::Unavailable,
        Err(FetchFailure::NotFound) => Outcome::NotFound,
        Err(FetchFailure::Other) => Outcome::Refused,
    }
}

/// Whoever has not answered was given up: somebody else was faster, or the time is over. Who was
/// listened to for long enough is silent.
impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let until = self.heard.unwrap_or_else(Instant::now);
        for Asked { sequencer, at } in self.asked.drain(..) {
            let Some(sequencer) = self.all.list.get(sequencer) else { continue };
            if until.saturating_duration_since(at) >= self.all.enough {
                sequencer.silent();
            } else {
                sequencer.breaker.lock().abandoned(until);
            }
        }
    }
}

impl Sequencer {
    fn answered(&self) {
        let change = self.breaker.lock().answered();
        self.tell(change);
    }

    fn silent(&self) {
        let change = self.breaker.lock().silent(Instant::now(), rand::random());
        self.tell(change);
    }

    fn tell(&self, change: Change) {
        let sequencer = &*self.host;
        match change {
            Change::None => {}
            Change::Lost => {
                self.lost.inc();
                warn!(sequencer, "Detected sequencer offline, starting health monitor");
            }
            Change::Back => {
                self.lost.dec();
                info!(sequencer, "Sequencer is healthy again, stopping health monitor");
            }
        }
    }
}
