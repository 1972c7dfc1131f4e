//! Readers whose source has spent what is replayed to it.

use preconf_subscribe::{Event, Subscription};
use preconf_wire::feed::FeedItem;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::world::{Client, World};

/// One flashblock fits into the budget, three do not.
const BUDGET: [&str; 2] = ["--replay-budget-bytes", "1000"];

#[tokio::test]
async fn a_reader_without_budget_gets_the_live_feed_and_is_told_of_the_gap() {
    let mut world = World::with(&BUDGET).await;
    world.publish_and_wait(1, 0..3).await;

    let mut all = world.gateway.preconf_v1("/?cursor=1:0").await;
    let mut newcomer = world.gateway.reader().await;
    world.gateway.counts(r#"readers_over_budget_total{outcome="live"}"#, 2).await;
    world.publish(1, 3..4);
    world.publish(2, 0..1);

    let gap = all.json().await;
    assert_eq!(gap, serde_json::json!({"type": "gap", "wanted": "1:0", "next": "1:3"}));
    assert_eq!(all.positions(2).await, ["1:3", "2:0"]);
    assert_eq!(newcomer.positions(1).await, ["2:0"], "it begins at a session");
}

#[tokio::test]
async fn a_reader_that_could_not_be_told_is_closed_with_the_reason() {
    let mut world = World::with(&BUDGET).await;
    world.publish_and_wait(1, 0..3).await;
    let address = world.gateway.addresses.websocket;

    let mut resuming = Client::connect(address, "/?cursor=1:0", None).await.unwrap();

    let close = resuming.closed().await;
    assert_eq!(close.code, CloseCode::Again);
    assert!(close.reason.starts_with("replay budget spent"), "{}", close.reason);
    assert_eq!(world.gateway.count(r#"readers_over_budget_total{outcome="closed"}"#), 1);
    let mut small = Client::connect(address, "/?cursor=1:2", None).await.unwrap();
    assert_eq!(small.positions(1).await, ["1:2"], "what was refused was not spent");
}

#[tokio::test]
async fn all_sources_together_have_a_ceiling_and_grpc_has_no_other() {
    let flags = ["--replay-budget-total-bytes", "1000", "--feed-listen", "http://127.0.0.1:0"];
    let mut world = World::with(&flags).await;
    world.publish_and_wait(1, 0..3).await;
    let url = world.gateway.addresses.feed.clone().unwrap().to_string().parse().unwrap();

    let cursor = || "1:1".parse().ok();
    let mut feed = Subscription::spawn(url, Default::default(), cursor).unwrap();
    assert!(matches!(feed.next().await, Event::Connected));
    world.publish(1, 3..4);

    let Event::Item(gap) = feed.next().await else { panic!("a gap") };
    let (wanted, next) = ("1:1".parse().unwrap(), "1:3".parse().unwrap());
    assert_eq!(gap, FeedItem::Gap { wanted, next });
    assert!(matches!(feed.next().await, Event::Item(FeedItem::Flashblock(_))));
}
