//! Whose connections nobody knows: they make room, the oldest first.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The connections on which no validator has asked. Clones share them. There are no more than
/// connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// In the order in which they came, with what tells them to go.
    strangers: BTreeMap<u64, Arc<Notify>>,
}

/// A connection, which is a stranger's until a validator has asked on it.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    number: u64,
    strangers: Strangers,
    goes: Arc<Notify>,
}

impl Strangers {
    pub(super) fn meet(&self) -> Visitor {
        let goes = Arc::<Notify>::default();
        let mut known = self.0.lock();
        let number = known.next;
        known.next += 1;
        known.strangers.insert(number, Arc::clone(&goes));
        Visitor { number, strangers: self.clone(), goes }
    }

    /// Tells the one that came first to go, if there is any.
    pub(super) fn make_room(&self) {
        if let Some((_, goes)) = self.0.lock().strangers.pop_first() {
            goes.notify_one();
        }
    }
}

impl Visitor {
    /// It is a validator's, or it has ended: it makes no room.
    pub(crate) fn is_no_stranger(&self) {
        self.strangers.0.lock().strangers.remove(&self.number);
    }

    /// Ends when it has to make room.
    pub(super) async fn goes(&self) {
        self.goes.notified().await;
    }
}
