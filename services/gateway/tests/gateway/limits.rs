//! Readers that are slow or too many, and a gateway that stops.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, future::join_all};
use preconf_subscribe::{Event, Subscription};
use preconf_wire::feed::{FeedItem, GoodbyeReason};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::frame::coding::CloseCode};

use crate::world::{Client, World, eventually, position};

#[tokio::test]
async fn a_slow_reader_is_closed_with_its_cursor_and_others_are_not_affected() {
    let mut world = World::with(&["--max-lag-ms", "100"]).await;
    let mut slow = Client::narrow(world.gateway.addresses.websocket).await;
    let mut fast = world.gateway.reader().await;
    let large = vec![7; 1 << 20];
    let too_slow = r#"readers_ended_total{reason="too_slow"}"#;

    let mut published = 0;
    while world.gateway.count(too_slow) == 0 {
        assert!(published < 200, "the slow reader was never closed");
        world.script.publish(world.sequencer.with_transactions(1, published, &[&large]));
        assert_eq!(fast.positions(1).await, [format!("1:{published}")]);
        published += 1;
        if published == 1 {
            // Whoever has never kept up is replaying, and is given more time.
            assert_eq!(slow.positions(1).await, ["1:0"]);
        }
    }

    let mut got = vec![];
    let close = loop {
        match slow.message().await {
            Message::Close(frame) => break frame.unwrap(),
            message => {
                got.push(position(&serde_json::from_str(&message.into_text().unwrap()).unwrap()));
            }
        }
    };
    assert_eq!(close.code, CloseCode::Again);
    let expected: Vec<_> = (1..=got.len()).map(|index| format!("1:{index}")).collect();
    assert_eq!(got, expected, "nothing is missing before the close");
    assert_eq!(close.reason.as_str(), format!("1:{}", got.len() + 1));
    assert!((got.len() as u64) < published - 1, "the reader did lag");
}

#[tokio::test]
async fn readers_over_the_limit_are_told_so() {
    let mut world = World::with(&["--max-connections", "2"]).await;
    let address = world.gateway.addresses.websocket;
    let mut first = world.gateway.reader().await;
    // It has said nothing yet, and has a place all the same.
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();

    let mut refused = Client::connect(address, "/", None).await.map(drop);
    let tried = std::time::Instant::now();
    while refused.is_ok() && tried.elapsed() < Duration::from_secs(10) {
        // The silent one may not have been accepted yet.
        refused = Client::connect(address, "/", None).await.map(drop);
    }
    let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
    assert!(world.gateway.count(r#"readers_refused_total{reason="full"}"#) >= 1);

    drop(silent);
    world.gateway.counts(r#"readers_refused_total{reason="broken"}"#, 1).await;
    let mut second = world.gateway.reader().await;
    world.publish(1, 0..1);
    assert_eq!(first.positions(1).await, ["1:0"]);
    assert_eq!(second.positions(1).await, ["1:0"]);
}

#[tokio::test]
async fn a_gateway_that_stops_closes_its_readers_with_their_cursors() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..2).await;
    let address = world.gateway.addresses.websocket;
    let mut plain = world.gateway.reader().await;
    let mut all = world.gateway.preconf_v1("/").await;
    assert_eq!(plain.positions(2).await, ["1:0", "1:1"]);
    assert_eq!(all.positions(2).await, ["1:0", "1:1"]);

    world.gateway.context.shutdown.trigger();

    // The others have not answered the close yet, so the port is still there.
    let refused = Client::connect(address, "/", None).await.map(drop);
    let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
    let goodbye = all.json().await;
    let expected = serde_json::json!({"type": "goodbye", "reason": "draining", "cursor": "1:2"});
    assert_eq!(goodbye, expected);
    for reader in [&mut plain, &mut all] {
        let close = reader.closed().await;
        assert_eq!((close.code, close.reason.as_str()), (CloseCode::Restart, "1:2"));
    }
    world.gateway.context.finish(Duration::from_secs(10)).await.unwrap();
    assert_eq!(world.gateway.count(r#"readers{via="websocket"}"#), 0);
    eventually(|| world.gateway.context.tasks.is_empty(), || "tasks are left".to_owned()).await;
}

#[tokio::test]
async fn readers_of_a_gateway_that_stops_leave_one_after_the_other_and_are_served_until_then() {
    const READERS: usize = 10;
    let mut world = World::with(&["--drain-timeout-ms", "4000"]).await;
    world.publish_and_wait(1, 0..1).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = world.gateway.reader().await;
        assert_eq!(reader.positions(1).await, ["1:0"]);
        readers.push(reader);
    }

    let stopping = Instant::now();
    world.gateway.context.shutdown.trigger();
    let closing = readers.into_iter().map(|mut reader| async move {
        let close = reader.closed().await;
        (stopping.elapsed(), close.code, close.reason.to_string())
    });
    let published = async {
        // The first has left by then, and the others have not.
        let left = r#"readers_ended_total{reason="draining"}"#;
        let leaves = || world.gateway.count(left) > 0;
        eventually(leaves, || "nobody leaves".to_owned()).await;
        world.publish_and_wait(1, 1..2).await;
    };
    let (closed, ()) = tokio::join!(join_all(closing), published);

    let mut at: Vec<_> = closed.iter().map(|(at, _, _)| *at).collect();
    at.sort();
    let [first, last] = [at[0], at[READERS - 1]];
    assert!(last - first >= Duration::from_secs(1), "all leave within {:?}", last - first);
    assert!(closed.iter().all(|(_, code, _)| *code == CloseCode::Restart), "{closed:?}");
    let served = closed.iter().filter(|(_, _, cursor)| cursor == "1:2").count();
    assert!(served >= READERS / 2, "{served} were served while the gateway drained: {closed:?}");
    world.gateway.context.finish(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_stops_says_goodbye_to_grpc_subscribers() {
    let mut world = World::with(&["--feed-listen", "http://127.0.0.1:0"]).await;
    world.publish_and_wait(1, 0..1).await;
    let url = world.gateway.addresses.feed.clone().unwrap().to_string().parse().unwrap();
    let mut feed = Subscription::spawn(url, Default::default(), || None).unwrap();
    assert!(matches!(feed.next().await, Event::Connected));
    assert!(matches!(feed.next().await, Event::Item(FeedItem::Flashblock(_))));

    world.gateway.context.shutdown.trigger();

    let Event::Item(goodbye) = feed.next().await else { panic!("a goodbye") };
    let cursor = "1:1".parse().ok();
    assert_eq!(goodbye, FeedItem::Goodbye { reason: GoodbyeReason::Draining, cursor });
    world.gateway.context.finish(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_says_too_much_is_left() {
    let mut world = World::new().await;
    let mut loud = world.gateway.reader().await;
    let mut quiet = world.gateway.reader().await;

    // The gateway may be gone before all of it is written.
    let _ = loud.socket.send(Message::text("x".repeat(100_000))).await;

    world.gateway.counts(r#"readers_ended_total{reason="left"}"#, 1).await;
    world.publish(1, 0..1);
    assert_eq!(quiet.positions(1).await, ["1:0"]);
}
