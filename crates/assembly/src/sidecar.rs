//! Blob transactions as they are sent: with their blobs, which a block does not hold.
//!
//! Decides whether a sidecar proves what its transaction commits to, and whether it has the form
//! that a block's fork wants. Invariant: a [`Submission`] of a blob transaction has a sidecar whose
//! proofs hold; there is no other way to make one. Looking at the proofs takes milliseconds for each
//! blob, so everything else is looked at before.
//!
//! Never turns one form into the other: a sidecar is handed out as it was sent.

use std::sync::Arc;

use alloy_consensus::{
    EthereumTxEnvelope, Signed, Transaction as _, TxEip4844WithSidecar, Typed2718 as _,
};
use alloy_eips::{
    eip2718::{Decodable2718, EIP4844_TX_TYPE_ID, Eip2718Error, Encodable2718},
    eip4844::{Blob, Bytes48, kzg_to_versioned_hash},
    eip7594::{BlobTransactionSidecarVariant, CELLS_PER_EXT_BLOB, MAX_BLOBS_PER_TX_FUSAKA},
};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use preconf_chain::{ChainSpec, InvalidTransaction, MAX_TX_BYTES, Transaction, TxEnvelope};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};

/// The blobs of a transaction, with the proofs that they are what it commits to.
pub type Sidecar = BlobTransactionSidecarVariant;

/// Nothing: what can be computed ahead helps whoever makes proofs.
const PRECOMPUTE: u64 = 0;

type Pooled = EthereumTxEnvelope<TxEip4844WithSidecar<Sidecar>>;

/// What proves a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarForm {
    /// One proof for each blob (EIP-4844).
    BlobProofs,
    /// One proof for each of its cells (EIP-7594).
    CellProofs,
}

impl SidecarForm {
    /// The form that a block of this time wants.
    pub fn at(spec: &ChainSpec, timestamp: u64) -> Self {
        if spec.has_cell_proofs_at(timestamp) { Self::CellProofs } else { Self::BlobProofs }
    }

    /// The form of a sidecar.
    pub const fn of(sidecar: &Sidecar) -> Self {
        match sidecar {
            Sidecar::Eip4844(_) => Self::BlobProofs,
            Sidecar::Eip7594(_) => Self::CellProofs,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::BlobProofs => "one proof for each blob",
            Self::CellProofs => "proofs of its cells",
        }
    }
}

