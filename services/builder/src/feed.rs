//! The origin of the feed: what was published lately, and whoever listens.
//!
//! The newest sessions are kept for those who come late or missed something, up to
//! [`KEPT_SESSIONS`] sessions and [`KEPT_BYTES`] bytes; the oldest go first. A subscriber that does
//! not keep up is told where to resume and let go: it is never skipped ahead unseen.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use preconf_chassis::Shutdown;
use preconf_primitives::{Position, Seq};
use preconf_wire::feed::{FeedItem, FeedService, FeedStream, GoodbyeReason, SubscribeError};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

/// How many sessions are kept for replay.
const KEPT_SESSIONS: usize = 16;
/// How many bytes of transactions are kept for replay.
const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// How many items a subscriber may be behind: many seconds of feed.
const BEHIND: usize = 256;
/// The most subscribers: gateways, not the public.
const SUBSCRIBERS: usize = 256;

/// The origin of the feed.
pub(crate) struct Feed {
    window: Mutex<Window>,
    live: broadcast::Sender<Arc<FeedItem>>,
    /// Changes when whoever listens should look for another builder.
    dismissed: watch::Sender<()>,
    subscribers: Arc<AtomicUsize>,
    shutdown: Shutdown,
}

#[derive(Default)]
struct Window {
    sessions: VecDeque<KeptSession>,
    bytes: usize,
}

/// What was published of one session, each item at the flashblock it belongs to or follows.
struct KeptSession {
    seq: Seq,
    items: Vec<(u64, Arc<FeedItem>)>,
    bytes: usize,
}

impl Feed {
    /// A feed that nothing was published on.
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        let (live, _) = broadcast::channel(BEHIND);
        let (dismissed, _) = watch::channel(());
        Self { window: Mutex::default(), live, dismissed, subscribers: Arc::default(), shutdown }
    }

    /// Says goodbye to all who listen: another builder may publish now. Who comes back is welcome.
    pub(crate) fn dismiss(&self) {
        self.dismissed.send_replace(());
    }

    /// Takes back an item that was published before the process was started again.
    pub(crate) fn restore(&self, position: Position, item: FeedItem) {
        self.window.lock().push(position, Arc::new(item));
    }

    /// What is kept for replay, each item at the flashblock that it is or follows.
    pub(crate) fn kept(&self) -> Vec<(Position, Arc<FeedItem>)> {
        let window = self.window.lock();
        let items = window.sessions.iter().flat_map(|session| {
            let at = |index: u64| Position::new(session.seq, index);
            session.items.iter().map(move |(index, item)| (at(*index), item.clone()))
        });
        items.collect()
    }

    /// Publishes an item that belongs after the flashblock at `position`.
    pub(crate) fn publish(&self, position: Position, item: FeedItem) {
        let item = Arc::new(item);
        let mut window = self.window.lock();
        window.push(position, item.clone());
        // Sent under the lock, so that a subscriber sees each item once: kept or live. Nobody may
        // be listening.
        let _ = self.live.send(item);
    }
}

impl FeedService for Feed {
    fn subscribe(&self, cursor: Option<Position>) -> Result<FeedStream, SubscribeError> {
        if self.shutdown.is_cancelled() {
            return Err(SubscribeError::Draining);
        }
        let seat = Seat::take(&self.subscribers).ok_or(SubscribeError::Full)?;
        let (kept, live) = {
            let window = self.window.lock();
            (window.from(cursor), self.live.subscribe())
        };
        let ends = (self.shutdown.clone(), self.dismissed.subscribe());
        let state = Some((live, None::<Position>, seat, ends));
        let live = stream::unfold(state, |state| async move {
            let (mut live, mut last, seat, (shutdown, mut dismissed)) = state?;
            let ended = async {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = dismissed.changed() => {}
                }
            };
            let received = tokio::select! {
                // What was said comes before goodbye.
                biased;
                received = live.recv() => received,
                () = ended => {
                    let reason = GoodbyeReason::Draining;
                    let goodbye = FeedItem::Goodbye { reason, cursor: last };
                    return Some((Arc::new(goodbye), None));
                }
            };
            match received {
                Ok(item) => {
                    if let FeedItem::Flashblock(signed) = item.as_ref() {
                        let Position { seq, index } = signed.flashblock.position();
                        last = Some(Position::new(seq, index + 1));
                    }
                    Some((item, Some((live, last, seat, (shutdown, dismissed)))))
                }
                Err(RecvError::Lagged(_)) => {
                    let reason = GoodbyeReason::TooSlow;
                    Some((Arc::new(FeedItem::Goodbye { reason, cursor: last }), None))
                }
                Err(RecvError::Closed) => None,
            }
        });
        Ok(Box::pin(stream::iter(kept).chain(live)))
    }
}

