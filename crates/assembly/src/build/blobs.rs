//! The blobs of a block in the making.
//!
//! Decides whether a transaction with blobs may be in it: only if they are here, proved in the form
//! of the block's fork. Otherwise the block could not be handed out, however well it executes.

use std::sync::Arc;

use alloy_consensus::Typed2718 as _;
use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Transaction};

use crate::{Pool, Sidecar, SidecarForm};

/// The sidecars of the block's transactions, in their order.
#[derive(Debug)]
pub(super) struct Blobs {
    form: SidecarForm,
    included: Vec<(B256, Arc<Sidecar>)>,
}

/// Why a transaction cannot be in the block for its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// They are not here.
    Missing,
    /// They are proved as in a later fork.
    Early,
    /// They are proved as in an earlier fork, and no block will want that again.
    Late,
}

impl Blobs {
    /// Those of a block of this time, with no transactions.
    pub(super) fn at(spec: &ChainSpec, timestamp: u64) -> Self {
        Self { form: SidecarForm::at(spec, timestamp), included: Vec::new() }
    }

    /// The sidecar that has to go with a transaction, if it needs one.
    pub(super) fn find(
        &self,
        pool: &Pool,
        transaction: &Transaction,
    ) -> Result<Option<Arc<Sidecar>>, Unfit> {
        if !transaction.envelope().is_eip4844() {
            return Ok(None);
        }
        let sidecar = pool.sidecar(transaction.hash()).ok_or(Unfit::Missing)?;
        match (SidecarForm::of(sidecar), self.form) {
            (SidecarForm::BlobProofs, SidecarForm::BlobProofs)
            | (SidecarForm::CellProofs, SidecarForm::CellProofs) => Ok(Some(sidecar.clone())),
            (SidecarForm::CellProofs, SidecarForm::BlobProofs) => Err(Unfit::Early),
            (SidecarForm::BlobProofs, SidecarForm::CellProofs) => Err(Unfit::Late),
        }
    }

    /// A transaction with blobs is in the block.
    pub(super) fn include(&mut self, hash: B256, sidecar: Arc<Sidecar>) {
        self.included.push((hash, sidecar));
    }

    /// The hashes of the block's transactions with blobs.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &B256> {
        self.included.iter().map(|(hash, _)| hash)
    }

    /// What is handed out with the block.
    pub(super) fn into_sidecars(self) -> Vec<Arc<Sidecar>> {
        self.included.into_iter().map(|(_, sidecar)| sidecar).collect()
    }
}
