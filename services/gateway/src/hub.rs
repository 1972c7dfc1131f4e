//! Where the one feed meets all its readers.
//!
//! The log is behind a lock that is held to add or to take one message, never while anything is
//! sent or awaited. Readers are woken by a counter.

use std::{sync::Arc, time::Instant};

use parking_lot::{Mutex, RwLock};
use preconf_primitives::Position;
use tokio::sync::watch;

use crate::{
    Limits,
    budget::{Budget, Source},
    fanout::{Audience, Fanout, Next, Reader},
    frame::Frame,
    metrics::Metrics,
};

/// The feed of this gateway.
#[derive(Debug)]
pub(crate) struct Hub {
    fanout: RwLock<Fanout>,
    budget: Mutex<Budget>,
    metrics: Metrics,
    published: watch::Sender<u64>,
}

/// A reader of the hub.
#[derive(Debug)]
pub(crate) struct Follow {
    hub: Arc<Hub>,
    reader: Reader,
    published: watch::Receiver<u64>,
}

impl Hub {
    pub(crate) fn new(limits: Limits, metrics: Metrics) -> Self {
        Self {
            fanout: RwLock::new(Fanout::new(limits)),
            budget: Mutex::new(Budget::new(limits.replay)),
            metrics,
            published: watch::Sender::new(0),
        }
    }

    /// Gives a message to all readers. Returns how many messages and bytes are kept.
    pub(crate) fn publish(&self, frame: Frame) -> (usize, usize) {
        let size = {
            let mut fanout = self.fanout.write();
            fanout.push(Arc::new(frame), Instant::now());
            fanout.size()
        };
        self.published.send_modify(|count| *count += 1);
        size
    }

    /// A place for a reader, at the expense of `source`. If that has no budget left for what was
    /// published before, the reader gets what follows from now on, and is told of the gap; `None`
    /// if it is one that cannot be told.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        audience: Audience,
        cursor: Option<Position>,
        source: Source,
    ) -> Option<Follow> {
        // What is published between these two lines is found by the first look.
        let published = self.published.subscribe();
        let fanout = self.fanout.read();
        let mut reader = fanout.subscribe(audience, cursor);
        let bytes = fanout.behind(&reader);
        if bytes > 0 {
            if self.budget.lock().spend(source, bytes, Instant::now()) {
                self.metrics.replayed_bytes.inc_by(bytes);
            } else {
                let live = fanout.subscribe_live(audience, cursor);
                let outcome = if live.is_some() { "live" } else { "closed" };
                self.metrics.over_budget.get([outcome]).inc();
                reader = live?;
            }
        }
        Some(Follow { hub: Arc::clone(self), reader, published })
    }

    /// How many readers there are.
    pub(crate) fn readers(&self) -> usize {
        self.published.receiver_count()
    }

    /// The first position that has not been published yet.
    pub(crate) fn head(&self) -> Option<Position> {
        self.fanout.read().head()
    }

    /// The flashblock at `position`, if it is kept.
    pub(crate) fn flashblock(&self, position: Position) -> Option<Arc<Frame>> {
        self.fanout.read().flashblock(position).cloned()
    }
}

impl Follow {
    /// What to do now.
    pub(crate) fn look(&mut self) -> Next {
        self.hub.fanout.read().next(&mut self.reader, Instant::now())
    }

    /// Waits until there is more than at the last wait. Cancel safe.
    pub(crate) async fn published(&mut self) {
        self.published.changed().await.expect("the sender is in the hub, which this holds");
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.hub.fanout.read().is_too_slow(&self.reader, Instant::now())
    }

    /// The first position that this reader has not got.
    pub(crate) fn cursor(&self) -> Option<Position> {
        self.hub.fanout.read().cursor(&self.reader)
    }
}
