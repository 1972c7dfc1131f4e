//! Who is told of the pending chain.
//!
//! Each overlay has a queue of its own of at most [`QUEUE`] updates. One whose queue is full is let
//! go: its stream ends, and it begins anew with what then is the current snapshot. Nobody waits for
//! anybody.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use preconf_pending::{Current, snapshot::Update};
use preconf_wire::pending::{PendingService, UpdateStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// How many updates may wait for one overlay: some ten seconds of a feed.
const QUEUE: usize = 64;

/// The overlays that follow.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    max_overlays: usize,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    current: Current,
    overlays: Vec<mpsc::Sender<Arc<Update>>>,
    is_closed: bool,
}

impl Hub {
    pub(crate) fn new(max_overlays: usize, metrics: Metrics) -> Self {
        Self { state: Mutex::default(), max_overlays, metrics }
    }

    /// Tells all overlays.
    pub(crate) fn publish(&self, update: Arc<Update>) {
        let mut state = self.state.lock();
        state.current.apply(Arc::clone(&update));
        let mut too_slow = 0;
        state.overlays.retain(|overlay| match overlay.try_send(Arc::clone(&update)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                too_slow += 1;
                false
            }
            Err(TrySendError::Closed(_)) => false,
        });
        self.metrics.overlays.set(state.overlays.len() as i64);
        drop(state);
        if too_slow > 0 {
            self.metrics.overlays_dropped.inc_by(too_slow);
            warn!(overlays = too_slow, "let go: they did not keep up");
        }
    }

    /// Ends all streams, now and from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.overlays.clear();
    }
}

impl PendingService for Hub {
    fn subscribe(&self) -> Option<UpdateStream> {
        let mut state = self.state.lock();
        state.overlays.retain(|overlay| !overlay.is_closed());
        if state.is_closed || state.overlays.len() >= self.max_overlays {
            self.metrics.overlays_refused.inc();
            return None;
        }
        let (overlay, updates) = mpsc::channel(QUEUE);
        state.overlays.push(overlay);
        self.metrics.overlays.set(state.overlays.len() as i64);
        let current = state.current.updates();
        info!(overlays = state.overlays.len(), updates = current.len(), "an overlay subscribed");
        Some(Box::pin(stream::iter(current).chain(ReceiverStream::new(updates))))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use futures_util::FutureExt;
    use preconf_pending::snapshot::Canonical;
    use preconf_telemetry::Registry;

    use super::*;

    fn update(snapshot_id: u64) -> Arc<Update> {
        let canonical = Canonical { number: snapshot_id, hash: B256::ZERO, timestamp: 0 };
        let (chain, executed, retracted) = (Vec::new(), Vec::new(), Vec::new());
        Arc::new(Update { snapshot_id, canonical, chain, executed, retracted, is_part: false })
    }

    fn hub() -> Hub {
        Hub::new(2, Metrics::new(&Registry::new("test")))
    }

    /// What a stream holds now, and whether it has ended.
    fn received(stream: &mut UpdateStream) -> (Vec<u64>, bool) {
        let mut ids = Vec::new();
        loop {
            match stream.next().now_or_never() {
                Some(Some(update)) => ids.push(update.snapshot_id),
                Some(None) => return (ids, true),
                None => return (ids, false),
            }
        }
    }

    #[test]
    fn an_overlay_begins_with_the_current_snapshot_and_is_told_of_the_next() {
        let hub = hub();
        hub.publish(update(1));
        hub.publish(update(2));
        let mut stream = hub.subscribe().unwrap();
        hub.publish(update(3));
        assert_eq!(received(&mut stream), (vec![2, 3], false));
    }

    #[test]
    fn an_overlay_that_does_not_keep_up_is_let_go_and_the_others_are_not() {
        let hub = hub();
        let (mut slow, mut fast) = (hub.subscribe().unwrap(), hub.subscribe().unwrap());
        let all: Vec<u64> = (0..QUEUE as u64 + 10).collect();
        let mut seen = Vec::new();
        for id in &all {
            hub.publish(update(*id));
            seen.extend(received(&mut fast).0);
        }
        assert_eq!(seen, all);
        assert_eq!(received(&mut slow), (all[..QUEUE].to_vec(), true));
        assert!(hub.subscribe().is_some(), "its place is free again");
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let hub = hub();
        let (first, _second) = (hub.subscribe().unwrap(), hub.subscribe().unwrap());
        assert!(hub.subscribe().is_none());
        drop(first);
        assert!(hub.subscribe().is_some());
    }

    #[test]
    fn closing_ends_every_stream() {
        let hub = hub();
        let mut stream = hub.subscribe().unwrap();
        hub.close();
        assert_eq!(received(&mut stream), (vec![], true));
        assert!(hub.subscribe().is_none());
    }
}
