//! Subscriptions against real servers on a port of this machine.

#![allow(
    clippy::result_large_err,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops where it fails, and errors of the library are as large as they are"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use preconf_chassis::{Context, Endpoint, Security, grpc};
use preconf_primitives::Position;
use preconf_subscribe::{Config, Disconnect, DisconnectReason, Event, FeedUrl, Subscription};
use preconf_wire::{
    feed::{self, FeedItem, FeedService, FeedStream, GoodbyeReason, SubscribeError},
    json,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tonic::service::Routes;

/// Longer than anything takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const UPSTREAM_FLASHBLOCK: &str = r#"{"payload_id":"0x0000000000000001","index":1,"base":null,"diff":{"transactions":[],"withdrawals":[]},"metadata":{"block_number":7},"signature":"0x000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000","is_last":false}"#;

/// A WebSocket server that does what a test tells it.
struct Server {
    listener: TcpListener,
    knows_subprotocol: bool,
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, knows_subprotocol: true }
    }

    fn url(&self) -> FeedUrl {
        format!("ws://{}/feed", self.listener.local_addr().unwrap()).parse().unwrap()
    }

    fn follow(&self, config: Config) -> Subscription {
        Subscription::spawn(self.url(), config, || None).unwrap()
    }

    /// The next connection, and what it asked for. One that breaks in the handshake is skipped.
    async fn accept(&self) -> (WebSocketStream<TcpStream>, String) {
        loop {
            let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
            let mut target = String::new();
            let answer = |request: &Request, response| self.answer(request, response, &mut target);
            if let Ok(socket) = accept_hdr_async(stream, answer).await {
                return (socket, target);
            }
        }
    }

    fn answer(
        &self,
        request: &Request,
        mut response: Response,
        target: &mut String,
    ) -> Result<Response, ErrorResponse> {
        *target = request.uri().to_string();
        if let (true, Some(asked)) =
            (self.knows_subprotocol, request.headers().get(SEC_WEBSOCKET_PROTOCOL))
        {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, asked.clone());
        }
        Ok(response)
    }
}

fn gap(index: u64) -> FeedItem {
    FeedItem::Gap { wanted: "7:3".parse().unwrap(), next: format!("8:{index}").parse().unwrap() }
}

async fn send(socket: &mut WebSocketStream<TcpStream>, item: &FeedItem) {
    socket.send(Message::text(json::encode(item))).await.unwrap();
}

async fn next(subscription: &mut Subscription) -> Event {
    timeout(SOON, subscription.next()).await.expect("an event in time")
}

async fn item(subscription: &mut Subscription) -> FeedItem {
    match next(subscription).await {
        Event::Item(item) => item,
        other => panic!("{other:?} is no item"),
    }
}

async fn connected(subscription: &mut Subscription) {
    let event = next(subscription).await;
    assert!(matches!(event, Event::Connected), "{event:?}");
}

async fn disconnected(subscription: &mut Subscription) -> Disconnect {
    match next(subscription).await {
        Event::Disconnected(disconnect) => disconnect,
        other => panic!("{other:?} is no end"),
    }
}

#[tokio::test]
async fn each_connection_asks_for_what_the_owner_wants_then() {
    let server = Server::new().await;
    let cursor = Arc::new(Mutex::new(None::<Position>));
    let wanted = Arc::clone(&cursor);
    let mut subscription =
        Subscription::spawn(server.url(), Config::default(), move || *wanted.lock().unwrap())
            .unwrap();

    let (mut socket, target) = server.accept().await;
    assert_eq!(target, "/feed");
    connected(&mut subscription).await;
    send(&mut socket, &gap(0)).await;
    assert_eq!(item(&mut subscription).await, gap(0));
    *cursor.lock().unwrap() = "8:1".parse().ok();
    let close = CloseFrame { code: CloseCode::Restart, reason: "8:1".into() };
    socket.close(Some(close)).await.unwrap();

    let end = disconnected(&mut subscription).await;
    assert_eq!((end.reason, end.detail.as_str()), (DisconnectReason::Closed, "1012 8:1"));
    let (_socket, target) = server.accept().await;
    assert_eq!(target, "/feed?cursor=8%3A1");
    connected(&mut subscription).await;
}

#[tokio::test]
async fn a_server_that_knows_no_sub_protocol_is_read_all_the_same() {
    let mut server = Server::new().await;
    server.knows_subprotocol = false;
    let mut subscription = server.follow(Config::default());
    // The first attempt is given up by the client after the handshake.
    let (_given_up, _) = server.accept().await;
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;

    socket.send(Message::text(UPSTREAM_FLASHBLOCK)).await.unwrap();

    let Event::Upstream(flashblock) = next(&mut subscription).await else { panic!() };
    assert_eq!((flashblock.block_number, flashblock.index), (7, 1));
}

#[tokio::test]
async fn a_bad_frame_is_told_and_the_connection_goes_on() {
    let server = Server::new().await;
    let mut subscription = server.follow(Config::default());
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;

    socket.send(Message::text("{}")).await.unwrap();
    socket.send(Message::binary(&b"neither json nor brotli"[..])).await.unwrap();
    send(&mut socket, &gap(0)).await;

    assert!(matches!(next(&mut subscription).await, Event::BadFrame(_)));
    assert!(matches!(next(&mut subscription).await, Event::BadFrame(_)));
    assert_eq!(item(&mut subscription).await, gap(0));
}

