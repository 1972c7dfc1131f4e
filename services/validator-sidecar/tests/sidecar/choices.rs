//! When the sequencer's block is proposed, and whom it is asked of.

use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip4844, TxEip4844WithSidecar};
use alloy_eips::{
    eip2718::Encodable2718,
    eip4844::{Blob, BlobTransactionSidecar, Bytes48, kzg_to_versioned_hash},
    eip7594::BlobTransactionSidecarVariant,
};
use alloy_primitives::{Address, B256, Bytes};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::ProposerPublicKey;

use crate::{
    sequencer::{Answer, Sequencer},
    world::{CHAIN_ID, World},
};

/// No test of a good payload depends on how fast this machine is.
const PATIENT: [&str; 2] = ["--fetch-budget-ms", "10000"];

pub(crate) fn wallet() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()
}

/// A transaction with a blob of zeros, as it is sent: both its commitment and its proof are the
/// point at infinity.
fn blob_transaction() -> Bytes {
    let mut infinity = Bytes48::ZERO;
    infinity[0] = 0xc0;
    let gwei = 1_000_000_000;
    let tx = TxEip4844 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: 20 * gwei,
        max_priority_fee_per_gas: gwei,
        max_fee_per_blob_gas: gwei,
        to: Address::repeat_byte(0xaa),
        blob_versioned_hashes: vec![kzg_to_versioned_hash(infinity.as_slice())],
        ..TxEip4844::default()
    };
    let sidecar: BlobTransactionSidecarVariant = BlobTransactionSidecar {
        blobs: vec![Blob::ZERO],
        commitments: vec![infinity],
        proofs: vec![infinity],
    }
    .into();
    let signature = wallet().sign_hash_sync(&tx.signature_hash()).unwrap();
    let signed = TxEip4844WithSidecar { tx, sidecar }.into_signed(signature);
    EthereumTxEnvelope::Eip4844(signed).encoded_2718().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preconfirmed_block_is_proposed() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
    assert!(world.propose(&sidecar).await);
    assert_eq!(sequencer.asked(), 1);
    assert!(world.propose(&sidecar).await, "asked again it is the same");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_later_than_expected_is_in_time() {
    let world = World::start().await;
    let mut attributes = world.attributes.clone();
    attributes.timestamp += 1;
    let good = world.built(&attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
    assert!(world.propose(&sidecar).await);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_berachain_the_block_is_that_after_the_right_proposer() {
    let world = World::on_berachain().await;
    let good = world.built(&world.attributes).await.to_json();
    let other = world.built_after(&world.attributes, ProposerPublicKey::repeat_byte(1)).await;
    for (answer, is_theirs) in [(good, true), (other.to_json(), false)] {
        let sequencer = Sequencer::start(Answer::ok(answer)).await;
        let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
        assert_eq!(world.propose(&sidecar).await, is_theirs);
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_proposed_with_their_proofs_and_not_without() {
    let world = World::start().await;
    world.send(&blob_transaction());
    let good = world.built(&world.attributes).await;
    assert_eq!(good.blobs_bundle.blobs.len(), 1);
    let changed = |change: fn(&mut preconf_payload_api::BlobsBundle)| {
        let mut changed = good.clone();
        change(&mut changed.blobs_bundle);
        changed
    };
    let cases = [
        (good.clone(), true),
        (changed(|bundle| bundle.blobs[0][31] = 1), false),
        (changed(|bundle| bundle.proofs[0] = Bytes48::ZERO), false),
        (changed(|bundle| bundle.commitments[0][47] = 1), false),
        (changed(|bundle| bundle.proofs.clear()), false),
        (changed(|bundle| *bundle = Default::default()), false),
    ];
    for (at, (answer, is_theirs)) in cases.into_iter().enumerate() {
        let sequencer = Sequencer::start(Answer::ok(answer.to_json())).await;
        let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
        assert_eq!(world.propose(&sidecar).await, is_theirs, "{at}");
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_asked_if_the_first_is_silent_or_wrong_or_gone() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    for answer in [Answer::Silence, Answer::ok("{}"), Answer::HangUp, Answer::refusal("403 Nope")] {
        let first = Sequencer::start(answer.clone()).await;
        let second = Sequencer::start(Answer::ok(&good)).await;
        let sidecar = world.sidecar(&[first.url(), second.url()], &PATIENT).await;
        assert!(world.propose(&sidecar).await, "{answer:?}");
        assert_eq!((first.asked(), second.asked()), (1, 1), "{answer:?}");
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_swallow_everything_do_not_shut_out_the_one_that_answers() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let good = Sequencer::start(Answer::ok(good)).await;
    let silent = [Sequencer::start(Answer::Silence).await, Sequencer::start(Answer::Silence).await];
    let urls = [silent[0].url(), silent[1].url(), good.url()];
    // Within the default budget, which a busy machine may spend otherwise. Each sidecar is a new one:
    // nobody is left alone yet.
    for _ in 0..10 {
        let sidecar = world.sidecar(&urls, &[]).await;
        let is_theirs = world.propose(&sidecar).await;
        assert_eq!(sidecar.metric("sequencers_lost"), 0.0);
        sidecar.stop().await;
        if is_theirs {
            return;
        }
    }
    panic!("the third was asked {} times", good.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_answer_is_soon_not_asked_any_more() {
    let world = World::start().await;
    let sequencer = Sequencer::start(Answer::HangUp).await;
    let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
    for _ in 0..2 {
        assert!(!world.propose(&sidecar).await);
    }
    let before = sequencer.asked();
    assert!(before >= 3, "{before}");
    assert!(!world.propose(&sidecar).await);
    // One that finds out whether it is back, if that took longer than the first pause.
    assert!(sequencer.asked() <= before + 1);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fees_go_to_whom_they_may_go() {
    let world = World::start().await;
    let mut attributes = world.attributes.clone();
    attributes.suggested_fee_recipient = Address::repeat_byte(0x5e);
    let good = world.built(&attributes).await.to_json();
    let theirs = attributes.suggested_fee_recipient.to_string();
    for (policy, is_theirs) in [("any", true), ("own", false), (&*theirs, true)] {
        let sequencer = Sequencer::start(Answer::ok(&good)).await;
        let flags = [PATIENT[0], PATIENT[1], "--fee-recipient", policy];
        let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
        assert_eq!(world.propose(&sidecar).await, is_theirs, "{policy}");
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_passthrough_nobody_is_asked() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::ok(good)).await;
    let sidecar = world.sidecar(&[sequencer.url()], &["--passthrough"]).await;
    assert!(!world.propose(&sidecar).await);
    assert_eq!(sequencer.asked(), 0);
    sidecar.stop().await;
}
