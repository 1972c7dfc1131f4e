//! A bera-reth sequencer's feed: v1 signatures, no sessions, no seals, no replay.

use preconf_chain::{PayloadIdInput, Transaction};
use preconf_pending::next_block;
use preconf_primitives::{Flashblock, PayloadId};
use preconf_signing::SignedFlashblock;
use preconf_wire::{feed::FeedItem, json};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{Building, Sequencer, hashes, transfer},
    world::{Overlay, World, counts},
};

const BAD_SIGNATURE: &str = r#"invalid_total{reason="bad_signature"}"#;
const PAYLOAD_ID: &str = r#"invalid_total{reason="payload_id"}"#;

/// A consumer with the policy `v1`, and a session that nothing was sent of yet.
struct Scene {
    world: World,
    overlay: Overlay,
    building: Building,
}

impl Scene {
    async fn new(flags: &[&str]) -> Self {
        let mut world = World::v1(flags).await;
        let overlay = world.consumer.overlay().await;
        let building = world.sequencer.open(&world.genesis);
        Self { world, overlay, building }
    }

    /// The next flashblock of the session, as the upstream sends it.
    fn next(&mut self, transactions: &[Transaction]) -> SignedFlashblock {
        let signed = self.world.sequencer.flashblock(&mut self.building, transactions);
        upstream(&self.world.sequencer, &signed, payload_id(&self.building))
    }

    fn last(&mut self, transactions: &[Transaction]) -> SignedFlashblock {
        let signed = self.world.sequencer.last(&mut self.building, transactions);
        upstream(&self.world.sequencer, &signed, payload_id(&self.building))
    }

    fn send(&self, flashblock: &SignedFlashblock) {
        self.send_json(&stripped(flashblock));
    }

    fn send_json(&self, json: &Value) {
        self.world.feed.send(Message::text(json.to_string()));
    }

    async fn shows(&mut self, transactions: &[Transaction]) {
        let expected = hashes(transactions);
        let shown = |blocks: &[preconf_pending::snapshot::PendingBlock]| {
            let transactions = blocks.iter().flat_map(|block| block.transactions());
            transactions.map(|executed| *executed.transaction.hash()).collect::<Vec<_>>()
        };
        self.overlay.until(|snapshot| shown(&snapshot.blocks) == expected).await;
    }
}

/// The id that a bera-reth sequencer builds this block under.
fn payload_id(Building { base, withdrawals, .. }: &Building) -> PayloadId {
    let withdrawals = next_block(base, withdrawals, None).withdrawals;
    let input = PayloadIdInput {
        parent_hash: base.parent_hash,
        timestamp: base.timestamp,
        prev_randao: base.prev_randao,
        fee_recipient: base.fee_recipient,
        withdrawals: Some(&withdrawals),
        parent_beacon_block_root: Some(base.parent_beacon_block_root),
        target_gas_limit: None,
        prev_proposer_pubkey: base.prev_proposer_pubkey.as_ref(),
    };
    input.id()
}

/// Signs a flashblock under this payload id.
fn upstream(by: &Sequencer, signed: &SignedFlashblock, payload_id: PayloadId) -> SignedFlashblock {
    let mut parts = signed.flashblock.clone().into_parts();
    parts.payload_id = payload_id;
    by.sign(Flashblock::new(parts).unwrap())
}

/// A flashblock without what the upstream does not know.
fn stripped(signed: &SignedFlashblock) -> Value {
    let mut value: Value = serde_json::from_str(&json::encode_flashblock(signed)).unwrap();
    for addition in ["session", "seal", "parent_digest", "published_at_ms", "traceparent"] {
        value.as_object_mut().unwrap().remove(addition);
    }
    value
}

