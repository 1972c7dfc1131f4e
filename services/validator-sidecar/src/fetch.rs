//! Asking the sequencers: in the order that [`Race`] says, and not those that [`Breaker`] leaves
//! alone.
//!
//! What comes back has only been decoded. It is handed out in the order of arrival, one at a time:
//! while one payload is looked at, nobody else is asked; if it is no good, the race goes on.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use preconf_payload_api::{
    FetchError, FetchFailure, PayloadClient, PayloadRequest, PayloadResponse,
};
use preconf_telemetry::metrics::Gauge;
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::{
    breaker::{Breaker, Change},
    metrics::{Metrics, Outcome},
    race::{End, Race, Step},
};

/// The sequencers, in the order of the operator.
#[derive(Debug)]
pub(crate) struct Sequencers {
    list: Vec<Sequencer>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Sequencer {
    client: PayloadClient,
    breaker: Mutex<Breaker>,
    /// Of those that are left alone.
    lost: Gauge,
}

impl Sequencers {
    /// Sequencers of whom the next is asked if one has not answered within `patience`.
    pub(crate) fn new(
        clients: Vec<PayloadClient>,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let sequencer = |client| Sequencer {
            client,
            breaker: Mutex::default(),
            lost: metrics.sequencers_lost.clone(),
        };
        let list = clients.into_iter().map(sequencer).collect();
        Self { list, patience, metrics }
    }

    /// The host of one, for logs.
    pub(crate) fn host(&self, sequencer: usize) -> &str {
        self.list.get(sequencer).map_or("", |sequencer| sequencer.client.host())
    }

    /// Begins to ask for a payload, and gives up at the deadline.
    pub(crate) fn ask(&self, request: PayloadRequest, deadline: Instant) -> Fetching<'_> {
        let race = Race::new(self.list.len(), self.patience);
        Fetching { all: self, race, running: FuturesUnordered::new(), request, deadline }
    }
}

type Attempt<'a> =
    Pin<Box<dyn Future<Output = (usize, Result<PayloadResponse, FetchError>)> + Send + 'a>>;

/// The requests for one payload. Dropped, it ends them.
pub(crate) struct Fetching<'a> {
    all: &'a Sequencers,
    race: Race,
    running: FuturesUnordered<Attempt<'a>>,
    request: PayloadRequest,
    deadline: Instant,
}

impl Fetching<'_> {
    /// The next payload, and which sequencer it is from; none if nobody is left to be asked.
    pub(crate) async fn next(&mut self) -> Option<(usize, PayloadResponse)> {
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
                    let (sequencer, fetched) = ended?;
                    if let Some(response) = self.end(sequencer, fetched) {
                        return Some((sequencer, response));
                    }
                }
                () = woken => {}
            }
        }
    }

    fn begin(&mut self, index: usize) {
        let Some(sequencer) = self.all.list.get(index) else { return };
        let began = Instant::now();
        let within = self.deadline.saturating_duration_since(began);
        if within.is_zero() || !sequencer.breaker.lock().admit(began) {
            self.race.ended(index, End::Settled);
            return;
        }
        let (patience, request) = (self.all.patience, self.request);
        let asked = Asked { sequencer, began, patience, is_judged: false };
        self.running.push(Box::pin(async move {
            let fetched = sequencer.client.fetch(&request, within).await;
            asked.judge(fetched.as_ref().err());
            (index, fetched)
        }));
    }

    fn end(
        &mut self,
        index: usize,
        fetched: Result<PayloadResponse, FetchError>,
    ) -> Option<PayloadResponse> {
        let (outcome, end, response) = match fetched {
            Ok(response) => (Outcome::Fetched, End::Settled, Some(response)),
            Err(error) => {
                info!(error = &error as &dyn std::error::Error, "no payload from a sequencer");
                match error.failure() {
                    FetchFailure::Unavailable => (Outcome::Unavailable, End::Silent, None),
                    FetchFailure::NotFound => (Outcome::NotFound, End::Settled, None),
                    FetchFailure::Other => (Outcome::Refused, End::Settled, None),
                }
            }
        };
        self.all.metrics.fetch(outcome);
        self.race.ended(index, end);
        response
    }
}

/// A request that was sent, until its outcome is known. Dropped before, it was given up.
struct Asked<'a> {
    sequencer: &'a Sequencer,
    began: Instant,
    patience: Duration,
    is_judged: bool,
}

impl Asked<'_> {
    fn judge(mut self, error: Option<&FetchError>) {
        self.is_judged = true;
        match error.map(FetchError::failure) {
            Some(FetchFailure::Unavailable) => self.silent(),
            Some(FetchFailure::NotFound | FetchFailure::Other) | None => self.answered(),
        }
    }

    fn answered(&self) {
        let change = self.sequencer.breaker.lock().answered();
        self.tell(change);
    }

    fn silent(&self) {
        let change = self.sequencer.breaker.lock().silent(Instant::now(), rand::random());
        self.tell(change);
    }

    fn tell(&self, change: Change) {
        let sequencer = self.sequencer.client.host();
        match change {
            Change::None => {}
            Change::Lost => {
                self.sequencer.lost.inc();
                warn!(sequencer, "Sequencer offline");
            }
            Change::Back => {
                self.sequencer.lost.dec();
                info!(sequencer, "Sequencer is healthy again");
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.is_judged {
            return;
        }
        // Somebody else was faster. Who was given all the time that is waited for the first is slow.
        if self.began.elapsed() >= self.patience {
            self.silent();
        } else {
            self.sequencer.breaker.lock().abandoned(Instant::now());
        }
    }
}
