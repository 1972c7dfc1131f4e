//! The feed over gRPC, for consumers and further gateways.

use std::sync::Arc;

use futures_util::stream;
use preconf_chassis::Shutdown;
use preconf_primitives::Position;
use preconf_wire::feed::{FeedItem, FeedService, FeedStream, GoodbyeReason, SubscribeError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    fanout::{Audience, Next},
    hub::{Follow, Hub},
    metrics::{Counted, Metrics},
};

/// Serves the hub.
pub(crate) struct Feed {
    pub(crate) hub: Arc<Hub>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

impl FeedService for Feed {
    fn subscribe(&self, cursor: Option<Position>) -> Result<FeedStream, SubscribeError> {
        let refused = |reason, error| {
            self.metrics.refused.get([reason]).inc();
            Err(error)
        };
        if self.shutdown.is_cancelled() {
            return refused("draining", SubscribeError::Draining);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return refused("full", SubscribeError::Full);
        };
        let subscriber = Subscriber {
            follow: self.hub.subscribe(Audience::Everything, cursor),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            goodbye: None,
            _counted: Counted::new(&self.metrics, "grpc"),
            _place: place,
        };
        Ok(Box::pin(stream::unfold(subscriber, |mut subscriber| async move {
            Some((subscriber.next().await?, subscriber))
        })))
    }
}

/// One stream. It is asked for a message when the connection has room for it.
struct Subscriber {
    follow: Follow,
    metrics: Metrics,
    shutdown: Shutdown,
    /// What it was told at the end.
    goodbye: Option<GoodbyeReason>,
    _counted: Counted,
    _place: OwnedSemaphorePermit,
}

impl Subscriber {
    async fn next(&mut self) -> Option<Arc<FeedItem>> {
        if self.goodbye.is_some() {
            return None;
        }
        loop {
            if self.shutdown.is_cancelled() {
                return Some(self.goodbye(GoodbyeReason::Draining));
            }
            match self.follow.look() {
                Next::Frame(frame) => return Some(Arc::clone(frame.item())),
                Next::Gap { wanted, next } => {
                    return Some(Arc::new(FeedItem::Gap { wanted, next }));
                }
                Next::TooSlow => return Some(self.goodbye(GoodbyeReason::TooSlow)),
                Next::UpToDate => tokio::select! {
                    () = self.follow.published() => {}
                    () = self.shutdown.cancelled() => {}
                },
            }
        }
    }

    fn goodbye(&mut self, reason: GoodbyeReason) -> Arc<FeedItem> {
        self.goodbye = Some(reason);
        Arc::new(FeedItem::Goodbye { reason, cursor: self.follow.cursor() })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let reason = self.goodbye.map_or("left", GoodbyeReason::as_str);
        self.metrics.ended.get([reason]).inc();
    }
}
