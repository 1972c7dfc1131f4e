//! Where the transactions of one block are, by hash.
//!
//! It grows by a flashblock at a time while readers hold what it was before, so it is a short stack of
//! tables that are never altered once they are shared: each is at least [`RATIO`] times as large as the
//! one above it. What a flashblock costs does not depend on how many came before it, but for the
//! logarithm of that, and a clone shares the tables.

use std::sync::Arc;

use alloy_primitives::{B256, map::B256Map};

use super::ExecutedFlashblock;

/// A table that is not this many times larger than the one above it absorbs that one.
const RATIO: usize = 4;

/// Where in its block a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its place among the block's transactions.
    pub(super) index: usize,
    /// The place of its flashblock in the block.
    pub(super) flashblock: usize,
    /// Its place in the flashblock.
    pub(super) offset: usize,
}

/// The transactions of one block.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Largest and oldest first.
    tables: Vec<Arc<B256Map<Place>>>,
    flashblocks: usize,
    transactions: usize,
}

impl Index {
    /// Adds the next flashblock of the block.
    pub(super) fn push(&mut self, executed: &ExecutedFlashblock) {
        let (flashblock, first) = (self.flashblocks, self.transactions);
        self.flashblocks += 1;
        self.transactions += executed.transactions.len();
        if executed.transactions.is_empty() {
            return;
        }
        let places = executed.transactions.iter().enumerate().map(|(offset, executed)| {
            (*executed.transaction.hash(), Place { index: first + offset, flashblock, offset })
        });
        self.tables.push(Arc::new(places.collect()));
        while let [.., below, top] = self.tables.as_slice()
            && below.len() < RATIO * top.len()
        {
            self.merge_top();
        }
    }

    /// Where a transaction is.
    pub(super) fn find(&self, hash: &B256) -> Option<Place> {
        self.tables.iter().find_map(|table| table.get(hash).copied())
    }

    /// How many transactions they have.
    pub(super) const fn transactions(&self) -> usize {
        self.transactions
    }

    fn merge_top(&mut self) {
        let top = self.tables.pop().expect("the caller saw two tables");
        let below = self.tables.last_mut().expect("the caller saw two tables");
        let below = Arc::make_mut(below);
        below.extend(top.iter().map(|(hash, place)| (*hash, *place)));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::executed, *};

    #[test]
    fn a_clone_does_not_see_what_comes_later() {
        let mut index = Index::default();
        index.push(&executed("5:0", &[0]));
        let before = index.clone();
        index.push(&executed("5:1", &[1]));

        let hash = |executed: &ExecutedFlashblock| *executed.transactions[0].transaction.hash();
        let (first, second) = (hash(&executed("5:0", &[0])), hash(&executed("5:1", &[1])));
        assert_eq!(before.find(&second), None);
        assert_eq!(index.find(&first), Some(Place { index: 0, flashblock: 0, offset: 0 }));
        assert_eq!(index.find(&second), Some(Place { index: 1, flashblock: 1, offset: 0 }));
        assert_eq!((index.transactions(), index.tables.len()), (2, 1));
    }
}
