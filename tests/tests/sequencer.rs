//! The sequencer's promises: builder, signer and execution client over their real sockets, driven
//! as a consensus client would.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops where it fails, and names what it expects"
)]

#[path = "sequencer/blobs.rs"]
mod blobs;
#[path = "sequencer/exits.rs"]
mod exits;
#[path = "sequencer/failover.rs"]
mod failover;
#[path = "sequencer/passthrough.rs"]
mod passthrough;
#[path = "sequencer/payloads.rs"]
mod payloads;
#[path = "sequencer/system.rs"]
mod system;

use alloy_rpc_types_engine::PayloadStatusEnum;
use preconf_primitives::{AbandonReason, Position};
use preconf_wire::{feed::FeedItem, ingress::IngressError};

use system::{DEADLINE, System, attributes};

#[tokio::test(flavor = "multi_thread")]
async fn the_block_that_was_preconfirmed_is_the_block_that_is_proposed() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let first = system.flashblock().await;
    assert_eq!(first.index(), 0);
    let base = &first.opening().unwrap().base;
    assert_eq!((base.block_number, base.timestamp), (1, 2));
    assert_eq!(base.parent_hash, system.head());

    let transaction = system.transfer(0, 0);
    system.submit(&transaction).await.unwrap();
    let mut preconfirmed = Vec::new();
    while preconfirmed.is_empty() {
        preconfirmed.extend(system.flashblock().await.transactions().to_vec());
    }
    assert_eq!(preconfirmed, [transaction.encoded().clone()]);

    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload;
    assert_eq!(payload.payload_inner.payload_inner.transactions, preconfirmed);
    let hash = payload.payload_inner.payload_inner.block_hash;
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);

    let last = system.flashblock().await;
    assert!(last.is_last());
    let FeedItem::Sealed(sealed) = system.item().await else { panic!("a seal follows") };
    assert_eq!(sealed.statement.block_hash, hash);
    assert_eq!(sealed.statement.state_root, payload.payload_inner.payload_inner.state_root);
    assert_eq!(sealed.statement.seq, last.seq());

    let again = system.payload(id).await;
    assert_eq!(again.envelope_inner.execution_payload, *payload);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_follow_each_other_with_their_own_state() {
    let mut system = System::start().await;
    for number in 1..=4 {
        let id = system.build(attributes(2 * number)).await.unwrap();
        system.submit(&system.transfer(0, number - 1)).await.unwrap();
        system.until_preconfirmed(1).await;
        let envelope = system.payload(id).await;
        let payload = envelope.envelope_inner.execution_payload.payload_inner.payload_inner.clone();
        assert_eq!((payload.block_number, payload.transactions.len()), (number, 1));
        assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
        system.advance(payload.block_hash).await;
    }
    assert_eq!(system.client.head().number(), 4);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attributes_while_it_builds_restart_nothing() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let first = system.flashblock().await;
    assert_eq!(system.build(attributes(2)).await, Some(id));
    let second = system.flashblock().await;
    assert_eq!(second.position(), Position::new(first.seq(), 1));
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_a_sealed_block_is_a_new_session_that_keeps_its_promises() {
    let mut system = System::start().await;
    let id = system.build(attributes(2)).await.unwrap();
    let first = system.flashblock().await;
    let transaction = system.transfer(0, 0);
    system.submit(&transaction).await.unwrap();
    system.until_preconfirmed(1).await;
    system.payload(id).await;
    while !system.flashblock().await.is_last() {}
    assert!(matches!(system.item().await, FeedItem::Sealed(_)));

    assert_eq!(system.build(attributes(2)).await, Some(id));
    let rebuilt = system.flashblock().await;
    assert!(rebuilt.seq() > first.seq());
    assert_ne!(rebuilt.payload_id(), first.payload_id());
    assert_eq!(rebuilt.index(), 0);
    assert_eq!(rebuilt.transactions(), [transaction.encoded().clone()]);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promises_of_a_head_and_of_its_child_come_back_when_the_head_is_replaced() {
    let mut system = System::start().await;
    let genesis = system.head();
    let id = system.build(attributes(2)).await.unwrap();
    let [first, second] = [0, 1].map(|nonce| system.transfer(0, nonce));
    system.submit(&first).await.unwrap();
    system.until_preconfirmed(1).await;
    let envelope = system.payload(id).await;
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    system.advance(payload.block_hash).await;
    system.build(attributes(4)).await.unwrap();
    system.submit(&second).await.unwrap();
    system.until_preconfirmed(1).await;

    // The next round, at the height of the first block.
    system.build_on(genesis, attributes(3)).await.unwrap();
    let rebuilt = loop {
        let flashblock = system.flashblock().await;
        if flashblock.opening().is_some_and(|opening| opening.base.timestamp == 3) {
            break flashblock;
        }
    };
    assert_eq!(rebuilt.opening().unwrap().base.block_number, 1);
    let sent = [first, second].map(|transaction| transaction.encoded().clone());
    assert_eq!(rebuilt.transactions(), sent);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_attributes_abandon_the_build_and_keep_its_promises() {
    let mut system = System::start().await;
    system.build(attributes(2)).await.unwrap();
    let first = system.flashblock().await;
    let transaction = system.transfer(0, 0);
    system.submit(&transaction).await.unwrap();
    system.until_preconfirmed(1).await;

    system.build(attributes(3)).await.unwrap();
    let abandoned = loop {
        match system.item().await {
            FeedItem::Abandoned(abandoned) => break abandoned.statement,
            FeedItem::Flashblock(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!((abandoned.seq, abandoned.block_number), (first.seq(), 1));
    assert_eq!(abandoned.reason, AbandonReason::AttributesChanged);
    let rebuilt = system.flashblock().await;
    assert_eq!(rebuilt.opening().unwrap().base.timestamp, 3);
    assert_eq!(rebuilt.transactions(), [transaction.encoded().clone()]);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_signer_the_chain_gets_the_execution_clients_block() {
    let system = System::start_without_signer().await;
    let id = system.build(attributes(2)).await.unwrap();
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.block_number, 1);
    // Only the execution client's own blocks say so.
    assert_eq!(payload.extra_data.as_ref(), b"preconf devnet");
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.block_hash).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_be_taken_is_refused_with_its_reason() {
    use preconf_primitives::TransactionRefusalReason as Reason;
    let mut system = System::start().await;
    let refused =
        async |system: &System, encoded: Vec<u8>| match system.ingress.submit(encoded.into()).await
        {
            Err(IngressError::Refused(refusal)) => refusal.reason,
            other => panic!("unexpected {other:?}"),
        };
    assert_eq!(refused(&system, vec![]).await, Reason::Malformed);
    assert_eq!(refused(&system, vec![2, 1, 2]).await, Reason::Malformed);
    assert_eq!(refused(&system, vec![2; 200_000]).await, Reason::Oversized);
    assert_eq!(refused(&system, vec![0x7e, 0xc0]).await, Reason::UnsupportedType);
    let foreign = system.transfer_on(99, 0, 0).encoded().to_vec();
    assert_eq!(refused(&system, foreign).await, Reason::WrongChain);
    let far = system.transfer(0, 1_000).encoded().to_vec();
    assert_eq!(refused(&system, far).await, Reason::NonceGapTooLarge);
    let poor = system.transfer(9, 0).encoded().to_vec();
    assert_eq!(refused(&system, poor).await, Reason::InsufficientFunds);

    let good = system.transfer(0, 0);
    system.submit(&good).await.unwrap();
    assert_eq!(refused(&system, good.encoded().to_vec()).await, Reason::AlreadyKnown);
    assert_eq!(system.ingress.next_nonce(good.signer()).await.unwrap(), Some(1));
    let found = system.ingress.transaction(*good.hash()).await.unwrap();
    assert_eq!(found.as_ref(), Some(good.encoded()));
    system.build(attributes(2)).await.unwrap();
    system.until_preconfirmed(1).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_does_not_know_passes_through() {
    let system = System::start().await;
    let number: String =
        system.engine.request("eth_blockNumber", &[(); 0], DEADLINE).await.unwrap();
    assert_eq!(number, "0x0");
    let unknown = system.engine.request::<_, String>("engine_newPayloadV9", &[(); 0], DEADLINE);
    assert!(unknown.await.unwrap_err().to_string().contains("engine_newPayloadV9"));
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_execution_clients_pool_takes_is_preconfirmed() {
    let mut system = System::start().await;
    let first = system.transfer(0, 0);
    system.client.submit(first).unwrap();
    system.build(attributes(2)).await.unwrap();
    system.until_preconfirmed(1).await;
    system.client.submit(system.transfer(0, 1)).unwrap();
    system.until_preconfirmed(1).await;
    system.stop().await;
}
