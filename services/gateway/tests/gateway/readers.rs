//! What readers see when all goes well.

use bytes::Bytes;
use futures_util::SinkExt;
use preconf_subscribe::{Event, Subscription};
use preconf_wire::{feed::FeedItem, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::world::{Client, Gateway, World, position};

#[tokio::test]
async fn a_newcomer_in_the_middle_of_a_session_begins_at_index_0() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..3).await;
    world.publish_and_wait(2, 0..4).await;

    let mut newcomer = world.gateway.reader().await;
    assert_eq!(newcomer.positions(4).await, ["2:0", "2:1", "2:2", "2:3"]);

    world.publish(2, 4..5);
    assert_eq!(newcomer.positions(1).await, ["2:4"]);
}

#[tokio::test]
async fn a_brotli_reader_gets_the_same_content_in_binary_frames() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let large = vec![7; 100_000];
    world.script.publish(world.sequencer.with_transactions(1, 1, &[&large]));
    let address = world.gateway.addresses.websocket;
    let mut plain = world.gateway.reader().await;
    let mut compressed = Client::connect(address, "/?encoding=brotli", None).await.unwrap();

    for _ in 0..2 {
        let Message::Text(text) = plain.message().await else { panic!("a text frame") };
        let Message::Binary(frame) = compressed.message().await else { panic!("a binary frame") };
        assert!(frame.len() < text.len());
        assert_eq!(json::decompress(&frame).unwrap(), text.as_bytes());
    }
}

#[tokio::test]
async fn a_plain_reader_sees_flashblocks_only_and_one_of_preconf_v1_sees_all() {
    let mut world = World::new().await;
    world.publish_and_wait(1, 0..1).await;
    let mut plain = world.gateway.reader().await;
    let mut all = world.gateway.preconf_v1("/").await;
    world.script.publish(world.sequencer.sealed(1));
    world.publish(2, 0..1);
    world.script.publish(world.sequencer.abandoned(2));
    world.publish(3, 0..1);

    assert_eq!(plain.positions(3).await, ["1:0", "2:0", "3:0"]);
    assert_eq!(position(&all.json().await), "1:0");
    let sealed = all.json().await;
    assert_eq!((&sealed["type"], &sealed["session"]), (&"sealed".into(), &1.into()));
    assert_eq!(position(&all.json().await), "2:0");
    let abandoned = all.json().await;
    assert_eq!(abandoned["type"], "abandoned");
    assert_eq!(abandoned["reason"], "head_changed");
    assert_eq!(position(&all.json().await), "3:0");
}

#[tokio::test]
async fn a_cursor_resumes_without_a_hole_and_an_unknown_one_is_a_gap() {
    let mut world = World::new().await;
    world.publish_and_wait(5, 0..3).await;
    world.publish_and_wait(6, 0..2).await;
    let address = world.gateway.addresses.websocket;

    let mut resumed = Client::connect(address, "/feed?cursor=5:1", None).await.unwrap();
    assert_eq!(resumed.positions(4).await, ["5:1", "5:2", "6:0", "6:1"]);

    let mut all = world.gateway.preconf_v1("/?cursor=3:9").await;
    let gap = all.json().await;
    assert_eq!(gap, serde_json::json!({"type": "gap", "wanted": "3:9", "next": "5:0"}));
    assert_eq!(all.positions(1).await, ["5:0"]);

    let mut plain = Client::connect(address, "/?cursor=3:9", None).await.unwrap();
    assert_eq!(plain.positions(2).await, ["6:0", "6:1"]);
}

#[tokio::test]
async fn a_gateway_follows_a_gateway_over_grpc_and_over_websocket() {
    let mut world = World::with(&["--feed-listen", "http://127.0.0.1:0"]).await;
    let grpc = world.gateway.addresses.feed.clone().unwrap().to_string();
    let websocket = format!("ws://{}", world.gateway.addresses.websocket);
    world.publish_and_wait(1, 0..2).await;

    for upstream in [grpc, websocket] {
        let second = Gateway::start(&upstream, &world.sequencer, &[]).await;
        second.context.health.until_ready().await;
        let mut reader = second.preconf_v1("/").await;
        assert_eq!(reader.positions(2).await, ["1:0", "1:1"], "{upstream}");
    }
    world.script.publish(world.sequencer.sealed(1));
}

#[tokio::test]
async fn a_grpc_subscriber_resumes_at_its_cursor_and_gets_statements() {
    let mut world = World::with(&["--feed-listen", "http://127.0.0.1:0"]).await;
    world.publish_and_wait(1, 0..3).await;
    world.script.publish(world.sequencer.sealed(1));
    let url = world.gateway.addresses.feed.clone().unwrap().to_string().parse().unwrap();
    let cursor = || "1:1".parse().ok();
    let mut feed = Subscription::spawn(url, Default::default(), cursor).unwrap();

    assert!(matches!(feed.next().await, Event::Connected));
    for expected in ["1:1", "1:2"] {
        let Event::Item(FeedItem::Flashblock(signed)) = feed.next().await else { panic!() };
        assert_eq!(signed.flashblock.position().to_string(), expected);
    }
    assert!(matches!(feed.next().await, Event::Item(FeedItem::Sealed(_))));
}

#[tokio::test]
async fn a_reader_that_pings_is_answered_and_what_it_says_is_ignored() {
    let mut world = World::new().await;
    let mut reader = world.gateway.reader().await;

    reader.socket.send(Message::text("subscribe")).await.unwrap();
    reader.socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();

    let Message::Pong(payload) = reader.message().await else { panic!("a pong") };
    assert_eq!(payload, b"there?"[..]);
    world.publish(1, 0..1);
    assert_eq!(reader.positions(1).await, ["1:0"]);
}

#[tokio::test]
async fn what_is_no_websocket_and_a_query_without_sense_are_answered_with_a_sentence() {
    let world = World::new().await;
    for (request, answer) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("\u{16}\u{3}\u{1} hello\r\n\r\n", "HTTP/1.1 400 "),
        (
            "GET /?cursor=abc HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "HTTP/1.1 400 ",
        ),
    ] {
        let mut stream =
            tokio::net::TcpStream::connect(world.gateway.addresses.websocket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(answer), "{request:?} was answered with {text:?}");
    }
    world.gateway.counts(r#"readers_refused_total{reason="bad_query"}"#, 1).await;
}
