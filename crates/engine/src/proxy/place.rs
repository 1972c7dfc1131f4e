//! The order in which hooks look at forkchoice updates.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// A place among those who look, in the order in which places were taken; the next one's turn comes
/// when it is dropped.
pub(super) struct Place {
    /// Tokio's mutex is fair: who has polled it first has it first.
    waiting: Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Place {
    /// Takes one. Does not wait for its turn.
    pub(super) async fn take(looking: &Arc<Mutex<()>>) -> Self {
        let waiting = Arc::clone(looking).lock_owned();
        let mut place = Self { waiting: Box::pin(waiting), turn: None };
        poll_fn(|cx| {
            if let Poll::Ready(turn) = place.waiting.as_mut().poll(cx) {
                place.turn = Some(turn);
            }
            Poll::Ready(())
        })
        .await;
        place
    }

    /// Waits until it is its turn.
    pub(super) async fn reached(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.waiting.as_mut().await);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("is_turn", &self.turn.is_some()).finish_non_exhaustive()
    }
}
