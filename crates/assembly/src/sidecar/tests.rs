use alloy_consensus::{SignableTransaction as _, TxEip4844};
use alloy_eips::eip4844::BlobTransactionSidecar;
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;

use super::*;
use crate::testing::{blob_transfer, infinity, osaka, prague, shanghai, sidecar};

/// As it is sent.
fn pooled(tx: TxEip4844, sidecar: Sidecar) -> Vec<u8> {
    let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap();
    let signature = signer.sign_hash_sync(&tx.signature_hash()).unwrap();
    let whole = TxEip4844WithSidecar { tx, sidecar };
    EthereumTxEnvelope::Eip4844(whole.into_signed(signature)).encoded_2718()
}

fn zeros(form: SidecarForm, blobs: usize) -> Unproved {
    Unproved::decode(&pooled(blob_transfer(0, blobs), sidecar(form, blobs))).unwrap()
}

#[test]
fn blobs_of_either_form_are_proved_and_the_transaction_is_that_of_the_block() {
    for form in [SidecarForm::BlobProofs, SidecarForm::CellProofs] {
        let (transaction, sidecar) = zeros(form, 1).prove().unwrap().into_parts();
        assert_eq!(sidecar.map(|sidecar| SidecarForm::of(&sidecar)), Some(form));
        let again = Transaction::decode(transaction.encoded().clone()).unwrap();
        assert_eq!((again.hash(), again.signer()), (transaction.hash(), transaction.signer()));
    }
}

#[test]
fn proofs_of_other_blobs_do_not_hold() {
    for form in [SidecarForm::BlobProofs, SidecarForm::CellProofs] {
        let mut unproved = zeros(form, 1);
        match &mut unproved.sidecar {
            Sidecar::Eip4844(sidecar) => sidecar.blobs[0][31] = 1,
            Sidecar::Eip7594(sidecar) => sidecar.blobs[0][31] = 1,
        }
        assert!(matches!(unproved.prove(), Err(SidecarError::Proof)), "{form:?}");
    }
}

#[test]
fn a_sidecar_of_another_transaction_is_not_decoded() {
    let form = SidecarForm::BlobProofs;
    for blobs in [0, 2] {
        let encoded = pooled(blob_transfer(0, 1), sidecar(form, blobs));
        assert!(matches!(Unproved::decode(&encoded), Err(SidecarError::Count)), "{blobs}");
    }
    let mut foreign = infinity();
    foreign[47] = 1;
    let (blobs, proofs) = (sidecar(form, 1).into_blobs(), vec![infinity()]);
    let other = BlobTransactionSidecar { blobs, commitments: vec![foreign], proofs };
    let decoded = Unproved::decode(&pooled(blob_transfer(0, 1), other.into()));
    assert!(matches!(decoded, Err(SidecarError::Commitment { index: 0 })));
}

#[test]
fn without_its_blobs_it_is_told_apart_from_what_does_not_decode() {
    let bare = zeros(SidecarForm::BlobProofs, 1).transaction.encoded().clone();
    assert!(is_blob_transaction(&bare));
    assert!(matches!(Unproved::decode(&bare), Err(SidecarError::Missing)));
    for broken in [&bare[..bare.len() - 1], &bare[..1], &[]] {
        assert!(matches!(Unproved::decode(broken), Err(SidecarError::Decode(_))));
    }
}

#[test]
fn only_what_a_block_of_the_fork_could_hold_is_taken() {
    use SidecarForm::{BlobProofs, CellProofs};
    let check = |spec: &ChainSpec, form, blobs| {
        let checked = zeros(form, blobs).check_blobs(spec, 1);
        checked.map_err(|refusal| refusal.reason)
    };
    assert_eq!(check(&shanghai(), BlobProofs, 1), Err(Reason::UnsupportedType));
    assert_eq!(check(&prague(), BlobProofs, 9), Ok(()));
    assert_eq!(check(&prague(), BlobProofs, 10), Err(Reason::Oversized));
    assert_eq!(check(&prague(), BlobProofs, 0), Err(Reason::Malformed));
    assert_eq!(check(&prague(), CellProofs, 1), Err(Reason::UnsupportedType));
    assert_eq!(check(&osaka(), CellProofs, 6), Ok(()));
    assert_eq!(check(&osaka(), CellProofs, 7), Err(Reason::Oversized));
    assert_eq!(check(&osaka(), BlobProofs, 1), Err(Reason::UnsupportedType));

    let unpaid = TxEip4844 { max_fee_per_blob_gas: 0, ..blob_transfer(0, 1) };
    let unpaid = Unproved::decode(&pooled(unpaid, sidecar(BlobProofs, 1))).unwrap();
    assert_eq!(unpaid.check_blobs(&prague(), 1).unwrap_err().reason, Reason::Underpriced);
}
