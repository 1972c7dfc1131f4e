//! A builder that is killed in the middle of a block: started again, or replaced by another one.

use alloy_rpc_types_engine::{ExecutionPayloadEnvelopeV4, PayloadStatusEnum};
use preconf_wire::feed::FeedItem;
use tokio::time::{Instant, timeout};

use crate::system::{DEADLINE, LEASE, System, attributes};

/// Preconfirms transactions with these nonces, each in a flashblock of its own.
async fn preconfirm(
    system: &mut System,
    nonces: std::ops::Range<u64>,
) -> Vec<alloy_primitives::Bytes> {
    let mut preconfirmed = Vec::new();
    for nonce in nonces {
        let transaction = system.transfer(0, nonce);
        system.submit(&transaction).await.unwrap();
        system.until_preconfirmed(1).await;
        preconfirmed.push(transaction.encoded().clone());
    }
    preconfirmed
}

fn transactions(envelope: &ExecutionPayloadEnvelopeV4) -> &[alloy_primitives::Bytes] {
    &envelope.envelope_inner.execution_payload.payload_inner.payload_inner.transactions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_is_killed_and_started_again_goes_on_with_its_block() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let preconfirmed = preconfirm(&mut system, 0..3).await;
    let last = system.last_digest();
    system.restart_builder().await;

    let first = loop {
        let flashblock = system.flashblock().await;
        if flashblock.index() == 0 && !flashblock.transactions().is_empty() {
            break flashblock;
        }
    };
    assert_eq!(first.transactions(), preconfirmed);
    assert!(last.is_some());
    let more = preconfirm(&mut system, 3..4).await;
    // The consensus client knows nothing of this, and asks for what it has ordered.
    let envelope = system.payload(id).await;
    assert_eq!(transactions(&envelope), [preconfirmed, more].concat());
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_canonical_while_the_builder_was_down_is_not_promised_again() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    preconfirm(&mut system, 0..2).await;
    let envelope = system.payload(id).await;
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    system.advance(payload.block_hash).await;
    system.restart_builder().await;
    let id = system.build(attributes(4)).await.unwrap();
    let more = preconfirm(&mut system, 2..3).await;
    let envelope = system.payload(id).await;
    assert_eq!(transactions(&envelope), more);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_in_the_middle_of_a_block() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let standby = system.start_standby().await;
    let not_ready = async {
        while standby.context.health.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, not_ready).await.unwrap();
    let preconfirmed = preconfirm(&mut system, 0..3).await;
    let before = system.last_digest();
    let killed = Instant::now();
    system.fail_over().await;

    let first = system.flashblock().await;
    println!("published {:?} after the kill; a lease lasts {LEASE:?}", killed.elapsed());
    assert_eq!(first.index(), 0);
    assert_eq!(first.transactions(), preconfirmed);
    // Nothing that was signed before is missing on the feed.
    assert_eq!(Some(first.parent_digest()), before);
    let more = preconfirm(&mut system, 3..4).await;
    let envelope = system.payload(id).await;
    assert_eq!(transactions(&envelope), [preconfirmed, more].concat());
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let sealed = loop {
        if let FeedItem::Sealed(sealed) = system.item().await {
            break sealed.statement;
        }
    };
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(sealed.block_hash, payload.block_hash);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_hands_out_the_block_that_the_other_builder_had_preconfirmed() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    system.start_standby().await;
    let preconfirmed = preconfirm(&mut system, 0..2).await;
    // The proposer asks before the lease has run out.
    system.fail_over().await;
    let envelope = system.payload(id).await;
    assert_eq!(transactions(&envelope), preconfirmed);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_does_not_wait_for_the_lease_of_a_builder_that_was_told_to_stop() {
    // Longer than anything is waited for here.
    let mut system = System::start_flagged(&["--lease-ms", "60000"]).await;
    let id = system.build(attributes(2)).await.unwrap();
    system.start_standby().await;
    let preconfirmed = preconfirm(&mut system, 0..2).await;
    system.stop_builder().await;
    system.fail_over().await;

    let first = system.flashblock().await;
    assert_eq!(first.transactions(), preconfirmed);
    let envelope = system.payload(id).await;
    assert_eq!(transactions(&envelope), preconfirmed);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}
