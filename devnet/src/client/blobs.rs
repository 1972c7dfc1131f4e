//! Blob transactions, which come with their blobs and go into a block without them.
//!
//! Keeps both while they wait. Bounds: [`MAX_WAITING`] transactions wait, in order of arrival of
//! their senders' nonces; a further one is refused. A transaction that a reorg sets free is not
//! taken back: its blobs are gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use preconf_assembly::{Submission, Unproved};
use preconf_chain::Transaction;

pub(crate) use preconf_assembly::is_blob_transaction;
pub use preconf_assembly::{Sidecar, SidecarError as BlobSidecarError};

/// The most blob transactions that wait: each may bring a megabyte.
const MAX_WAITING: usize = 64;

/// A blob that waits: the sidecar that it is in, and its index there.
pub(crate) type BlobPlace = (Arc<Sidecar>, usize);

/// Decodes a blob transaction with its sidecar, and checks the one against the other.
pub(crate) fn decode(encoded: &[u8]) -> Result<Submission, BlobSidecarError> {
    Unproved::decode(encoded)?.prove()
}

/// The blob transactions that wait, with their blobs, by sender and nonce.
#[derive(Debug, Default)]
pub(crate) struct BlobPool {
    waiting: BTreeMap<(Address, u64), (Transaction, Arc<Sidecar>)>,
}

impl BlobPool {
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    pub(crate) fn insert(
        &mut self,
        place: (Address, u64),
        transaction: Transaction,
        sidecar: Arc<Sidecar>,
    ) {
        self.waiting.insert(place, (transaction, sidecar));
    }

    pub(crate) fn at(&self, place: &(Address, u64)) -> Option<&Transaction> {
        self.waiting.get(place).map(|(transaction, _)| transaction)
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&(Transaction, Arc<Sidecar>)> {
        self.waiting.values().find(|(transaction, _)| transaction.hash() == hash)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(Address, u64), &Transaction)> {
        self.waiting.iter().map(|(place, (transaction, _))| (place, transaction))
    }

    /// The blob with this hash.
    pub(crate) fn blob(&self, versioned_hash: &B256) -> Option<BlobPlace> {
        self.waiting.values().find_map(|(transaction, sidecar)| {
            let hashes = transaction.envelope().blob_versioned_hashes()?;
            let index = hashes.iter().position(|hash| hash == versioned_hash)?;
            Some((sidecar.clone(), index))
        })
    }

    /// A canonical block has used `nonce` of `sender`.
    pub(crate) fn mined(&mut self, sender: &Address, nonce: u64) {
        self.waiting.retain(|(other, waiting), _| other != sender || *waiting > nonce);
    }
}
