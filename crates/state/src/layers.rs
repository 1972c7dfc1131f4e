//! A stack of diffs that stays short: layers merge like the levels of an LSM tree.
//!
//! Each layer is at least [`RATIO`] times as large as the one above it, so n changes lie in
//! O(log n) layers and each change is copied O(log n) times. Clones share the layers. A layer that
//! somebody else holds is never altered.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use revm::bytecode::Bytecode;

use crate::{AccountDiff, Diff};

/// A layer that is not this many times larger than the one above it absorbs that one.
const RATIO: usize = 4;

/// Diffs, oldest first; the last one wins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    /// Each with its size, because counting a diff costs a walk over its accounts.
    layers: Vec<(Arc<Diff>, usize)>,
}

impl Layers {
    /// Puts a later diff on top.
    pub(crate) fn push(&mut self, diff: Arc<Diff>) {
        if diff.is_empty() {
            return;
        }
        let size = diff.len();
        self.layers.push((diff, size));
        while let [.., (_, below), (_, top)] = self.layers.as_slice()
            && *below < RATIO * *top
        {
            self.merge_top();
        }
    }

    /// The newest word about an account.
    #[inline]
    pub(crate) fn account(&self, address: &Address) -> Option<&AccountDiff> {
        self.newest_first().find_map(|diff| diff.accounts.get(address))
    }

    /// The newest word about a slot.
    #[inline]
    pub(crate) fn slot(&self, address: &Address, slot: &U256) -> Option<U256> {
        self.newest_first().find_map(|diff| diff.accounts.get(address)?.slot(slot))
    }

    /// A code that came with one of the diffs.
    pub(crate) fn code(&self, hash: &B256) -> Option<&Bytecode> {
        self.newest_first().find_map(|diff| diff.codes.get(hash))
    }

    /// An upper bound for the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.layers.iter().map(|(_, size)| size).sum()
    }

    /// Everything, as one diff.
    pub(crate) fn merged(&self) -> Diff {
        let mut layers = self.layers.iter();
        let Some((oldest, _)) = layers.next() else { return Diff::default() };
        let mut merged = Diff::clone(oldest);
        for (later, _) in layers {
            merged.merge(later);
        }
        merged
    }

    fn newest_first(&self) -> impl Iterator<Item = &Diff> {
        self.layers.iter().rev().map(|(diff, _)| diff.as_ref())
    }

    fn merge_top(&mut self) {
        let (top, _) = self.layers.pop().expect("the caller saw two layers");
        let (below, size) = self.layers.last_mut().expect("the caller saw two layers");
        Arc::make_mut(below).merge(&top);
        *size = below.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Account;

    fn one_account(n: u64) -> Arc<Diff> {
        let mut diff = Diff::default();
        let account = Some(Account { nonce: n, ..Account::default() });
        let change = AccountDiff { account, ..AccountDiff::default() };
        diff.accounts.insert(Address::left_padding_from(&n.to_be_bytes()), change);
        Arc::new(diff)
    }

    #[test]
    fn a_thousand_pushes_leave_a_handful_of_layers() {
        let mut layers = Layers::default();
        for n in 0..1_000 {
            layers.push(one_account(n));
            assert!(layers.layers.len() <= 6, "{} layers after {n} pushes", layers.layers.len());
        }
        assert_eq!(layers.merged().accounts.len(), 1_000);
    }

    #[test]
    fn a_diff_that_is_held_elsewhere_is_not_altered_by_merging() {
        let held = one_account(1);
        let mut layers = Layers::default();
        layers.push(held.clone());
        layers.push(one_account(2));
        assert_eq!(held.accounts.len(), 1);
        assert_eq!(layers.merged().accounts.len(), 2);
    }
}
