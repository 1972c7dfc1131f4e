//! What anybody sees who reads the gateway's WebSocket: followed, verified, and kept in a ledger.

mod ledger;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use preconf_chassis::ConfigError;
use preconf_signing::Verifier;
use preconf_subscribe::{Config, Event, FeedUrl, Subscription};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tracing::warn;

pub use ledger::{Ledger, SessionEnd, Settled, Totals};

/// A reader of the feed. Dropping it ends the connection.
#[derive(Debug)]
pub struct Observer {
    ledger: Arc<Mutex<Ledger>>,
    /// Counts what was read.
    read: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Follows the feed at `url`.
    ///
    /// # Errors
    /// If the URL may not be used.
    pub fn start(url: FeedUrl, verifier: Verifier) -> Result<Self, ConfigError> {
        let ledger = Arc::new(Mutex::new(Ledger::new(verifier)));
        let cursor = {
            let ledger = ledger.clone();
            move || ledger.lock().cursor()
        };
        let subscription = Subscription::spawn(url, Config::default(), cursor)?;
        let (told, read) = watch::channel(0);
        let task = tokio::spawn(follow(subscription, ledger.clone(), told));
        Ok(Self { ledger, read, task })
    }

    /// Waits until it was said how the session of the block with this number ended, at most for
    /// `patience`.
    pub async fn until_ended(&mut self, number: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.ledger.lock().has_ended(number) {
            if timeout_at(deadline, self.read.changed()).await.is_err() {
                return;
            }
        }
    }

    /// The ledger, for a moment.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.ledger.lock())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut subscription: Subscription,
    ledger: Arc<Mutex<Ledger>>,
    told: watch::Sender<u64>,
) {
    loop {
        match subscription.next().await {
            Event::Item(item) => {
                let is_gap = {
                    let mut ledger = ledger.lock();
                    ledger.read(item);
                    ledger.misses_something()
                };
                if is_gap {
                    subscription.reconnect();
                }
                told.send_modify(|count| *count += 1);
            }
            Event::BadFrame(error) => {
                warn!(error = &error as &dyn std::error::Error, "a frame without a meaning");
                ledger.lock().bad_frame();
            }
            Event::Disconnected(disconnect) => warn!(%disconnect, "the feed was lost"),
            // Ours is the preconf.v1 feed: upstream's flashblocks do not come there.
            Event::Connected | Event::Raw(_) | Event::Upstream(_) => {}
        }
    }
}
