//! Transactions with blobs: preconfirmed without them, handed out with them.

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip4844, TxEip4844WithSidecar};
use alloy_eips::{
    eip2718::Encodable2718,
    eip4844::{Blob, BlobTransactionSidecar, Bytes48, kzg_to_versioned_hash},
    eip7594::{
        BlobTransactionSidecarEip7594, BlobTransactionSidecarVariant as Sidecar, CELLS_PER_EXT_BLOB,
    },
};
use alloy_primitives::{Address, Bytes};
use alloy_rpc_types_engine::PayloadStatusEnum;
use alloy_signer::SignerSync;
use preconf_primitives::{RetractionCause, TransactionRefusalReason as Reason};
use preconf_wire::{feed::FeedItem, ingress::IngressError};

use crate::system::{CHAIN_ID, DEADLINE, System, attributes, wallet};

/// The point at infinity: what a blob of zeros is committed to and proved with.
fn infinity() -> Bytes48 {
    let mut point = Bytes48::ZERO;
    point[0] = 0xc0;
    point
}

fn with_proofs(blobs: usize) -> Sidecar {
    let (commitments, proofs) = (vec![infinity(); blobs], vec![infinity(); blobs]);
    BlobTransactionSidecar { blobs: vec![Blob::ZERO; blobs], commitments, proofs }.into()
}

fn with_cell_proofs(blobs: usize) -> Sidecar {
    let (commitments, proofs) =
        (vec![infinity(); blobs], vec![infinity(); blobs * CELLS_PER_EXT_BLOB]);
    BlobTransactionSidecarEip7594::new(vec![Blob::ZERO; blobs], commitments, proofs).into()
}

fn unsigned(nonce: u64, blobs: usize) -> TxEip4844 {
    let gwei = 1_000_000_000;
    TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 20 * gwei,
        max_priority_fee_per_gas: gwei,
        max_fee_per_blob_gas: gwei,
        to: Address::repeat_byte(0xaa),
        blob_versioned_hashes: vec![kzg_to_versioned_hash(infinity().as_slice()); blobs],
        ..TxEip4844::default()
    }
}

/// A transaction with blobs, as it is sent.
pub(crate) fn blob_transaction(nonce: u64, blobs: usize) -> Bytes {
    sent(unsigned(nonce, blobs), with_proofs(blobs)).0
}