/// Why bytes are not a blob transaction with its blobs.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// It is one without its blobs, as it is in a block.
    #[error("the blob transaction comes without its sidecar")]
    Missing,
    /// The bytes do not decode.
    #[error("decoding the transaction and its sidecar")]
    Decode(#[source] Eip2718Error),
    /// The transaction itself is none.
    #[error("reading the transaction without its sidecar")]
    Transaction(#[source] InvalidTransaction),
    /// There are more or fewer blobs, commitments or proofs than the transaction names.
    #[error("the sidecar has another number of blobs, commitments or proofs than the transaction")]
    Count,
    /// A commitment is not the one that the transaction names.
    #[error("commitment {index} is not that of the transaction")]
    Commitment {
        /// Its index in the transaction.
        index: usize,
    },
    /// The proofs could not be looked at.
    #[error("checking the proofs of the sidecar")]
    Kzg(#[source] c_kzg::Error),
    /// The proofs do not hold.
    #[error("the proofs of the sidecar do not hold")]
    Proof,
}

/// Whether these are the bytes of a blob transaction, with its blobs or without.
pub fn is_blob_transaction(encoded: &[u8]) -> bool {
    encoded.first() == Some(&EIP4844_TX_TYPE_ID)
}

/// A blob transaction whose sidecar names the right commitments, but may prove nothing.
#[derive(Clone, Debug)]
pub struct Unproved {
    transaction: Transaction,
    sidecar: Sidecar,
}

impl Unproved {
    /// Decodes a blob transaction with its sidecar, as it is sent, and recovers who signed it.
    ///
    /// # Errors
    /// If it is none, or the sidecar is not that of the transaction.
    pub fn decode(encoded: &[u8]) -> Result<Self, SidecarError> {
        let pooled = Pooled::decode_2718_exact(encoded).map_err(|error| {
            // In a block it is a list of fields, as it is sent a list that begins with that one.
            let bare = encoded.len() <= MAX_TX_BYTES
                && TxEnvelope::decode_2718_exact(encoded).is_ok_and(|sent| sent.is_eip4844());
            if bare { SidecarError::Missing } else { SidecarError::Decode(error) }
        })?;
        let EthereumTxEnvelope::Eip4844(signed) = pooled else {
            return Err(SidecarError::Decode(Eip2718Error::UnexpectedType(0)));
        };
        let (transaction, signature, hash) = signed.into_parts();
        let (transaction, sidecar) = transaction.into_parts();
        check_commitments(&sidecar, &transaction.blob_versioned_hashes)?;
        let signed = Signed::new_unchecked(transaction, signature, hash);
        let envelope = TxEnvelope::Ethereum(EthereumTxEnvelope::Eip4844(signed));
        let encoded = envelope.encoded_2718().into();
        let transaction = Transaction::decode(encoded).map_err(SidecarError::Transaction)?;
        Ok(Self { transaction, sidecar })
    }

    /// The transaction as it is in a block.
    pub const fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Refuses what no block of this time could hold for its blobs.
    ///
    /// # Errors
    /// If there are none or too many of them, their proofs have the form of another fork, or they
    /// pay less than a blob costs at least.
    pub fn check_blobs(&self, spec: &ChainSpec, timestamp: u64) -> Result<(), TransactionRefusal> {
        let refuse = |reason, detail: String| Err(TransactionRefusal::new(reason, detail));
        let Some(params) = spec.blob_params_at(timestamp) else {
            return refuse(Reason::UnsupportedType, "there are no blobs before Cancun".to_owned());
        };
        let mut most = params.max_blobs_per_tx.min(params.max_blob_count);
        if spec.is_osaka_active_at_timestamp(timestamp) {
            // Whatever the schedule of the genesis says of a block.
            most = most.min(MAX_BLOBS_PER_TX_FUSAKA);
        }
        let envelope = self.transaction.envelope();
        let blobs = envelope.blob_count().unwrap_or_default();
        if blobs == 0 {
            return refuse(
                Reason::Malformed,
                "a blob transaction has at least one blob".to_owned(),
            );
        }
        if blobs > most {
            return refuse(Reason::Oversized, format!("{blobs} blobs, limit {most}"));
        }
        let (form, wanted) = (SidecarForm::of(&self.sidecar), SidecarForm::at(spec, timestamp));
        if form != wanted {
            let (form, wanted) = (form.as_str(), wanted.as_str());
            let detail = format!("the sidecar has {form}, this fork wants {wanted}");
            return refuse(Reason::UnsupportedType, detail);
        }
        let least = spec.blob_base_fee(timestamp, 0).unwrap_or_default();
        let fee = envelope.max_fee_per_blob_gas().unwrap_or_default();
        if fee < least {
            return refuse(Reason::Underpriced, format!("max blob fee {fee}, minimum {least}"));
        }
        Ok(())
    }

    /// Looks at the proofs, which takes a while.
    ///
    /// # Errors
    /// If they do not hold.
    pub fn prove(self) -> Result<Submission, SidecarError> {
        let Self { transaction, sidecar } = self;
        prove(&sidecar)?;
        Ok(Submission { transaction, sidecar: Some(Arc::new(sidecar)) })
    }
}

/// A transaction as it is offered to a pool: with its blobs, proved, if it has any.
#[derive(Clone, Debug)]
pub struct Submission {
    transaction: Transaction,
    sidecar: Option<Arc<Sidecar>>,
}

impl Submission {
    /// The transaction as it is in a block.
    pub const fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// The transaction as it is in a block, and its blobs.
    pub fn into_parts(self) -> (Transaction, Option<Arc<Sidecar>>) {
        (self.transaction, self.sidecar)
    }

    /// One whose proofs nobody has looked at.
    #[cfg(test)]
    pub(crate) fn unproved(transaction: Transaction, sidecar: Sidecar) -> Self {
        Self { transaction, sidecar: Some(Arc::new(sidecar)) }
    }
}

/// Without blobs.
impl From<Transaction> for Submission {
    fn from(transaction: Transaction) -> Self {
        Self { transaction, sidecar: None }
    }
}

/// Looks whether a sidecar proves the blobs that these hashes name, in their order, as a block with
/// them needs it. That takes a while.
///
/// # Errors
/// If it has others, or more or fewer, or its proofs do not hold.
pub fn prove_blobs(sidecar: &Sidecar, versioned_hashes: &[B256]) -> Result<(), SidecarError> {
    check_commitments(sidecar, versioned_hashes)?;
    prove(sidecar)
}

/// Reads the points that proofs are checked with. The first time in a process, that takes seconds,
/// for which the first blobs would wait otherwise.
pub fn load_trusted_setup() {
    c_kzg::ethereum_kzg_settings(PRECOMPUTE);
}

fn prove(sidecar: &Sidecar) -> Result<(), SidecarError> {
    let (blobs, commitments) = (sidecar.blobs(), sidecar.commitments());
    if blobs.is_empty() {
        return Ok(());
    }
    let holds = match sidecar {
        Sidecar::Eip4844(sidecar) => verify_blobs(blobs, commitments, &sidecar.proofs),
        Sidecar::Eip7594(sidecar) => verify_cells(blobs, commitments, &sidecar.cell_proofs),
    };
    if holds.map_err(SidecarError::Kzg)? { Ok(()) } else { Err(SidecarError::Proof) }
}

/// What a sidecar takes in memory.
pub(crate) fn bytes_of(sidecar: &Sidecar) -> usize {
    let proofs = match sidecar {
        Sidecar::Eip4844(sidecar) => sidecar.proofs.len(),
        Sidecar::Eip7594(sidecar) => sidecar.cell_proofs.len(),
    };
    size_of_val(sidecar.blobs())
        + size_of_val(sidecar.commitments())
        + proofs * size_of::<Bytes48>()
}

fn check_commitments(sidecar: &Sidecar, versioned_hashes: &[B256]) -> Result<(), SidecarError> {
    let commitments = sidecar.commitments();
    let (proofs, per_blob) = match sidecar {
        Sidecar::Eip4844(sidecar) => (sidecar.proofs.len(), 1),
        Sidecar::Eip7594(sidecar) => (sidecar.cell_proofs.len(), CELLS_PER_EXT_BLOB),
    };
    let named = versioned_hashes.len();
    if [sidecar.blobs().len(), commitments.len()] != [named; 2] || proofs != named * per_blob {
        return Err(SidecarError::Count);
    }
    let mut pairs = commitments.iter().zip(versioned_hashes);
    match pairs.position(|(commitment, hash)| kzg_to_versioned_hash(commitment.as_slice()) != *hash)
    {
        Some(index) => Err(SidecarError::Commitment { index }),
        None => Ok(()),
    }
}

fn verify_blobs(
    blobs: &[Blob],
    commitments: &[Bytes48],
    proofs: &[Bytes48],
) -> Result<bool, c_kzg::Error> {
    let settings = c_kzg::ethereum_kzg_settings(PRECOMPUTE);
    let (commitments, proofs) = (points(commitments)?, points(proofs)?);
    for ((blob, commitment), proof) in blobs.iter().zip(&commitments).zip(&proofs) {
        if !settings.verify_blob_kzg_proof(&*boxed(blob)?, commitment, proof)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn verify_cells(
    blobs: &[Blob],
    commitments: &[Bytes48],
    proofs: &[Bytes48],
) -> Result<bool, c_kzg::Error> {
    let settings = c_kzg::ethereum_kzg_settings(PRECOMPUTE);
    let mut cells = Vec::with_capacity(proofs.len());
    for blob in blobs {
        cells.extend_from_slice(settings.compute_cells(&*boxed(blob)?)?.as_slice());
    }
    let per_cell = |commitment| std::iter::repeat_n(commitment, CELLS_PER_EXT_BLOB);
    let commitments: Vec<_> = points(commitments)?.into_iter().flat_map(per_cell).collect();
    let indices: Vec<u64> = blobs.iter().flat_map(|_| 0..CELLS_PER_EXT_BLOB as u64).collect();
    settings.verify_cell_kzg_proof_batch(&commitments, &indices, &cells, &points(proofs)?)
}

/// A blob is larger than what a stack should hold twice.
fn boxed(blob: &Blob) -> Result<Box<c_kzg::Blob>, c_kzg::Error> {
    c_kzg::Blob::from_bytes(blob.as_slice()).map(Box::new)
}

fn points(encoded: &[Bytes48]) -> Result<Vec<c_kzg::Bytes48>, c_kzg::Error> {
    encoded.iter().map(|point| c_kzg::Bytes48::from_bytes(point.as_slice())).collect()
}

#[cfg(test)]
mod tests;
