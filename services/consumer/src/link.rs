//! What the reader of the feed, the verifier and the executor have to agree upon.
//!
//! When something is missing the executor wants another connection, and nothing any more of the
//! one before: messages of it that are still on their way through the verifier are known by their
//! generation. After too many bad messages in a row the verifier wants another connection, too.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use preconf_primitives::Position;
use tokio::sync::Notify;

/// How many bad messages in a row a connection may bring.
pub(crate) const STRIKES: u32 = 16;

/// Shared by all who handle the feed.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Counts the connections that the executor has asked for.
    generation: AtomicU64,
    /// Bad messages in a row.
    strikes: AtomicU32,
    /// Where the next connection begins.
    cursor: Mutex<Position>,
    /// Somebody wants another connection.
    leave: Notify,
}

impl Link {
    /// The newest generation. Messages of an earlier one are not wanted.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Asks for a connection that begins at this position.
    pub(crate) fn replay(&self, from: Position) {
        *self.cursor.lock() = from;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.leave.notify_one();
    }

    /// Waits until somebody wants another connection. Cancel safe.
    pub(crate) async fn left(&self) {
        self.leave.notified().await;
    }

    /// Notes a bad message. The last one that is put up with ends the connection.
    pub(crate) fn strike(&self) -> bool {
        let is_last = self.strikes.fetch_add(1, Ordering::AcqRel) + 1 >= STRIKES;
        if is_last {
            self.forgive();
            self.leave.notify_one();
        }
        is_last
    }

    /// Notes a good message, or a new connection.
    pub(crate) fn forgive(&self) {
        self.strikes.store(0, Ordering::Release);
    }

    /// Where the next connection begins.
    pub(crate) fn cursor(&self) -> Position {
        *self.cursor.lock()
    }

    /// Sets where the next connection begins.
    pub(crate) fn set_cursor(&self, cursor: Position) {
        *self.cursor.lock() = cursor;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn bad_messages_end_a_connection_only_in_a_row() {
        let link = Link::default();
        for _ in 0..3 {
            (1..STRIKES).for_each(|_| assert!(!link.strike()));
            link.forgive();
        }
        assert!(link.left().now_or_never().is_none());

        (1..STRIKES).for_each(|_| assert!(!link.strike()));
        assert!(link.strike());
        assert!(link.left().now_or_never().is_some());
        assert!(!link.strike(), "it counts anew");
    }

    #[test]
    fn a_replay_makes_what_came_before_it_stale() {
        let link = Link::default();
        let before = link.generation();
        let from: Position = "3:4".parse().unwrap();
        link.replay(from);
        assert!(link.generation() > before);
        assert_eq!(link.cursor(), from);
        assert!(link.left().now_or_never().is_some());
    }
}