/// A transaction as it is sent, and as it is in a block.
fn sent(tx: TxEip4844, sidecar: Sidecar) -> (Bytes, Bytes) {
    let signature = wallet(0).sign_hash_sync(&tx.signature_hash()).unwrap();
    let bare = EthereumTxEnvelope::<TxEip4844>::from(tx.clone().into_signed(signature));
    let whole = TxEip4844WithSidecar { tx, sidecar }.into_signed(signature);
    let whole = EthereumTxEnvelope::Eip4844(whole);
    (whole.encoded_2718().into(), bare.encoded_2718().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_transaction_is_preconfirmed_and_the_block_comes_with_its_blobs() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let (first, first_bare) = sent(unsigned(0, 9), with_proofs(9));
    system.ingress.submit(first).await.unwrap();
    system.until_preconfirmed(1).await;
    // There is no room for its blobs, but for others after it.
    let (second, second_bare) = sent(unsigned(1, 1), with_proofs(1));
    system.ingress.submit(second).await.unwrap();

    let envelope = system.payload(id).await;
    let bundle = &envelope.envelope_inner.blobs_bundle;
    let lengths = [bundle.blobs.len(), bundle.commitments.len(), bundle.proofs.len()];
    assert_eq!(lengths, [9; 3]);
    let payload = &envelope.envelope_inner.execution_payload;
    assert_eq!(payload.payload_inner.payload_inner.transactions, [first_bare]);
    assert_eq!(payload.blob_gas_used, 9 * 131_072);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.payload_inner.payload_inner.block_hash).await;

    let id = system.build(attributes(4)).await.unwrap();
    system.until_preconfirmed(1).await;
    let envelope = system.payload(id).await;
    assert_eq!(envelope.envelope_inner.blobs_bundle.blobs.len(), 1);
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.transactions, [second_bare]);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_osaka_the_blobs_come_with_the_proofs_of_their_cells() {
    let mut system = System::start_on_osaka().await;
    let id = system.build(attributes(2)).await.unwrap();
    let (whole, bare) = sent(unsigned(0, 2), with_cell_proofs(2));
    system.ingress.submit(whole).await.unwrap();
    system.until_preconfirmed(1).await;

    let envelope = system.engine.get_payload_v5(id, DEADLINE).await.unwrap();
    let bundle = &envelope.blobs_bundle;
    assert_eq!((bundle.blobs.len(), bundle.commitments.len()), (2, 2));
    assert_eq!(bundle.proofs.len(), 2 * CELLS_PER_EXT_BLOB);
    let payload = &envelope.execution_payload;
    assert_eq!(payload.payload_inner.payload_inner.transactions, [bare]);
    let status = system.validate(payload, &envelope.execution_requests).await;
    assert_eq!(status.status, PayloadStatusEnum::Valid);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_transaction_that_cannot_be_taken_is_refused_with_its_reason() {
    let (prague, osaka) = (System::start().await, System::start_on_osaka().await);
    let (_, bare) = sent(unsigned(0, 1), with_proofs(1));
    let (mut unproved, mut foreign) = (with_proofs(1), with_proofs(1));
    if let (Sidecar::Eip4844(unproved), Sidecar::Eip4844(foreign)) = (&mut unproved, &mut foreign) {
        unproved.blobs[0][31] = 1;
        foreign.commitments[0][47] = 1;
    }
    let whole = |tx, sidecar| sent(tx, sidecar).0;
    let unpaid = TxEip4844 { max_fee_per_blob_gas: 0, ..unsigned(0, 1) };
    let poor = TxEip4844 { max_fee_per_blob_gas: 1_000_000_000_000_000, ..unsigned(0, 1) };
    for (system, encoded, reason, detail) in [
        (&prague, bare, Reason::UnsupportedType, "comes without its sidecar"),
        (&prague, vec![3, 1, 2].into(), Reason::Malformed, "decoding"),
        (&prague, whole(unsigned(0, 1), with_proofs(2)), Reason::Malformed, "another number"),
        (&prague, whole(unsigned(0, 1), foreign), Reason::Malformed, "commitment 0"),
        (&prague, whole(unsigned(0, 1), unproved), Reason::Malformed, "do not hold"),
        (&prague, whole(unsigned(0, 10), with_proofs(10)), Reason::Oversized, "limit 9"),
        (&osaka, whole(unsigned(0, 7), with_cell_proofs(7)), Reason::Oversized, "limit 6"),
        (&prague, whole(unpaid, with_proofs(1)), Reason::Underpriced, "max blob fee 0"),
        (&prague, whole(poor, with_proofs(1)), Reason::InsufficientFunds, "want"),
        (
            &prague,
            whole(unsigned(0, 1), with_cell_proofs(1)),
            Reason::UnsupportedType,
            "this fork wants one proof for each blob",
        ),
        (
            &osaka,
            whole(unsigned(0, 1), with_proofs(1)),
            Reason::UnsupportedType,
            "this fork wants proofs of its cells",
        ),
    ] {
        match system.ingress.submit(encoded).await {
            Err(IngressError::Refused(refusal)) => {
                assert_eq!(refusal.reason, reason, "{refusal}");
                assert!(refusal.detail.contains(detail), "{refusal}");
            }
            other => panic!("{detail}: {other:?}"),
        }
    }
    prague.stop().await;
    osaka.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_whose_blobs_were_lost_with_the_builder_is_taken_back() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let plain = system.transfer(0, 0);
    system.submit(&plain).await.unwrap();
    system.until_preconfirmed(1).await;
    system.ingress.submit(sent(unsigned(1, 1), with_proofs(1)).0).await.unwrap();
    system.until_preconfirmed(1).await;
    system.restart_builder().await;

    let retracted = loop {
        if let FeedItem::Retracted(retracted) = system.item().await {
            break retracted.statement;
        }
    };
    let causes: Vec<_> = retracted.retractions.iter().map(|retraction| retraction.cause).collect();
    assert_eq!(causes, [RetractionCause::NoLongerValid]);
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.transactions, [plain.encoded().clone()]);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}
