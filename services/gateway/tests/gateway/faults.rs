//! What readers see when the upstream is bad, or gone.

use preconf_primitives::Position;
use preconf_signing::SignedFlashblock;
use preconf_wire::feed::FeedItem;

use crate::{
    sequencer::{CHAIN_ID, Sequencer},
    world::{World, eventually},
};

fn invalid(reason: &str) -> String {
    format!("messages_invalid_total{{reason=\"{reason}\"}}")
}

fn dropped(reason: &str) -> String {
    format!("messages_dropped_total{{reason=\"{reason}\"}}")
}

fn flashblock(item: FeedItem) -> SignedFlashblock {
    let FeedItem::Flashblock(signed) = item else { panic!("{item:?} is no flashblock") };
    signed
}

#[tokio::test]
async fn what_is_wrongly_signed_is_counted_and_not_served() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut reader = world.gateway.reader().await;
    let mut all = world.gateway.preconf_v1("/").await;
    let (mut stranger, mut abroad) = (Sequencer::with(2, CHAIN_ID), Sequencer::with(1, 1));
    let mut half = flashblock(Sequencer::new().flashblock(2, 0));
    half.signature.0[95] ^= 1;

    world.script.inject(stranger.flashblock(2, 0));
    world.script.inject(abroad.flashblock(2, 0));
    world.script.inject(stranger.sealed(1));
    world.script.inject(FeedItem::Flashblock(half));
    world.publish(1, 1..2);

    assert_eq!(reader.positions(2).await, ["1:0", "1:1"]);
    assert_eq!(all.positions(2).await, ["1:0", "1:1"]);
    assert_eq!(world.gateway.count(&invalid("bad_seal")), 3);
    assert_eq!(world.gateway.count(&invalid("bad_signature")), 1);
}

#[tokio::test]
async fn what_is_served_already_or_replaced_is_dropped() {
    let mut world = World::new().await;
    let early = world.sequencer.flashblock(1, 0);
    world.script.publish(early.clone());
    let repeated = world.sequencer.flashblock(2, 0);
    world.script.publish(repeated.clone());
    let sealed = world.sequencer.sealed(2);
    world.script.publish(sealed.clone());
    world.gateway.counts(r#"messages_served_total{kind="sealed"}"#, 1).await;
    let mut all = world.gateway.preconf_v1("/?cursor=1:0").await;

    world.script.inject(early);
    world.script.inject(repeated);
    world.script.inject(sealed);
    world.publish(3, 0..1);

    assert_eq!(all.positions(2).await, ["1:0", "2:0"]);
    assert_eq!(all.json().await["type"], "sealed");
    assert_eq!(all.positions(1).await, ["3:0"]);
    assert_eq!(world.gateway.count(&dropped("stale")), 1);
    assert_eq!(world.gateway.count(&dropped("duplicate")), 2);
}

#[tokio::test]
async fn two_flashblocks_at_one_position_are_counted_and_the_second_is_not_served() {
    let mut world = World::new().await;
    let mut twin = Sequencer::new();
    let other = twin.with_transactions(1, 0, &[&[9]]);
    let after_other = twin.flashblock(1, 1);
    world.publish_and_wait(1, 0..1).await;
    let mut reader = world.gateway.reader().await;

    world.script.inject(other);
    world.script.inject(after_other);
    world.publish(1, 1..2);
    world.script.inject(world.sequencer.sealed(1));
    world.script.inject(world.sequencer.abandoned(1));
    world.publish(1, 2..3);
    world.publish(2, 0..1);

    assert_eq!(reader.positions(2).await, ["1:0", "1:1"]);
    world.gateway.counts(&invalid("after_last"), 1).await;
    assert_eq!(world.gateway.count(&invalid("equivocation")), 2);
    assert_eq!(world.gateway.count(&invalid("second_end")), 1);
}

#[tokio::test]
async fn an_end_waits_for_the_flashblock_that_was_missed_before_it() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut all = world.gateway.preconf_v1("/").await;
    let missed = world.sequencer.flashblock(1, 1);

    world.script.inject(world.sequencer.sealed(1));
    world.script.until_asked(2).await;
    world.script.publish(missed);

    assert_eq!(all.positions(2).await, ["1:0", "1:1"]);
    assert_eq!(all.json().await["type"], "sealed");
    assert_eq!(world.script.cursors(), [None, "1:1".parse().ok()]);
}

#[tokio::test]
async fn an_end_that_has_waited_in_vain_is_served_after_a_gap_and_what_is_late_is_not() {
    let mut world = World::with(&["--repair-patience-ms", "200"]).await;
    world.publish_and_wait(1, 0..1).await;
    let mut all = world.gateway.preconf_v1("/").await;
    let missed = world.sequencer.flashblock(1, 1);

    world.script.inject(world.sequencer.sealed(1));

    assert_eq!(all.positions(1).await, ["1:0"]);
    let gap = all.json().await;
    assert_eq!(gap, serde_json::json!({"type": "gap", "wanted": "1:1", "next": "2:0"}));
    assert_eq!(all.json().await["type"], "sealed");
    world.script.until_asked(2).await;
    world.script.publish(missed);
    world.publish(2, 0..1);
    assert_eq!(all.positions(1).await, ["2:0"]);
    assert_eq!(world.gateway.count(&dropped("stale")), 1);
}

