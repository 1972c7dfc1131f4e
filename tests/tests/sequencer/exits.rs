//! The ways a build can go, a test for each row of the table in `docs/builds.md`: what it is counted
//! as, what readers of the feed are told, and what the consensus client gets. Those that no real
//! client can be brought to are in the builder's own tests: a block that is too long, one that fails
//! or is not opened or not sealed, and one that was followed.

use alloy_primitives::B256;
use alloy_rpc_types_engine::{PayloadId, PayloadStatusEnum};
use preconf_primitives::AbandonReason;

use crate::system::{DEADLINE, System, attributes, forkchoice};

/// A system whose builder builds block 1, with one transaction preconfirmed.
async fn building() -> (System, PayloadId) {
    building_with(&[]).await
}

async fn building_with(flags: &[&str]) -> (System, PayloadId) {
    let mut system = System::start_flagged(flags).await;
    let id = system.build(attributes(2)).await.unwrap();
    system.submit(&system.transfer(0, 0)).await.unwrap();
    system.until_preconfirmed(1).await;
    (system, id)
}

/// How many transactions the block that is handed out has, which the execution client calls VALID.
async fn handed_out(system: &System, id: PayloadId) -> usize {
    let envelope = system.payload(id).await;
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let payload = envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    payload.transactions.len()
}

/// The build was given up for this reason, is counted so, and nothing more of it is published.
async fn is_abandoned(system: &mut System, reason: AbandonReason) {
    assert_eq!(system.session_end().await, Some(reason));
    system.until_ended(reason.as_str()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_payload_completes_the_session() {
    let (mut system, id) = building().await;
    assert_eq!(handed_out(&system, id).await, 1);
    assert_eq!(system.session_end().await, None);
    system.until_ended("sealed_on_request").await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_completes_the_session_and_the_block_can_be_asked_for_later() {
    let (mut system, id) = building_with(&["--builder.deadline", "1"]).await;
    assert_eq!(system.session_end().await, None);
    system.until_ended("sealed_at_deadline").await;
    assert_eq!(handed_out(&system, id).await, 1);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gas_limit_completes_the_session() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    for transaction in [system.burner(0, 30_000_000), system.transfer(0, 1)] {
        system.submit(&transaction).await.unwrap();
    }
    assert_eq!(system.session_end().await, None);
    system.until_ended("sealed_at_gas_limit").await;
    assert_eq!(handed_out(&system, id).await, 2);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_last_flashblock_cannot_be_signed_is_handed_out_and_not_counted_as_sealed() {
    // Nothing is to be signed, not even for the lease, between the first flashblock and the last.
    let flags = ["--flashblock-interval-ms", "60000", "--lease-ms", "60000"];
    let mut system = System::start_flagged(&flags).await;
    let id = system.build(attributes(2)).await.unwrap();
    system.flashblock().await;
    system.stop_signer().await;
    for transaction in [system.burner(0, 30_000_000), system.transfer(0, 1)] {
        system.submit(&transaction).await.unwrap();
    }
    system.until_ended(AbandonReason::SignerUnavailable.as_str()).await;
    assert_eq!(handed_out(&system, id).await, 2);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_is_started_again_goes_on_with_the_open_session() {
    // Nothing is to be signed, not even for the lease, while it is gone.
    let flags = ["--flashblock-interval-ms", "60000", "--lease-ms", "60000"];
    let mut system = System::start_flagged(&flags).await;
    let id = system.build(attributes(2)).await.unwrap();
    system.flashblock().await;
    system.stop_signer().await;
    system.start_signer().await;
    for transaction in [system.burner(0, 30_000_000), system.transfer(0, 1)] {
        system.submit(&transaction).await.unwrap();
    }
    assert_eq!(system.session_end().await, None);
    system.until_ended("sealed_at_gas_limit").await;
    assert_eq!(handed_out(&system, id).await, 2);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_head_abandons_the_session() {
    let (mut system, id) = building().await;
    let envelope = system.payload(id).await;
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(system.session_end().await, None);
    // Another block on the genesis is being built when this one becomes the head.
    system.build(attributes(3)).await.unwrap();
    system.flashblock().await;
    system.advance(payload.block_hash).await;
    assert_eq!(system.session_end().await, Some(AbandonReason::HeadChanged));
    assert_eq!(system.ended("head_changed"), (1, 1));
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_attributes_abandon_the_session() {
    let (mut system, _) = building().await;
    let other = system.build(attributes(3)).await.unwrap();
    is_abandoned(&mut system, AbandonReason::AttributesChanged).await;
    assert_eq!(handed_out(&system, other).await, 1);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_the_execution_client_does_not_know_abandons_the_session() {
    let (mut system, _) = building().await;
    let unknown = forkchoice(B256::repeat_byte(0x77));
    let answer = system.engine.fork_choice_updated_v3(unknown, None, DEADLINE).await.unwrap();
    assert_eq!(answer.payload_status.status, PayloadStatusEnum::Syncing);
    is_abandoned(&mut system, AbandonReason::HeadNotValid).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_is_told_to_stop_abandons_the_session() {
    let (mut system, _) = building().await;
    system.stop_builder().await;
    is_abandoned(&mut system, AbandonReason::Shutdown).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_signer_the_build_ends_and_the_chain_gets_the_execution_clients_block() {
    let (mut system, id) = building().await;
    system.stop_signer().await;
    system.until_ended(AbandonReason::SignerUnavailable.as_str()).await;
    // What the builder took, the client has as well.
    assert_eq!(handed_out(&system, id).await, 1);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_lease_the_build_ends_and_the_chain_gets_the_execution_clients_block() {
    let (system, id) = building().await;
    system.steal_lease().await;
    system.until_ended(AbandonReason::LeaseLost.as_str()).await;
    assert_eq!(handed_out(&system, id).await, 1);
    system.stop().await;
}
