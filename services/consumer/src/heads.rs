//! The heads of the canonical chain, handed to the executor in order.

use std::convert::Infallible;

use futures_util::StreamExt;
use preconf_chassis::{Check, Shutdown};
use preconf_pending::CanonicalHead;
use preconf_upstream::{Head, Upstream};
use tokio::sync::{mpsc, watch};

use crate::executor::Input;

/// The task that follows the canonical chain.
pub(crate) struct Follower {
    pub(crate) upstream: Upstream,
    /// Whether the client is known to be of our chain; nothing it says is believed before.
    pub(crate) known: watch::Receiver<bool>,
    pub(crate) executor: mpsc::Sender<Input>,
    pub(crate) ready: Check,
}

impl Follower {
    /// Follows until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.cancelled() => {}
        }
        // If somebody else is gone, their own end says why.
        shutdown.cancelled().await;
        Ok(())
    }

    async fn follow(mut self) {
        if self.known.wait_for(|known| *known).await.is_err() {
            return;
        }
        let mut heads = self.upstream.heads();
        while let Some(Head { hash, header, .. }) = heads.next().await {
            let head = Box::new(CanonicalHead { hash, header });
            if self.executor.send(Input::Head(head)).await.is_err() {
                return;
            }
            self.ready.ready();
        }
    }
}
