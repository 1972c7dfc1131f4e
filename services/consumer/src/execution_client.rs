//! Whether the execution client answers, and whether it is of our chain.
//!
//! Pending blocks on top of another chain's state would be lies, so the process ends if it is. A
//! client that does not answer is asked again until it does, and asked from time to time as long as
//! the process lives.

use std::{convert::Infallible, sync::Arc, time::Duration};

use preconf_chain::ChainSpec;
use preconf_chassis::{Backoff, Chain, Check, Shutdown};
use preconf_upstream::{OtherChain, Upstream, warn_of_ignored_keys};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

/// How often a client that answers is asked again.
const INTERVAL: Duration = Duration::from_secs(2);

/// The task that watches the execution client.
pub(crate) struct Watcher {
    pub(crate) upstream: Upstream,
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) ready: Check,
    /// Told once the client is known to be of our chain.
    pub(crate) known: watch::Sender<bool>,
}

impl Watcher {
    /// Watches until shutdown, or until the client turns out to be of another chain.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), OtherChain> {
        tokio::select! {
            ended = self.watch() => ended.map(|never| match never {}),
            () = shutdown.cancelled() => Ok(()),
        }
    }

    async fn watch(&self) -> Result<Infallible, OtherChain> {
        warn_of_ignored_keys(&self.spec);
        let mut backoff = Backoff::new();
        let mut failures = 0_u64;
        loop {
            match self.upstream.other_chain(&self.spec).await {
                Ok(None) => {
                    if failures > 0 {
                        info!(failures, "the execution client answers again");
                    }
                    failures = 0;
                    backoff.reset();
                    self.ready.ready();
                    self.known.send_if_modified(|known| !std::mem::replace(known, true));
                    sleep(INTERVAL).await;
                }
                Ok(Some(other)) => return Err(other),
                Err(error) => {
                    self.ready.not_ready("the execution client does not answer");
                    if failures == 0 {
                        warn!(error = %Chain(&error), "the execution client does not answer");
                    }
                    failures += 1;
                    backoff.wait().await;
                }
            }
        }
    }
}
