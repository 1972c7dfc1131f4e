//! Reading the state that execution waits for.
//!
//! There is at most one need at a time, and a new one replaces the one before: what the machine no
//! longer waits for is not read to its end. A read that fails is tried again until then.

use std::{convert::Infallible, time::Duration, time::Instant};

use preconf_chassis::{Backoff, Chain, Shutdown};
use preconf_pending::Need;
use preconf_telemetry::LogLimit;
use preconf_upstream::StateFetcher;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::{executor::Input, metrics::Metrics};

/// How often failing reads are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The task that reads state.
pub(crate) struct Reader {
    pub(crate) fetcher: StateFetcher,
    pub(crate) needs: watch::Receiver<Option<Need>>,
    pub(crate) executor: mpsc::Sender<Input>,
    pub(crate) metrics: Metrics,
}

impl Reader {
    /// Reads until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.read() => {}
            () = shutdown.cancelled() => {}
        }
        // If the executor is gone, its own end says why.
        shutdown.cancelled().await;
        Ok(())
    }

    async fn read(mut self) {
        let mut complaints = LogLimit::new(LOG_INTERVAL);
        loop {
            let need = self.needs.borrow_and_update().clone();
            if let Some(need) = need {
                let mut needs = self.needs.clone();
                let is_read = tokio::select! {
                    () = self.ensure(&need, &mut complaints) => true,
                    // Something else is needed, or nothing any more.
                    _ = needs.changed() => false,
                };
                if is_read && self.executor.send(Input::StateArrived(need.id)).await.is_err() {
                    return;
                }
                if !is_read {
                    continue;
                }
            }
            if self.needs.changed().await.is_err() {
                return;
            }
        }
    }

    async fn ensure(&self, need: &Need, complaints: &mut LogLimit) {
        let started = Instant::now();
        let mut backoff = Backoff::new();
        let (block, _) = need.cache.block();
        debug!(seq = %need.seq, block, keys = need.keys.len(), "reading state");
        while let Err(error) = self.fetcher.ensure(&need.cache, &need.keys).await {
            self.metrics.state_reads.get(["failed"]).inc();
            if let Some(suppressed) = complaints.admit(Instant::now()) {
                let error = Chain(&error);
                warn!(block, keys = need.keys.len(), %error, suppressed, "state cannot be read");
            }
            backoff.wait().await;
        }
        self.metrics.state_reads.get(["read"]).inc();
        self.metrics.state_keys.inc_by(need.keys.len() as u64);
        self.metrics.state_seconds.observe(started.elapsed().as_secs_f64());
    }
}
