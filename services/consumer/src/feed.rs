//! Reading the feed: from the subscription to the verifier, in order.
//!
//! Messages wait in a bounded queue for the verifier. While it is full the connection is not read,
//! and a sender that does not want to wait closes it; the next one resumes where we are.

use std::{convert::Infallible, sync::Arc, time::Instant};

use preconf_chassis::{Chain, Check, Shutdown};
use preconf_subscribe::{Event, Subscription};
use preconf_wire::{feed::FeedItem, json::UpstreamFlashblock};
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::{
    link::Link,
    metrics::Metrics,
    verify::{Bad, Complaints},
};

/// A message on its way to the verifier.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The connection it came from.
    pub(crate) generation: u64,
    pub(crate) content: Content,
}

/// What was read, of which nothing is known yet.
#[derive(Debug)]
pub(crate) enum Content {
    /// A message of a feed with seals.
    Item(FeedItem),
    /// A flashblock without one.
    Unsealed(UpstreamFlashblock),
}

/// The task that reads the feed.
pub(crate) struct Reader {
    pub(crate) subscription: Subscription,
    pub(crate) link: Arc<Link>,
    pub(crate) verifier: mpsc::Sender<Arrived>,
    pub(crate) complaints: Arc<Complaints>,
    pub(crate) metrics: Metrics,
    pub(crate) ready: Check,
}

impl Reader {
    /// Reads until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.read() => {}
            () = shutdown.cancelled() => {}
        }
        // If the verifier is gone, its own end says why.
        shutdown.cancelled().await;
        Ok(())
    }

    async fn read(mut self) {
        let mut generation = self.link.generation();
        loop {
            let event = tokio::select! {
                event = self.subscription.next() => event,
                () = self.link.left() => {
                    generation = self.link.generation();
                    self.leave();
                    continue;
                }
            };
            match event {
                Event::Connected => self.connected(),
                Event::Disconnected(disconnect) => {
                    self.metrics.feed_disconnected.get([disconnect.reason.as_str()]).inc();
                    self.metrics.feed_connected.set(0);
                    self.ready.not_ready(disconnect.to_string());
                }
                Event::Item(item) => {
                    if let FeedItem::Goodbye { reason, .. } = &item {
                        info!(reason = reason.as_str(), "the feed says goodbye");
                    }
                    if !self.hand_over(generation, Content::Item(item)).await {
                        return;
                    }
                }
                Event::Upstream(flashblock) => {
                    if !self.hand_over(generation, Content::Unsealed(flashblock)).await {
                        return;
                    }
                }
                Event::BadFrame(bad) => self.bad(Bad::Malformed, &Chain(&bad).to_string()),
                Event::Raw(_) => {}
            }
        }
    }

    /// Waits for room at the verifier, and says whether it is still there.
    async fn hand_over(&self, generation: u64, content: Content) -> bool {
        self.verifier.send(Arrived { generation, content }).await.is_ok()
    }

    fn connected(&self) {
        debug!(cursor = %self.link.cursor(), "connected to the feed");
        self.link.forgive();
        self.metrics.feed_connected.set(1);
        self.ready.ready();
    }

    fn leave(&mut self) {
        self.metrics.feed_disconnected.get(["left"]).inc();
        self.metrics.feed_connected.set(0);
        self.ready.not_ready("connecting again");
        self.subscription.reconnect();
    }

    fn bad(&self, bad: Bad, detail: &str) {
        self.complaints.complain(bad, detail, Instant::now());
        self.metrics.invalid.get([bad.as_str()]).inc();
        if self.link.strike() {
            info!("the feed sends bad messages, connecting again");
        }
    }
}
