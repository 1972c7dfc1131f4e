//! The feed over gRPC, for consumers and further gateways. A message is encoded once for all.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture, stream};
use preconf_chassis::Peer;
use preconf_primitives::Position;
use preconf_wire::feed::{
    EncodedFeedService, EncodedFeedStream, EncodedItem, FeedItem, GoodbyeReason, SubscribeError,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Extensions;

use crate::{
    budget::Source,
    drain::Drain,
    fanout::{Audience, Next},
    hub::{Follow, Hub},
    metrics::{Counted, Metrics},
};

/// Serves the hub.
pub(crate) struct Feed {
    pub(crate) hub: Arc<Hub>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Arc<Drain>,
}

impl EncodedFeedService for Feed {
    fn subscribe_encoded(
        &self,
        cursor: Option<Position>,
        extensions: &Extensions,
    ) -> Result<EncodedFeedStream, SubscribeError> {
        let refused = |reason, error| {
            self.metrics.refused.get([reason]).inc();
            Err(error)
        };
        if self.drain.has_begun() {
            return refused("draining", SubscribeError::Draining);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return refused("full", SubscribeError::Full);
        };
        let source = Source::of_peer(extensions.get::<Peer>());
        let Some(follow) = self.hub.subscribe(Audience::Everything, cursor, source) else {
            return refused("over_budget", SubscribeError::Full);
        };
        let drain = Arc::clone(&self.drain);
        let subscriber = Subscriber {
            follow,
            metrics: self.metrics.clone(),
            turn: Box::pin(async move { drain.turn().await }),
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
    /// Ends when it has to leave.
    turn: BoxFuture<'static, ()>,
    /// What it was told at the end.
    goodbye: Option<GoodbyeReason>,
    _counted: Counted,
    _place: OwnedSemaphorePermit,
}

impl Subscriber {
    async fn next(&mut self) -> Option<EncodedItem> {
        if self.goodbye.is_some() {
            return None;
        }
        loop {
            if (&mut self.turn).now_or_never().is_some() {
                return Some(self.goodbye(GoodbyeReason::Draining));
            }
            match self.follow.look() {
                Next::Frame(frame) => return Some(frame.protobuf()),
                Next::Gap { wanted, next } => {
                    return Some(EncodedItem::new(&FeedItem::Gap { wanted, next }));
                }
                Next::TooSlow => return Some(self.goodbye(GoodbyeReason::TooSlow)),
                Next::UpToDate => tokio::select! {
                    () = self.follow.published() => {}
                    () = &mut self.turn => return Some(self.goodbye(GoodbyeReason::Draining)),
                },
            }
        }
    }

    fn goodbye(&mut self, reason: GoodbyeReason) -> EncodedItem {
        self.goodbye = Some(reason);
        EncodedItem::new(&FeedItem::Goodbye { reason, cursor: self.follow.cursor() })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let reason = self.goodbye.map_or("left", GoodbyeReason::as_str);
        self.metrics.ended.get([reason]).inc();
    }
}