/// A place among the subscribers, given back when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) >= SUBSCRIBERS {
            taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Window {
    fn push(&mut self, Position { seq, index }: Position, item: Arc<FeedItem>) {
        let bytes = size(&item);
        self.bytes += bytes;
        match self.sessions.back_mut() {
            Some(newest) if newest.seq == seq => {
                newest.bytes += bytes;
                newest.items.push((index, item));
            }
            Some(_) | None => {
                self.sessions.push_back(KeptSession { seq, items: vec![(index, item)], bytes });
            }
        }
        // Sessions go whole, and the newest never does.
        while self.sessions.len() > 1
            && (self.sessions.len() > KEPT_SESSIONS || self.bytes > KEPT_BYTES)
        {
            self.bytes -= self.sessions.pop_front().map_or(0, |oldest| oldest.bytes);
        }
    }

    /// What a subscriber gets before the live items.
    fn from(&self, cursor: Option<Position>) -> Vec<Arc<FeedItem>> {
        let (Some(oldest), Some(newest)) = (self.sessions.front(), self.sessions.back()) else {
            return Vec::new();
        };
        let wanted = cursor.unwrap_or(Position::new(newest.seq, 0));
        let mut items = Vec::new();
        if wanted.seq < oldest.seq {
            items.push(Arc::new(FeedItem::Gap { wanted, next: Position::new(oldest.seq, 0) }));
        }
        for session in &self.sessions {
            let wanted_items = session.items.iter().filter(|(index, item)| {
                let at = Position::new(session.seq, *index);
                match item.as_ref() {
                    FeedItem::Flashblock(_) => at >= wanted,
                    // A statement stands at the flashblock before it, which a resuming subscriber
                    // has: it is sent again rather than lost.
                    FeedItem::Abandoned(_)
                    | FeedItem::Sealed(_)
                    | FeedItem::Retracted(_)
                    | FeedItem::Gap { .. }
                    | FeedItem::Goodbye { .. } => Position::new(at.seq, at.index + 1) >= wanted,
                }
            });
            items.extend(wanted_items.map(|(_, item)| item.clone()));
        }
        items
    }
}

fn size(item: &FeedItem) -> usize {
    /// What an item takes besides transactions, roughly.
    const OVERHEAD: usize = 1024;
    match item {
        FeedItem::Flashblock(signed) => OVERHEAD + signed.flashblock.transaction_bytes(),
        FeedItem::Abandoned(_)
        | FeedItem::Sealed(_)
        | FeedItem::Retracted(_)
        | FeedItem::Gap { .. }
        | FeedItem::Goodbye { .. } => OVERHEAD,
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "tests name what they expect")]
mod tests {
    use alloy_primitives::{B256, FixedBytes};
    use preconf_primitives::{Digest, Sealed};
    use preconf_signing::{SignedFlashblock, SignedStatement};

    use super::*;
    use crate::testing::at;

    fn flashblock(position: Position) -> FeedItem {
        let (signature, seal) = (FixedBytes::ZERO, FixedBytes::ZERO);
        let flashblock = crate::testing::flashblock(position);
        FeedItem::Flashblock(SignedFlashblock { flashblock, signature, seal })
    }

    fn sealed(seq: u64) -> FeedItem {
        let statement = Sealed {
            seq: Seq::new(seq),
            block_number: 1,
            last_digest: Digest::ZERO,
            block_hash: B256::ZERO,
            state_root: B256::ZERO,
        };
        FeedItem::Sealed(SignedStatement { statement, seal: FixedBytes::ZERO })
    }

    /// Two sessions of three flashblocks, the first one sealed.
    fn feed() -> Feed {
        let feed = Feed::new(Shutdown::new());
        for index in 0..3 {
            feed.publish(at(7, index), flashblock(at(7, index)));
        }
        feed.publish(at(7, 2), sealed(7));
        for index in 0..3 {
            feed.publish(at(8, index), flashblock(at(8, index)));
        }
        feed
    }

    fn kept(feed: &Feed, cursor: Option<Position>) -> Vec<String> {
        let items = feed.window.lock().from(cursor);
        let name = |item: &Arc<FeedItem>| match item.as_ref() {
            FeedItem::Flashblock(signed) => signed.flashblock.position().to_string(),
            FeedItem::Sealed(signed) => format!("sealed {}", signed.statement.seq),
            FeedItem::Gap { wanted, next } => format!("gap {wanted} {next}"),
            other => panic!("unexpected {other:?}"),
        };
        items.iter().map(name).collect()
    }

