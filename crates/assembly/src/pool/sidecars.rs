//! The blobs of transactions that wait, and of those that are promised.
//!
//! Decides how long a sidecar is kept: while its transaction waits, and beyond that while it is
//! promised, because without it no block with that transaction can be handed out. Bounds: what
//! waits is counted in bytes, for the pool to keep within its limits; of those that are promised
//! only, [`MAX_PROMISED`] are kept, and a further one is let go.

use std::sync::Arc;

use alloy_primitives::{Address, B256, map::B256Map};

use crate::sidecar::{Sidecar, bytes_of};

/// How many sidecars are kept for promises alone: more than the blocks hold whose fate is open.
const MAX_PROMISED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Sidecars {
    kept: B256Map<Kept>,
    /// Of those that wait.
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    sidecar: Arc<Sidecar>,
    bytes: usize,
    sender: Address,
    nonce: u64,
    waits: bool,
    promised: bool,
}

impl Sidecars {
    /// How many bytes those have that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, hash: &B256) -> Option<&Arc<Sidecar>> {
        self.kept.get(hash).map(|kept| &kept.sidecar)
    }

    /// How many bytes one has that waits; none if there is none.
    pub(super) fn bytes_of(&self, hash: &B256) -> usize {
        self.kept.get(hash).filter(|kept| kept.waits).map_or(0, |kept| kept.bytes)
    }

    /// Sender and nonce of each transaction with blobs that waits, in no order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&Address, u64)> {
        let waiting = self.kept.values().filter(|kept| kept.waits);
        waiting.map(|kept| (&kept.sender, kept.nonce))
    }

    /// A transaction waits with its blobs.
    pub(super) fn insert(
        &mut self,
        hash: B256,
        (sender, nonce): (Address, u64),
        sidecar: Arc<Sidecar>,
    ) {
        let bytes = bytes_of(&sidecar);
        let promised = self.kept.get(&hash).is_some_and(|kept| kept.promised);
        self.leave(&hash);
        let kept = Kept { sidecar, bytes, sender, nonce, waits: true, promised };
        self.kept.insert(hash, kept);
        self.bytes += bytes;
    }

    /// A transaction no longer waits.
    pub(super) fn leave(&mut self, hash: &B256) {
        let Some(kept) = self.kept.get_mut(hash).filter(|kept| kept.waits) else { return };
        self.bytes -= kept.bytes;
        kept.waits = false;
        if !kept.promised || self.kept.values().filter(|kept| !kept.waits).count() > MAX_PROMISED {
            self.kept.remove(hash);
        }
    }

    /// A transaction is in a block that is being built.
    pub(super) fn promise(&mut self, hash: &B256) {
        if let Some(kept) = self.kept.get_mut(hash) {
            kept.promised = true;
        }
    }

    /// Whether any is kept for a promise.
    pub(super) fn has_promised(&self) -> bool {
        self.kept.values().any(|kept| kept.promised)
    }

    /// Lets go of what was promised and is not any more.
    pub(super) fn settle(&mut self, is_promised: impl Fn(&B256) -> bool) {
        for (hash, kept) in &mut self.kept {
            kept.promised &= is_promised(hash);
        }
        self.kept.retain(|_, kept| kept.waits || kept.promised);
    }
}
