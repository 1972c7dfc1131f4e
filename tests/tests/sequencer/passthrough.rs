//! The off switch: what was being built is given up aloud, and the chain goes on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use alloy_rpc_types_engine::PayloadStatusEnum;
use preconf_chassis::{Security, channel};
use preconf_primitives::AbandonReason;
use preconf_wire::admin::AdminClient;
use tokio::{sync::watch, time::Instant};

use crate::system::{DEADLINE, System, attributes};

#[tokio::test(flavor = "multi_thread")]
async fn in_passthrough_the_chain_gets_the_clients_blocks_and_afterwards_ours() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    // What the builder takes stays with it: so it alone has to keep what it promised.
    let flags = ["--admin-listen", &admin, "--txpool.private"];
    let mut system = System::start_flagged(&flags).await;
    let channel = channel(&admin.parse().unwrap(), &Security::default()).unwrap();
    let operator = AdminClient::new(channel, DEADLINE);

    let id = system.build(attributes(2)).await.unwrap();
    let transaction = system.transfer(0, 0);
    system.submit(&transaction).await.unwrap();
    system.until_preconfirmed(1).await;
    let status = operator.set_passthrough(true, "an upgrade").await.unwrap();
    assert_eq!(status.passthrough.unwrap().reason, "an upgrade");
    assert_eq!(system.session_end().await, Some(AbandonReason::Passthrough));
    system.until_ended(AbandonReason::Passthrough.as_str()).await;

    // The id was handed out before.
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    // Only the execution client's own blocks say so.
    assert_eq!(payload.extra_data.as_ref(), b"preconf devnet");
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.block_hash).await;
    let theirs = system.build(attributes(4)).await.unwrap();
    let envelope = system.payload(theirs).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!((payload.block_number, payload.extra_data.as_ref()), (2, &b"preconf devnet"[..]));
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.block_hash).await;
    // No build has begun meanwhile.
    assert_eq!(system.ended(AbandonReason::Passthrough.as_str()), (1, 0));

    let status = operator.set_passthrough(false, "").await.unwrap();
    assert_eq!(status.passthrough, None);
    let id = system.build(attributes(6)).await.unwrap();
    // The first flashblock after it keeps what had been promised.
    let first = system.flashblock().await;
    assert_eq!(first.opening().unwrap().base.block_number, 3);
    assert_eq!(first.transactions(), [transaction.encoded().clone()]);
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.transactions, [transaction.encoded().clone()]);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}

/// Builds a block on the head and makes it the head; any error ends the test, as it would hold up a
/// consensus client. Whether the block is the builder's.
async fn play(system: &System, number: u64, steps: &watch::Sender<u64>) -> bool {
    let id = system.build(attributes(2 * number)).await.expect("a block is being built");
    steps.send_modify(|steps| *steps += 1);
    let envelope = system.payload(id).await;
    steps.send_modify(|steps| *steps += 1);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.block_number, number);
    system.advance(payload.block_hash).await;
    steps.send_modify(|steps| *steps += 1);
    // Only the execution client's own blocks say so.
    payload.extra_data.as_ref() != b"preconf devnet"
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_under_load_is_no_error_to_the_consensus_client() {
    const BLOCKS: u64 = 12;
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let mut system = System::start_flagged(&["--admin-listen", &admin]).await;
    let channel = channel(&admin.parse().unwrap(), &Security::default()).unwrap();
    let operator = AdminClient::new(channel, DEADLINE);
    let steps = watch::Sender::new(0);
    let is_over = Arc::new(AtomicBool::new(false));

    let (ingress, over) = (system.ingress.clone(), is_over.clone());
    let transfers: Vec<_> = (0..2_000).map(|nonce| system.transfer(0, nonce)).collect();
    let load = tokio::spawn(async move {
        for transfer in transfers {
            // There may be no room for it yet.
            while !over.load(Ordering::Relaxed)
                && ingress.submit(transfer.encoded().clone()).await.is_err()
            {
                tokio::task::yield_now().await;
            }
        }
    });
    system.build(attributes(2)).await.unwrap();
    system.until_preconfirmed(1).await;
    assert!(play(&system, 1, &steps).await);

    // Switched over and over, whatever is under way.
    let (switch, mut step) = (operator.clone(), steps.subscribe());
    let switching = tokio::spawn(async move {
        let mut on = false;
        while step.changed().await.is_ok() {
            on = !on;
            switch.set_passthrough(on, "test").await.unwrap();
        }
    });
    for number in 2..=BLOCKS {
        play(&system, number, &steps).await;
    }
    drop(steps);
    switching.await.unwrap();
    operator.set_passthrough(true, "test").await.unwrap();
    let steps = watch::Sender::new(0);
    assert!(!play(&system, BLOCKS + 1, &steps).await);
    operator.set_passthrough(false, "test").await.unwrap();
    // Not the very next one where blocks follow each other faster than a builder gets going.
    let (mut number, switched_off) = (BLOCKS + 2, Instant::now());
    while !play(&system, number, &steps).await {
        number += 1;
        assert!(switched_off.elapsed() < DEADLINE, "no block is the builder's any more");
    }
    is_over.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert_eq!(operator.status().await.unwrap().unanswered, 0);
    system.stop().await;
}
