//! Blob transactions, which come with their blobs and go into a block without them.
//!
//! Decides whether a sidecar proves what its transaction commits to, and keeps both while they
//! wait. Bounds: [`MAX_WAITING`] transactions wait, in order of arrival of their senders' nonces; a
//! further one is refused. A transaction that a reorg sets free is not taken back: its blobs are
//! gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::{EthereumTxEnvelope, Signed, TxEip4844WithSidecar};
use alloy_eips::eip2718::{Decodable2718, EIP4844_TX_TYPE_ID, Eip2718Error, Encodable2718};
use alloy_eips::eip4844::{Blob, Bytes48, kzg_to_versioned_hash};
use alloy_eips::eip7594::{BlobTransactionSidecarVariant, CELLS_PER_EXT_BLOB};
use alloy_primitives::{Address, B256};
use preconf_chain::{InvalidTransaction, Transaction, TxEnvelope};

/// The most blob transactions that wait: each may bring a megabyte.
const MAX_WAITING: usize = 64;

/// The blobs of a transaction, with the proofs that they are what it commits to.
pub type Sidecar = BlobTransactionSidecarVariant;

type Pooled = EthereumTxEnvelope<TxEip4844WithSidecar<Sidecar>>;

/// Why bytes are not a blob transaction with its blobs.
#[derive(Debug, thiserror::Error)]
pub enum BlobSidecarError {
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

/// Whether these are the bytes of a blob transaction; [`decode`] says whether they are good.
pub(crate) fn is_blob_transaction(encoded: &[u8]) -> bool {
    encoded.first() == Some(&EIP4844_TX_TYPE_ID)
}

/// Decodes a blob transaction with its sidecar, and checks the one against the other.
pub(crate) fn decode(encoded: &[u8]) -> Result<(Transaction, Sidecar), BlobSidecarError> {
    let pooled = Pooled::decode_2718_exact(encoded).map_err(BlobSidecarError::Decode)?;
    let EthereumTxEnvelope::Eip4844(signed) = pooled else {
        return Err(BlobSidecarError::Decode(Eip2718Error::UnexpectedType(0)));
    };
    let (transaction, signature, hash) = signed.into_parts();
    let (transaction, sidecar) = transaction.into_parts();
    check(&sidecar, &transaction.blob_versioned_hashes)?;
    let envelope = EthereumTxEnvelope::Eip4844(Signed::new_unchecked(transaction, signature, hash));
    let encoded = TxEnvelope::Ethereum(envelope).encoded_2718();
    let transaction = Transaction::decode(encoded.into()).map_err(BlobSidecarError::Transaction)?;
    Ok((transaction, sidecar))
}

fn check(sidecar: &Sidecar, versioned_hashes: &[B256]) -> Result<(), BlobSidecarError> {
    let blobs = sidecar.blobs();
    let commitments = sidecar.commitments();
    let (proofs, per_blob) = match sidecar {
        Sidecar::Eip4844(sidecar) => (&sidecar.proofs, 1),
        Sidecar::Eip7594(sidecar) => (&sidecar.cell_proofs, CELLS_PER_EXT_BLOB),
    };
    let named = versioned_hashes.len();
    if [blobs.len(), commitments.len()] != [named; 2] || proofs.len() != named * per_blob {
        return Err(BlobSidecarError::Count);
    }
    let wrong = commitments
        .iter()
        .zip(versioned_hashes)
        .position(|(commitment, hash)| kzg_to_versioned_hash(commitment.as_slice()) != *hash);
    if let Some(index) = wrong {
        return Err(BlobSidecarError::Commitment { index });
    }
    let holds = match sidecar {
        Sidecar::Eip4844(_) => verify_blobs(blobs, commitments, proofs),
        Sidecar::Eip7594(_) => verify_cells(blobs, commitments, proofs),
    };
    if holds.map_err(BlobSidecarError::Kzg)? { Ok(()) } else { Err(BlobSidecarError::Proof) }
}

fn verify_blobs(
    blobs: &[Blob],
    commitments: &[Bytes48],
    proofs: &[Bytes48],
) -> Result<bool, c_kzg::Error> {
    let settings = c_kzg::ethereum_kzg_settings(0);
    let (commitments, proofs) = (fields(commitments)?, fields(proofs)?);
    for ((blob, commitment), proof) in blobs.iter().zip(&commitments).zip(&proofs) {
        let blob = boxed(blob)?;
        if !settings.verify_blob_kzg_proof(&blob, commitment, proof)? {
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
    let settings = c_kzg::ethereum_kzg_settings(0);
    let mut cells = Vec::with_capacity(proofs.len());
    for blob in blobs {
        let blob = boxed(blob)?;
        cells.extend_from_slice(settings.compute_cells(&blob)?.as_slice());
    }
    let per_cell = |commitment| std::iter::repeat_n(commitment, CELLS_PER_EXT_BLOB);
    let commitments: Vec<_> = fields(commitments)?.into_iter().flat_map(per_cell).collect();
    let indices: Vec<u64> = blobs.iter().flat_map(|_| 0..CELLS_PER_EXT_BLOB as u64).collect();
    settings.verify_cell_kzg_proof_batch(&commitments, &indices, &cells, &fields(proofs)?)
}

/// A blob is larger than what a stack should hold twice.
fn boxed(blob: &Blob) -> Result<Box<c_kzg::Blob>, c_kzg::Error> {
    c_kzg::Blob::from_bytes(blob.as_slice()).map(Box::new)
}

fn fields(points: &[Bytes48]) -> Result<Vec<c_kzg::Bytes48>, c_kzg::Error> {
    points.iter().map(|point| c_kzg::Bytes48::from_bytes(point.as_slice())).collect()
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

    pub(crate) fn insert(&mut self, place: (Address, u64), transaction: Transaction, s: Sidecar) {
        self.waiting.insert(place, (transaction, Arc::new(s)));
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

    /// A canonical block has used `nonce` of `sender`.
    pub(crate) fn mined(&mut self, sender: &Address, nonce: u64) {
        self.waiting.retain(|(other, waiting), _| other != sender || *waiting > nonce);
    }
}