    #[test]
    fn a_newcomer_gets_the_current_session_from_its_beginning() {
        assert_eq!(kept(&feed(), None), ["8:0", "8:1", "8:2"]);
    }

    #[test]
    fn a_cursor_gets_everything_from_there_on() {
        let from = kept(&feed(), Some(at(7, 2)));
        assert_eq!(from, ["7:2", "sealed 7", "8:0", "8:1", "8:2"]);
        assert_eq!(kept(&feed(), Some(at(7, 3))), ["sealed 7", "8:0", "8:1", "8:2"]);
        assert_eq!(kept(&feed(), Some(at(8, 3))), Vec::<String>::new());
    }

    #[test]
    fn a_cursor_before_what_is_kept_is_told_of_the_gap() {
        let from = kept(&feed(), Some(at(3, 1)));
        assert_eq!(from[..2], ["gap 3:1 7:0", "7:0"]);
    }

    #[test]
    fn old_sessions_go_whole() {
        let feed = Feed::new(Shutdown::new());
        for seq in 1..=KEPT_SESSIONS as u64 + 3 {
            feed.publish(at(seq, 0), flashblock(at(seq, 0)));
        }
        let window = feed.window.lock();
        assert_eq!(window.sessions.len(), KEPT_SESSIONS);
        assert_eq!(window.sessions[0].seq, Seq::new(4));
        assert_eq!(window.bytes, window.sessions.iter().map(|kept| kept.bytes).sum::<usize>());
    }

    #[test]
    fn a_restored_feed_replays_what_the_one_before_kept() {
        let before = feed().kept();
        let after = Feed::new(Shutdown::new());
        for (at, item) in before {
            after.restore(at, item.as_ref().clone());
        }
        assert_eq!(kept(&after, Some(at(7, 2))), kept(&feed(), Some(at(7, 2))));
    }

    #[tokio::test]
    async fn a_subscriber_gets_each_item_once_kept_or_live() {
        let feed = feed();
        let mut items = feed.subscribe(Some(at(8, 1))).unwrap();
        feed.publish(at(8, 3), flashblock(at(8, 3)));
        let mut positions = Vec::new();
        for _ in 0..3 {
            let Some(FeedItem::Flashblock(signed)) = items.next().await.as_deref().cloned() else {
                panic!("a flashblock comes next")
            };
            positions.push(signed.flashblock.position());
        }
        assert_eq!(positions, [at(8, 1), at(8, 2), at(8, 3)]);
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_told_where_to_resume() {
        let feed = Feed::new(Shutdown::new());
        let mut items = feed.subscribe(None).unwrap();
        feed.publish(at(1, 0), flashblock(at(1, 0)));
        items.next().await.unwrap();
        for index in 1..=BEHIND as u64 + 1 {
            feed.publish(at(1, index), flashblock(at(1, index)));
        }
        let goodbye = items.next().await.unwrap();
        let expected = FeedItem::Goodbye { reason: GoodbyeReason::TooSlow, cursor: Some(at(1, 1)) };
        assert_eq!(*goodbye, expected);
        assert!(items.next().await.is_none());
    }

    #[tokio::test]
    async fn whoever_listens_when_the_lease_is_lost_is_sent_away_and_may_come_back() {
        let feed = Feed::new(Shutdown::new());
        let mut stream = feed.subscribe(None).unwrap();
        feed.publish(at(1, 0), flashblock(at(1, 0)));
        feed.dismiss();
        assert!(matches!(*stream.next().await.unwrap(), FeedItem::Flashblock(_)));
        let goodbye = stream.next().await.unwrap();
        assert!(matches!(*goodbye, FeedItem::Goodbye { reason: GoodbyeReason::Draining, .. }));
        assert!(stream.next().await.is_none());
        assert!(feed.subscribe(None).is_ok());
    }

    #[tokio::test]
    async fn a_draining_feed_says_what_it_has_to_say_then_goodbye_and_takes_nobody() {
        let shutdown = Shutdown::new();
        let feed = Feed::new(shutdown.clone());
        let mut items = feed.subscribe(None).unwrap();
        let last_words = 0..10;
        for index in last_words.clone() {
            feed.publish(at(1, index), flashblock(at(1, index)));
        }
        shutdown.trigger();
        for _ in last_words {
            let item = items.next().await.unwrap();
            assert!(matches!(*item, FeedItem::Flashblock(_)), "{item:?}");
        }
        let goodbye = items.next().await.unwrap();
        assert!(matches!(*goodbye, FeedItem::Goodbye { reason: GoodbyeReason::Draining, .. }));
        assert!(items.next().await.is_none());
        assert!(matches!(feed.subscribe(None), Err(SubscribeError::Draining)));
    }
}
