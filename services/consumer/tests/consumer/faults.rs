//! Peers that are not there, go away, or are of another chain.

use std::net::SocketAddr;

use preconf_wire::feed::FeedItem;
use tokio::{net::TcpListener, time::timeout};

use crate::{
    client::ExecutionClient,
    feed::Feed,
    support::{CHAIN_ID, Sequencer, genesis, transfer},
    world::{Consumer, SOON, World, counts},
};

/// An address on which nobody listens, until somebody does.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_feed_that_is_down_at_start_is_followed_when_it_appears() {
    let (spec, genesis) = genesis();
    let mut sequencer = Sequencer::new(&spec, 1);
    let client = ExecutionClient::start(&genesis).await;
    let address = free_address().await;
    let consumer = Consumer::start(&sequencer, address, client.address).await;
    let mut overlay = consumer.overlay().await;
    let snapshot = overlay.next().await;
    assert_eq!(snapshot.canonical.hash, genesis.hash, "heads are followed");
    assert!(!consumer.context.health.is_ready());

    let feed = Feed::start_at(address).await;
    consumer.until_ready().await;
    let mut building = sequencer.open(&genesis);
    let signed = sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    feed.publish(&FeedItem::Flashblock(signed));

    overlay.until(|snapshot| counts(snapshot) == [1]).await;
}

#[tokio::test]
async fn a_consumer_that_starts_late_shows_every_pending_block() {
    let (spec, genesis) = genesis();
    let mut sequencer = Sequencer::new(&spec, 1);
    let client = ExecutionClient::start(&genesis).await;
    let feed = Feed::start().await;
    let mut first = sequencer.open(&genesis);
    let last = sequencer.last(&mut first, &[transfer(1, 0)]);
    let (sealed, known) = sequencer.seal(&first);
    let mut second = sequencer.open(&known);
    let next = sequencer.flashblock(&mut second, &[transfer(1, 1), transfer(1, 2)]);
    let items = [FeedItem::Flashblock(last), FeedItem::Sealed(sealed), FeedItem::Flashblock(next)];
    items.iter().for_each(|item| feed.publish(item));

    let consumer = Consumer::start(&sequencer, feed.address, client.address).await;

    let mut overlay = consumer.overlay().await;
    overlay.until(|snapshot| counts(snapshot) == [1, 2]).await;
}

#[tokio::test]
async fn an_execution_client_that_is_down_at_start_is_waited_for() {
    let (spec, genesis) = genesis();
    let mut sequencer = Sequencer::new(&spec, 1);
    let feed = Feed::start().await;
    let address = free_address().await;
    let consumer = Consumer::start(&sequencer, feed.address, address).await;
    let mut overlay = consumer.overlay().await;
    let mut building = sequencer.open(&genesis);
    let signed = sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    feed.publish(&FeedItem::Flashblock(signed));
    consumer.until_metric(r#"flashblocks_total{reception="accepted"}"#, 1).await;
    assert!(!consumer.context.health.is_ready());

    let _client = ExecutionClient::start_at(address, CHAIN_ID, &genesis).await;

    consumer.until_ready().await;
    overlay.until(|snapshot| counts(snapshot) == [1]).await;
}

#[tokio::test]
async fn an_execution_client_of_another_chain_ends_the_process_with_the_reason() {
    let (spec, genesis) = genesis();
    let sequencer = Sequencer::new(&spec, 1);
    let feed = Feed::start().await;
    let any_port = ([127, 0, 0, 1], 0).into();
    let client = ExecutionClient::start_at(any_port, CHAIN_ID + 1, &genesis).await;
    let consumer = Consumer::start(&sequencer, feed.address, client.address).await;

    timeout(SOON, consumer.context.shutdown.cancelled()).await.unwrap();

    let exit = consumer.finish().await.unwrap_err();
    assert_eq!(exit.code(), 1);
    let line = exit.to_string();
    assert!(line.contains("its chain id is 7778, the genesis file gives 7777"), "{line}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_resumed_without_a_hole() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    world.publish(&mut building, &[transfer(1, 0)]);
    overlay.until(|snapshot| counts(snapshot) == [1]).await;

    world.feed.close_connections();
    world.feed.until_connections(2).await;
    for nonce in 1..4 {
        world.publish(&mut building, &[transfer(1, nonce)]);
    }

    overlay.until(|snapshot| counts(snapshot) == [4]).await;
    assert_eq!(world.feed.connections()[1], Some("1:0".parse().unwrap()));
}

#[tokio::test]
async fn what_is_lost_on_the_way_is_asked_for_and_shown() {
    let mut world = World::new().await;
    let mut overlay = world.consumer.overlay().await;
    let mut building = world.sequencer.open(&world.genesis);
    world.publish(&mut building, &[transfer(1, 0)]);
    overlay.until(|snapshot| counts(snapshot) == [1]).await;
    let lost = world.sequencer.flashblock(&mut building, &[transfer(1, 1)]);
    world.feed.lose(&FeedItem::Flashblock(lost));

    world.publish(&mut building, &[transfer(1, 2)]);

    let next = overlay.next().await;
    assert_eq!(counts(&next), [2], "no hole was shown");
    overlay.until(|snapshot| counts(snapshot) == [3]).await;
    assert_eq!(world.feed.connections()[1], Some("1:1".parse().unwrap()));
    assert_eq!(world.consumer.metric("replays_total"), 1);
}
