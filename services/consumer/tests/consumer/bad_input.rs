//! Bad input: each kind is counted and dropped, and what overlays are shown does not change.

use preconf_signing::SignedFlashblock;
use preconf_wire::{feed::FeedItem, json};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{Building, CHAIN_ID, Sequencer, transfer},
    world::{Overlay, World, counts},
};

/// A consumer that shows one flashblock of a session, and an overlay that has seen it.
struct Scene {
    world: World,
    overlay: Overlay,
    building: Building,
    shown: u64,
}

impl Scene {
    async fn new() -> Self {
        let mut world = World::new().await;
        let mut overlay = world.consumer.overlay().await;
        let mut building = world.sequencer.open(&world.genesis);
        world.publish(&mut building, &[transfer(1, 0)]);
        let shown = overlay.until(|snapshot| counts(snapshot) == [1]).await.id;
        Self { world, overlay, building, shown }
    }

    /// The next flashblock, which is not published.
    fn next(&self) -> SignedFlashblock {
        let mut other = self.building.clone();
        // A clone of the session leaves the sequencer's own as it is.
        Sequencer::new(&self.world.spec, 1).flashblock(&mut other, &[transfer(1, 1)])
    }

    /// Sends a message, waits until it is counted, and checks that nothing changed: the next good
    /// flashblock makes the next snapshot.
    async fn refused(mut self, message: Message, metric: &str) {
        self.world.feed.send(message);
        self.world.consumer.until_metric(metric, 1).await;
        self.goes_on().await;
        assert_eq!(self.world.consumer.metric(metric), 1);
        self.world.consumer.finish().await.unwrap();
    }

    async fn goes_on(&mut self) {
        self.world.consumer.until_ready().await;
        self.world.publish(&mut self.building, &[transfer(1, 1)]);
        let snapshot = self.overlay.next().await;
        assert_eq!((snapshot.id, counts(&snapshot)), (self.shown + 1, vec![2]));
    }
}

fn frame(signed: SignedFlashblock) -> Message {
    Message::text(json::encode(&FeedItem::Flashblock(signed)))
}

const MALFORMED: &str = r#"invalid_total{reason="malformed"}"#;
const UNSEALED: &str = r#"invalid_total{reason="unsealed"}"#;
const BAD_SEAL: &str = r#"invalid_total{reason="bad_seal"}"#;