#[tokio::test]
async fn a_session_whose_past_was_missed_is_served_after_it_was_replayed() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut all = world.gateway.preconf_v1("/").await;
    world.script.lose(world.sequencer.flashblock(1, 1));
    world.script.lose(world.sequencer.sealed(1));

    world.publish(2, 0..1);

    assert_eq!(all.positions(2).await, ["1:0", "1:1"]);
    assert_eq!(all.json().await["type"], "sealed");
    assert_eq!(all.positions(1).await, ["2:0"]);
    assert_eq!(world.script.cursors(), [None, "1:1".parse().ok()]);
    assert_eq!(world.gateway.count(r#"messages_served_total{kind="gap"}"#), 0);
}

#[tokio::test]
async fn what_comes_too_early_is_asked_for_again_from_where_it_is_missing() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..2).await;
    let mut reader = world.gateway.reader().await;
    let missing = world.sequencer.flashblock(1, 2);
    let early = world.sequencer.flashblock(1, 3);

    world.script.inject(early.clone());
    world.gateway.counts(&dropped("out_of_order"), 1).await;
    world.script.publish(missing);
    world.script.publish(early);

    assert_eq!(reader.positions(4).await, ["1:0", "1:1", "1:2", "1:3"]);
    let asked: Position = "1:2".parse().unwrap();
    assert_eq!(world.script.cursors(), [None, Some(asked)]);
}

#[tokio::test]
async fn what_never_comes_is_asked_for_once_and_the_next_session_is_served() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut all = world.gateway.preconf_v1("/").await;
    let _never_published = world.sequencer.flashblock(1, 1);

    world.publish(1, 2..4);
    world.publish(2, 0..1);

    assert_eq!(all.positions(1).await, ["1:0"]);
    assert_eq!(all.json().await["type"], "gap");
    assert_eq!(all.positions(1).await, ["2:0"]);
    assert_eq!(world.script.cursors(), [None, "1:1".parse().ok()]);
}

#[tokio::test]
async fn malformed_messages_are_counted_and_the_feed_goes_on() {
    let mut world = World::without_builder(&[]).await;
    world.script.begin_streams_with_malformed(3);
    world.start_builder().await;
    world.publish(1, 0..1);

    let mut reader = world.gateway.reader().await;

    assert_eq!(reader.positions(1).await, ["1:0"]);
    assert_eq!(world.gateway.count(&invalid("malformed")), 3);
    assert_eq!(world.script.cursors().len(), 1);
}

#[tokio::test]
async fn sixteen_bad_messages_close_the_connection_and_open_it_again() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut stranger = Sequencer::with(2, CHAIN_ID);

    for index in 0..16 {
        world.script.inject(stranger.flashblock(9, index));
    }

    world.script.until_asked(2).await;
    assert_eq!(world.gateway.count(&invalid("bad_seal")), 16);
    let reason = r#"upstream_disconnected_total{reason="bad_messages"}"#;
    assert_eq!(world.gateway.count(reason), 1);
    world.gateway.context.health.until_ready().await;
    world.publish_and_wait(1, 1..2).await;
    assert_eq!(world.gateway.reader().await.positions(2).await, ["1:0", "1:1"]);
}

#[tokio::test]
async fn a_builder_that_comes_back_is_resumed_without_a_hole_or_a_repetition() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..2).await;
    let mut reader = world.gateway.reader().await;
    assert_eq!(reader.positions(2).await, ["1:0", "1:1"]);

    world.stop_builder().await;
    eventually(|| !world.gateway.context.health.is_ready(), || "still ready".to_owned()).await;
    world.publish(1, 2..4);
    world.publish(2, 0..1);
    world.start_builder().await;

    assert_eq!(reader.positions(3).await, ["1:2", "1:3", "2:0"]);
    world.gateway.context.health.until_ready().await;
    assert_eq!(world.script.cursors(), [None, "1:2".parse().ok()]);
    assert_eq!(world.gateway.count(&dropped("duplicate")), 0);
}

#[tokio::test]
async fn what_the_builder_lost_for_good_is_told_as_a_gap() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut all = world.gateway.preconf_v1("/").await;
    let _lost = world.sequencer.flashblock(1, 1);
    world.publish(2, 0..1);

    assert_eq!(all.positions(1).await, ["1:0"]);
    let gap = all.json().await;
    assert_eq!(gap, serde_json::json!({"type": "gap", "wanted": "1:1", "next": "2:0"}));
    assert_eq!(all.positions(1).await, ["2:0"]);
}

#[tokio::test]
async fn a_gateway_that_is_started_first_becomes_ready_when_the_builder_appears() {
    let mut world = World::without_builder(&[]).await;
    let unreachable = r#"upstream_disconnected_total{reason="unreachable"}"#;
    eventually(|| world.gateway.count(unreachable) > 0, || "no attempt".to_owned()).await;
    assert!(!world.gateway.context.health.is_ready());
    let mut reader = world.gateway.reader().await;

    world.start_builder().await;

    world.gateway.context.health.until_ready().await;
    world.publish(1, 0..1);
    assert_eq!(reader.positions(1).await, ["1:0"]);
}
