//! What overlays see when all goes well.

use alloy_primitives::B256;
use preconf_primitives::{Retraction, RetractionCause};
use preconf_wire::feed::FeedItem;

use crate::{
    support::{COUNTER, hashes, transaction, transfer},
    world::{World, counts},
};

#[tokio::test]
async fn receipts_of_preconfirmed_transactions_come_out() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    let transactions = [transfer(1, 0), transaction(2, 0, COUNTER)];

    world.publish(&mut building, &transactions);

    let snapshot = overlay.until(|snapshot| counts(snapshot) == [2]).await;
    let expected = world.sequencer.finish(&building);
    let block = &snapshot.blocks[0];
    let shown: Vec<B256> = block.transactions().map(|tx| *tx.transaction.hash()).collect();
    assert_eq!(shown, hashes(&transactions));
    let receipts: Vec<_> = block.transactions().map(|tx| tx.receipt.clone()).collect();
    assert_eq!(receipts, expected.receipts);
    assert_eq!(snapshot.canonical.hash, world.genesis.hash);
    world.consumer.finish().await.unwrap();
}

#[tokio::test]
async fn a_second_block_is_pending_on_a_sealed_one() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut first = world.sequencer.open(&world.genesis);
    world.publish(&mut first, &[transfer(1, 0)]);
    let known = world.seal(&mut first, &[transfer(1, 1)]);

    let mut second = world.sequencer.open(&known);
    world.publish(&mut second, &[transaction(1, 2, COUNTER)]);

    let snapshot = overlay.until(|snapshot| counts(snapshot) == [2, 1]).await;
    let block = &snapshot.blocks[0].reference;
    assert_eq!(block.hash, known.hash);
    assert_eq!(block.state_root, Some(known.header.state_root));
    assert_eq!(snapshot.blocks[1].environment.parent_hash, known.hash);
    assert!(snapshot.blocks[1].transactions().all(|tx| tx.receipt.success));
}

#[tokio::test]
async fn our_own_block_becomes_canonical_and_everything_in_it_is_kept() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    let known = world.seal(&mut building, &[transfer(1, 0), transaction(2, 0, COUNTER)]);
    overlay.until(|snapshot| counts(snapshot) == [2]).await;

    world.client.set_head(&known);

    let snapshot = overlay.until(|snapshot| snapshot.canonical.hash == known.hash).await;
    assert!(snapshot.blocks.is_empty());
    assert!(overlay.retracted.is_empty());
    world.consumer.until_metric(r#"promises_total{end="kept"}"#, 2).await;
    assert_eq!(world.consumer.metric(r#"heads_total{relation="ours"}"#), 1);
    // What is built on it is executed on what it changed.
    let mut next = world.sequencer.open(&known);
    world.publish(&mut next, &[transaction(2, 1, COUNTER)]);
    let snapshot = overlay.until(|snapshot| counts(snapshot) == [1]).await;
    let expected = world.sequencer.finish(&next);
    let receipt = &snapshot.blocks[0].transactions().next().unwrap().receipt;
    assert_eq!(receipt, &expected.receipts[0]);
}

#[tokio::test]
async fn what_another_canonical_block_does_not_hold_is_retracted() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    let [kept, missing] = [transfer(1, 0), transfer(2, 0)];
    world.publish(&mut building, &[kept.clone(), missing.clone()]);
    overlay.until(|snapshot| counts(snapshot) == [2]).await;

    let foreign = world.sequencer.foreign(&world.genesis, &[kept]);
    world.client.set_head(&foreign);

    overlay.until(|snapshot| snapshot.canonical.hash == foreign.hash).await;
    while overlay.retracted.is_empty() {
        overlay.next().await;
    }
    let cause = RetractionCause::BlockReplaced;
    assert_eq!(overlay.retracted, [Retraction { transaction: *missing.hash(), cause }]);
    assert_eq!(world.consumer.metric(r#"promises_total{end="kept"}"#), 1);
    assert_eq!(world.consumer.metric(r#"promises_total{end="missing"}"#), 1);
}

#[tokio::test]
async fn an_overlay_that_comes_later_gets_the_whole_snapshot() {
    let mut world = World::new().await;
    let mut first = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    for nonce in 0..5 {
        world.publish(&mut building, &[transfer(1, nonce)]);
    }
    let seen = first.until(|snapshot| counts(snapshot) == [5]).await;

    let mut late = world.consumer.overlay().await;
    let snapshot = late.until(|snapshot| snapshot.id == seen.id).await;

    assert_eq!(counts(&snapshot), [5]);
    assert_eq!(snapshot.canonical, seen.canonical);
    assert_eq!(snapshot.blocks[0].reference, seen.blocks[0].reference);
}

#[tokio::test]
async fn a_rebuilt_block_replaces_the_old_one_and_what_it_leaves_out_is_told() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let [kept, left_out] = [transfer(1, 0), transfer(2, 0)];
    let mut old = world.sequencer.open(&world.genesis);
    world.publish(&mut old, &[kept.clone(), left_out.clone()]);
    overlay.until(|snapshot| counts(snapshot) == [2]).await;

    let mut new = world.sequencer.open(&world.genesis);
    world.publish(&mut new, std::slice::from_ref(&kept));
    let cause = RetractionCause::NoRoom;
    let told = Retraction { transaction: *left_out.hash(), cause };
    let statement = world.sequencer.retract(&new, vec![told]);
    world.feed.publish(&FeedItem::Retracted(statement));
    world.publish(&mut new, &[transfer(3, 0), transfer(4, 0)]);

    let snapshot = overlay.until(|snapshot| counts(snapshot) == [3]).await;
    assert_eq!(snapshot.blocks[0].reference.seq, new.seq);
    assert_eq!(overlay.retracted, [told]);
}

#[tokio::test]
async fn stopping_ends_the_streams_of_overlays() {
    let world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    overlay.next().await;
    world.consumer.context.shutdown.trigger();
    overlay.end().await;
    world.consumer.finish().await.unwrap();
}