#[tokio::test]
async fn malformed_json_is_refused() {
    Scene::new().await.refused(Message::text(r#"{"payload_id": 7}"#), MALFORMED).await;
}

#[tokio::test]
async fn bytes_that_are_neither_json_nor_brotli_are_refused() {
    let bytes: Vec<u8> = (0..200).map(|n| n ^ 0x5a).collect();
    Scene::new().await.refused(Message::binary(bytes), MALFORMED).await;
}

#[tokio::test]
async fn a_frame_that_unpacks_to_more_than_any_message_is_refused() {
    let bomb = json::compress(&vec![b' '; json::MAX_FRAME_BYTES + 1]);
    assert!(bomb.len() < 64 * 1024);
    Scene::new().await.refused(Message::binary(bomb), MALFORMED).await;
}

#[tokio::test]
async fn a_frame_that_is_larger_than_any_message_ends_the_connection() {
    let oversized = Message::text(" ".repeat(json::MAX_FRAME_BYTES + 1));
    let metric = r#"feed_disconnected_total{reason="broken"}"#;
    Scene::new().await.refused(oversized, metric).await;
}

#[tokio::test]
async fn an_inconsistent_flashblock_is_refused() {
    let scene = Scene::new().await;
    let mut value: Value =
        serde_json::from_str(&json::encode(&FeedItem::Flashblock(scene.next()))).unwrap();
    value["index"] = 0.into();
    scene.refused(Message::text(value.to_string()), MALFORMED).await;
}

#[tokio::test]
async fn a_flashblock_without_a_seal_is_refused() {
    let scene = Scene::new().await;
    let mut value: Value =
        serde_json::from_str(&json::encode(&FeedItem::Flashblock(scene.next()))).unwrap();
    for addition in ["session", "seal", "parent_digest", "published_at_ms", "traceparent"] {
        value.as_object_mut().unwrap().remove(addition);
    }
    scene.refused(Message::text(value.to_string()), UNSEALED).await;
}

#[tokio::test]
async fn a_flashblock_that_somebody_else_signed_is_refused() {
    let scene = Scene::new().await;
    let stranger = Sequencer::new(&scene.world.spec, 2);
    let signed = stranger.sign(scene.next().flashblock);
    scene.refused(frame(signed), BAD_SEAL).await;
}

#[tokio::test]
async fn a_flashblock_that_was_altered_is_refused() {
    let scene = Scene::new().await;
    let signed = scene.next();
    let mut parts = signed.flashblock.into_parts();
    parts.transactions = vec![transfer(2, 0).encoded().clone()];
    let flashblock = preconf_primitives::Flashblock::new(parts).unwrap();
    scene.refused(frame(SignedFlashblock { flashblock, ..signed }), BAD_SEAL).await;
}

#[tokio::test]
async fn a_flashblock_of_another_chain_is_refused() {
    let scene = Scene::new().await;
    let elsewhere = Sequencer::new(&scene.world.spec, 1).for_chain(CHAIN_ID + 1);
    let signed = elsewhere.sign(scene.next().flashblock);
    scene.refused(frame(signed), BAD_SEAL).await;
}

#[tokio::test]
async fn a_statement_that_somebody_else_signed_is_refused() {
    let scene = Scene::new().await;
    let stranger = Sequencer::new(&scene.world.spec, 2);
    let abandoned = FeedItem::Abandoned(stranger.abandon(&scene.building));
    scene.refused(Message::text(json::encode(&abandoned)), BAD_SEAL).await;
}

#[tokio::test]
async fn a_flashblock_that_comes_twice_is_shown_once() {
    let mut scene = Scene::new().await;
    let mut sequencer = Sequencer::new(&scene.world.spec, 1);
    let mut building = sequencer.open(&scene.world.genesis);
    let first = sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    scene.world.feed.send(frame(first));
    let metric = r#"flashblocks_total{reception="duplicate"}"#;
    scene.world.consumer.until_metric(metric, 1).await;
    scene.goes_on().await;
    assert_eq!(scene.world.consumer.metric("executed_total"), 2);
}

#[tokio::test]
async fn a_flashblock_out_of_order_is_not_shown_before_its_turn() {
    let mut scene = Scene::new().await;
    let second = scene.world.sequencer.flashblock(&mut scene.building, &[transfer(1, 1)]);
    let third = scene.world.sequencer.flashblock(&mut scene.building, &[transfer(1, 2)]);
    scene.world.feed.lose(&FeedItem::Flashblock(second));
    scene.world.feed.publish(&FeedItem::Flashblock(third));

    let metric = r#"flashblocks_total{reception="gap"}"#;
    scene.world.consumer.until_metric(metric, 1).await;
    let snapshot = scene.overlay.next().await;
    assert_eq!((snapshot.id, counts(&snapshot)), (scene.shown + 1, vec![2]));
    let snapshot = scene.overlay.next().await;
    assert_eq!(counts(&snapshot), [3]);
}

#[tokio::test]
async fn a_contradiction_of_the_sequencer_changes_nothing() {
    let mut scene = Scene::new().await;
    let mut sequencer = Sequencer::new(&scene.world.spec, 1);
    let mut building = sequencer.open(&scene.world.genesis);
    let other = sequencer.flashblock(&mut building, &[transfer(2, 0)]);
    scene.world.feed.send(frame(other));
    let metric = r#"flashblocks_total{reception="equivocation"}"#;
    scene.world.consumer.until_metric(metric, 1).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_signed_transaction_that_cannot_be_executed_ends_its_session_only() {
    let mut scene = Scene::new().await;
    let encoded = vec![transfer(1, 9).encoded().clone()];
    let bad = scene.world.sequencer.unchecked(&mut scene.building, encoded, false);
    scene.world.feed.publish(&FeedItem::Flashblock(bad));
    let metric = r#"refused_total{reason="transaction"}"#;
    scene.world.consumer.until_metric(metric, 1).await;

    let mut rebuilt = scene.world.sequencer.open(&scene.world.genesis);
    scene.world.publish(&mut rebuilt, &[transfer(1, 0), transfer(2, 0)]);
    let snapshot = scene.overlay.next().await;
    assert_eq!((snapshot.id, counts(&snapshot)), (scene.shown + 1, vec![2]));
}

#[tokio::test]
async fn sixteen_bad_messages_in_a_row_end_the_connection() {
    let mut scene = Scene::new().await;
    for _ in 0..15 {
        scene.world.feed.send(Message::text("{"));
    }
    scene.world.consumer.until_metric(MALFORMED, 15).await;
    // A good message in between is forgiven.
    scene.goes_on().await;
    assert_eq!(scene.world.feed.connections().len(), 1);

    for _ in 0..16 {
        scene.world.feed.send(Message::text("{"));
    }
    scene.world.feed.until_connections(2).await;
    scene.world.publish(&mut scene.building, &[transfer(1, 2)]);
    scene.overlay.until(|snapshot| counts(snapshot) == [3]).await;
}