#[tokio::test]
async fn the_json_of_a_frame_is_told_to_those_who_ask() {
    let server = Server::new().await;
    let mut subscription = server.follow(Config { raw: true, ..Config::default() });
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;
    let text = json::encode(&gap(0));

    socket.send(Message::binary(json::compress(text.as_bytes()))).await.unwrap();

    let Event::Raw(raw) = next(&mut subscription).await else { panic!() };
    assert_eq!(raw, text.as_bytes());
    assert_eq!(item(&mut subscription).await, gap(0));
}

#[tokio::test]
async fn a_peer_that_does_not_even_answer_pings_is_left() {
    let server = Server::new().await;
    let idle = Duration::from_millis(150);
    let mut subscription = server.follow(Config { idle, ..Config::default() });
    let (_silent, _) = server.accept().await;
    connected(&mut subscription).await;

    assert_eq!(disconnected(&mut subscription).await.reason, DisconnectReason::Idle);
}

#[tokio::test]
async fn a_peer_that_answers_pings_may_have_nothing_to_say() {
    let server = Server::new().await;
    let idle = Duration::from_millis(900);
    let mut subscription = server.follow(Config { idle, ..Config::default() });
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;

    // Three pings fit into the time that a silent peer is given.
    for _ in 0..7 {
        let message = timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
    }
    send(&mut socket, &gap(0)).await;

    assert_eq!(item(&mut subscription).await, gap(0));
}

#[tokio::test]
async fn what_was_received_before_reconnecting_is_not_told_after_it() {
    let server = Server::new().await;
    let mut subscription = server.follow(Config::default());
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;
    for index in 0..3 {
        send(&mut socket, &gap(index)).await;
    }
    assert_eq!(item(&mut subscription).await, gap(0));

    subscription.reconnect();

    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;
    send(&mut socket, &gap(9)).await;
    assert_eq!(item(&mut subscription).await, gap(9));
}

#[tokio::test]
async fn an_owner_that_does_not_read_holds_back_the_peer_and_loses_nothing() {
    const FRAMES: u64 = 300;
    let server = Server::new().await;
    let mut subscription = server.follow(Config { queue: 2, ..Config::default() });
    let (mut socket, _) = server.accept().await;
    connected(&mut subscription).await;
    let sending = async move {
        for index in 0..FRAMES {
            let padding = " ".repeat(100_000);
            let text = json::encode(&gap(index)) + &padding;
            socket.send(Message::text(text)).await.unwrap();
        }
        socket
    };
    let mut sending = Box::pin(sending);
    let held_back = timeout(Duration::from_millis(500), &mut sending).await.is_err();
    assert!(held_back, "30 MB are more than the sockets hold");

    let reading = async {
        for index in 0..FRAMES {
            assert_eq!(item(&mut subscription).await, gap(index));
        }
    };
    tokio::join!(sending, reading);
}

/// A feed that takes nobody.
struct Full;

impl FeedService for Full {
    fn subscribe(&self, _: Option<Position>) -> Result<FeedStream, SubscribeError> {
        Err(SubscribeError::Full)
    }
}

/// A feed of one message.
struct Goodbye;

impl FeedService for Goodbye {
    fn subscribe(&self, cursor: Option<Position>) -> Result<FeedStream, SubscribeError> {
        let goodbye = FeedItem::Goodbye { reason: GoodbyeReason::Draining, cursor };
        Ok(Box::pin(futures_util::stream::iter([Arc::new(goodbye)])))
    }
}

async fn serve<S: FeedService>(service: S) -> (Context, FeedUrl) {
    let context = Context::for_test();
    let anywhere: Endpoint = "http://127.0.0.1:0".parse().unwrap();
    let listener = context.bind("feed", &anywhere, &Security::default()).await.unwrap();
    let url = listener.local().to_string().parse().unwrap();
    let routes = Routes::new(feed::server(Arc::new(service)));
    context.tasks.spawn("feed", grpc::serve(listener, routes, context.shutdown.clone()));
    (context, url)
}

#[tokio::test]
async fn a_grpc_feed_that_ends_is_asked_again() {
    let (_context, url) = serve(Goodbye).await;
    let cursor = || "3:1".parse().ok();
    let mut subscription = Subscription::spawn(url, Config::default(), cursor).unwrap();

    for _ in 0..2 {
        connected(&mut subscription).await;
        let goodbye = FeedItem::Goodbye { reason: GoodbyeReason::Draining, cursor: cursor() };
        assert_eq!(item(&mut subscription).await, goodbye);
        assert_eq!(disconnected(&mut subscription).await.reason, DisconnectReason::Closed);
    }
}

#[tokio::test]
async fn a_feed_without_room_refuses_and_one_that_is_not_there_is_unreachable() {
    let (_context, full) = serve(Full).await;
    let mut subscription = Subscription::spawn(full, Config::default(), || None).unwrap();
    assert_eq!(disconnected(&mut subscription).await.reason, DisconnectReason::Refused);

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    for scheme in ["ws", "http"] {
        let url = format!("{scheme}://{address}").parse().unwrap();
        let mut subscription = Subscription::spawn(url, Config::default(), || None).unwrap();
        let end = disconnected(&mut subscription).await;
        assert_eq!(end.reason, DisconnectReason::Unreachable, "{end}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_allowed_is_refused_at_once() {
    let url: FeedUrl = "http://10.0.0.1:9000".parse().unwrap();

    let refusal = Subscription::spawn(url, Config::default(), || None).unwrap_err();

    assert!(refusal.to_string().contains("plaintext beyond loopback"), "{refusal}");
}