#[tokio::test]
async fn what_is_signed_is_shown_and_its_block_is_recognised() {
    let mut scene = Scene::new(&[]).await;
    let first = scene.next(&[transfer(1, 0)]);
    scene.send(&first);
    scene.shows(&[transfer(1, 0)]).await;
    let last = scene.last(&[transfer(1, 1)]);
    scene.send(&last);
    scene.shows(&[transfer(1, 0), transfer(1, 1)]).await;

    let known = scene.world.sequencer.finish(&scene.building);
    scene.building = scene.world.sequencer.open(&known);
    let next = scene.next(&[transfer(1, 2)]);
    scene.send(&next);
    scene.world.consumer.until_metric(r#"flashblocks_total{reception="accepted"}"#, 3).await;
    scene.world.client.set_head(&known);

    scene.shows(&[transfer(1, 2)]).await;
    assert_eq!(scene.world.consumer.metric(r#"promises_total{end="kept"}"#), 2);
    assert_eq!(scene.world.consumer.metric("replays_total"), 0);
}

#[tokio::test]
async fn what_the_signature_does_not_cover_is_bound_by_the_payload_id() {
    let mut scene = Scene::new(&[]).await;
    let first = scene.next(&[transfer(1, 0)]);
    let alterations: [fn(&mut Value); 3] = [
        |json| json["base"]["fee_recipient"] = "0x0000000000000000000000000000000000000001".into(),
        |json| json["base"]["timestamp"] = "0x4".into(),
        |json| json["diff"]["withdrawals"][0]["amount"] = "0x4".into(),
    ];
    for alter in alterations {
        let mut json = stripped(&first);
        alter(&mut json);
        scene.send_json(&json);
    }
    scene.world.consumer.until_metric(PAYLOAD_ID, 3).await;

    scene.send(&first);

    scene.shows(&[transfer(1, 0)]).await;
    assert_eq!(scene.world.consumer.metric("executed_total"), 1);
}

#[tokio::test]
async fn altered_transactions_another_place_and_another_key_are_refused() {
    let mut scene = Scene::new(&[]).await;
    let first = scene.next(&[transfer(1, 0)]);
    let mut altered = stripped(&first);
    altered["diff"]["transactions"][0] = transfer(2, 0).encoded().to_string().into();
    scene.send_json(&altered);
    let mut moved = stripped(&first);
    moved["payload_id"] = "0x0000000000000001".into();
    scene.send_json(&moved);
    let stranger = Sequencer::new(&scene.world.spec, 3);
    scene.send(&upstream(&stranger, &first, first.flashblock.payload_id()));
    scene.world.consumer.until_metric(BAD_SIGNATURE, 3).await;

    scene.send(&first);

    scene.shows(&[transfer(1, 0)]).await;
    assert_eq!(scene.world.consumer.metric("executed_total"), 1);
}

#[tokio::test]
async fn during_a_rotation_either_key_will_do() {
    let (spec, _) = crate::support::genesis();
    let next_key = Sequencer::new(&spec, 2);
    let flag = format!("--sequencer-pubkey={}", next_key.public_key());
    let mut scene = Scene::new(&[&flag]).await;
    let first = scene.next(&[transfer(1, 0)]);
    scene.send(&first);
    let second = scene.next(&[transfer(1, 1)]);

    scene.send(&upstream(&next_key, &second, second.flashblock.payload_id()));

    scene.shows(&[transfer(1, 0), transfer(1, 1)]).await;
}

#[tokio::test]
async fn the_same_payload_id_with_another_beginning_is_a_new_session() {
    let mut scene = Scene::new(&[]).await;
    let again = scene.building.clone();
    let first = scene.next(&[transfer(1, 0)]);
    scene.send(&first);
    scene.shows(&[transfer(1, 0)]).await;

    scene.building = again;
    let restarted = scene.next(&[transfer(2, 0), transfer(1, 0)]);
    assert_eq!(restarted.flashblock.payload_id(), first.flashblock.payload_id());
    scene.send(&restarted);
    let next = scene.next(&[transfer(2, 1)]);
    scene.send(&next);

    scene.shows(&[transfer(2, 0), transfer(1, 0), transfer(2, 1)]).await;
    assert!(scene.overlay.retracted.is_empty());
}

#[tokio::test]
async fn after_a_hole_a_session_is_shown_no_further_and_the_next_one_is() {
    let mut scene = Scene::new(&[]).await;
    let first = scene.next(&[transfer(1, 0)]);
    scene.send(&first);
    scene.shows(&[transfer(1, 0)]).await;
    let connections = scene.world.feed.connections().len();

    let _lost = scene.next(&[transfer(1, 1)]);
    let after = scene.next(&[transfer(1, 2)]);
    scene.send(&after);
    scene.world.consumer.until_metric(r#"flashblocks_total{reception="gap"}"#, 1).await;
    scene.building = scene.world.sequencer.open(&scene.world.genesis);
    let rebuilt = scene.next(&[transfer(1, 0), transfer(3, 0)]);
    scene.send(&rebuilt);

    let snapshot = scene.overlay.next().await;
    assert_eq!(counts(&snapshot), [2], "nothing after the hole was shown");
    assert_eq!(scene.world.consumer.metric("replays_total"), 0);
    assert_eq!(scene.world.feed.connections().len(), connections, "there is nothing to ask for");
    assert!(scene.world.consumer.context.health.is_ready());
}

#[tokio::test]
async fn an_unbound_base_is_taken_and_counted_if_the_operator_says_so() {
    let mut scene = Scene::new(&["--payload-id-check=warn"]).await;
    let first = scene.next(&[transfer(1, 0)]);
    let unbound = upstream(&scene.world.sequencer, &first, PayloadId::repeat_byte(7));

    scene.send(&unbound);

    scene.shows(&[transfer(1, 0)]).await;
    assert_eq!(scene.world.consumer.metric("unbound_total"), 1);
}

#[tokio::test]
async fn a_feed_with_seals_needs_another_policy() {
    let mut scene = Scene::new(&[]).await;
    let first = scene.next(&[transfer(1, 0)]);
    let item = FeedItem::Flashblock(first);

    scene.world.feed.send(Message::text(json::encode(&item)));

    scene.world.consumer.until_metric(r#"invalid_total{reason="sealed"}"#, 1).await;
    assert_eq!(scene.world.consumer.metric("executed_total"), 0);
}
