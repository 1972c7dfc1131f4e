//! Which of the execution client's builds stands behind a payload id of ours.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use alloy_rpc_types_engine::PayloadId;

/// How many ids are remembered; the oldest is forgotten first. A consensus client asks for a
/// payload within seconds of its forkchoice update.
const REMEMBERED: usize = 64;

/// Pairs of our id and theirs. The lock is held for a look-up and never across a hook.
#[derive(Debug, Default)]
pub(super) struct PayloadIds(Mutex<VecDeque<(PayloadId, Option<PayloadId>)>>);

impl PayloadIds {
    /// Notes that the consensus client was told `ours` where the execution client said `theirs`.
    /// The newest pair counts: the same attributes on the same head give the same id again.
    pub(super) fn remember(&self, ours: PayloadId, theirs: Option<PayloadId>) {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|(known, _)| *known != ours);
        if pairs.len() == REMEMBERED {
            pairs.pop_front();
        }
        pairs.push_back((ours, theirs));
    }

    /// The execution client's id behind `ours`, if it is another one.
    pub(super) fn theirs(&self, ours: PayloadId) -> Option<PayloadId> {
        self.behind(ours).filter(|theirs| *theirs != ours)
    }

    /// The execution client's id behind `ours`, if it builds the same.
    pub(super) fn behind(&self, ours: PayloadId) -> Option<PayloadId> {
        let pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, theirs) = pairs.iter().find(|(known, _)| *known == ours)?;
        *theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PayloadId {
        PayloadId::new([n; 8])
    }

    #[test]
    fn the_newest_pair_counts() {
        let ids = PayloadIds::default();
        ids.remember(id(1), Some(id(10)));
        ids.remember(id(1), Some(id(11)));
        assert_eq!(ids.theirs(id(1)), Some(id(11)));
    }

    #[test]
    fn an_unknown_or_equal_id_is_not_translated() {
        let ids = PayloadIds::default();
        ids.remember(id(1), Some(id(1)));
        ids.remember(id(2), None);
        assert_eq!([ids.theirs(id(1)), ids.theirs(id(2)), ids.theirs(id(3))], [None; 3]);
        assert_eq!([1, 2, 3].map(|n| ids.behind(id(n))), [Some(id(1)), None, None]);
    }

    #[test]
    fn the_oldest_pair_is_forgotten_first() {
        let ids = PayloadIds::default();
        for n in 0..=64 {
            ids.remember(id(n), Some(id(100 + n)));
        }
        assert_eq!(ids.theirs(id(0)), None);
        assert_eq!(ids.theirs(id(1)), Some(id(101)));
        assert_eq!(ids.theirs(id(64)), Some(id(164)));
    }
}
