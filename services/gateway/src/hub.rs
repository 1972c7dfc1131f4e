//! Where the one feed meets all its readers.
//!
//! The log is behind a lock that is held to add or to take one message, never while anything is
//! sent or awaited. Readers are woken by a counter.

use std::{sync::Arc, time::Instant};

use parking_lot::RwLock;
use preconf_primitives::Position;
use tokio::sync::watch;

use crate::{
    Limits,
    fanout::{Audience, Fanout, Next, Reader},
    frame::Frame,
};

/// The feed of this gateway.
#[derive(Debug)]
pub(crate) struct Hub {
    fanout: RwLock<Fanout>,
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
    pub(crate) fn new(limits: Limits) -> Self {
        Self { fanout: RwLock::new(Fanout::new(limits)), published: watch::Sender::new(0) }
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

    pub(crate) fn subscribe(
        self: &Arc<Self>,
        audience: Audience,
        cursor: Option<Position>,
    ) -> Follow {
        // What is published between these two lines is found by the first look.
        let published = self.published.subscribe();
        let reader = self.fanout.read().subscribe(audience, cursor);
        Follow { hub: Arc::clone(self), reader, published }
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
