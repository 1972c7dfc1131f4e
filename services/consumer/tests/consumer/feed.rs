//! A scripted feed: a gateway's WebSocket that also sends what no gateway would.

#![expect(clippy::result_large_err, reason = "the signature of a handshake is the library's")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use preconf_primitives::Position;
use preconf_wire::{feed::FeedItem, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

use crate::world::SOON;

/// A running feed. Dropping it closes every connection.
pub(crate) struct Feed {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// What can be replayed, each with the position that it belongs to.
    log: Mutex<Vec<(Position, String)>>,
    live: broadcast::Sender<Sent>,
    /// The cursor of each connection that there was.
    connections: watch::Sender<Vec<Option<Position>>>,
    /// Whether what is published now is lost on its way and only found by a replay.
    loses: AtomicBool,
    /// Whether it is a bera-reth sequencer: no sub-protocol, and whoever comes gets what comes.
    is_upstream: bool,
}

#[derive(Clone)]
enum Sent {
    Frame(Message),
    Close,
}

impl Feed {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(address, false).await
    }

    /// A bera-reth sequencer.
    pub(crate) async fn start_upstream() -> Self {
        Self::serve(([127, 0, 0, 1], 0).into(), true).await
    }

    async fn serve(address: SocketAddr, is_upstream: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            live: broadcast::channel(1024).0,
            connections: watch::Sender::default(),
            loses: AtomicBool::new(false),
            is_upstream,
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { address, shared, task }
    }

    /// Publishes an item, which can be replayed.
    pub(crate) fn publish(&self, item: &FeedItem) {
        let position = match item {
            FeedItem::Flashblock(signed) => signed.flashblock.position(),
            FeedItem::Sealed(signed) => Position::new(signed.statement.seq, u64::MAX),
            FeedItem::Abandoned(signed) => Position::new(signed.statement.seq, u64::MAX),
            FeedItem::Retracted(signed) => signed.statement.at,
            FeedItem::Gap { .. } | FeedItem::Goodbye { .. } => panic!("not for the log"),
        };
        let frame = json::encode(item);
        let mut log = self.shared.log.lock();
        log.push((position, frame.clone()));
        if !self.shared.loses.load(Ordering::Relaxed) {
            let _ = self.shared.live.send(Sent::Frame(Message::text(frame)));
        }
    }

    /// Publishes an item that nobody receives unless it is replayed.
    pub(crate) fn lose(&self, item: &FeedItem) {
        self.shared.loses.store(true, Ordering::Relaxed);
        self.publish(item);
        self.shared.loses.store(false, Ordering::Relaxed);
    }

    /// Sends any message to those who are connected.
    pub(crate) fn send(&self, message: Message) {
        let _ = self.shared.live.send(Sent::Frame(message));
    }

    /// Closes every connection; new ones are accepted.
    pub(crate) fn close_connections(&self) {
        let _ = self.shared.live.send(Sent::Close);
    }

    /// The cursors with which the consumer has connected so far.
    pub(crate) fn connections(&self) -> Vec<Option<Position>> {
        self.shared.connections.borrow().clone()
    }

    /// Waits for so many connections.
    pub(crate) async fn until_connections(&self, count: usize) {
        let mut connections = self.shared.connections.subscribe();
        let enough = connections.wait_for(|connections| connections.len() >= count);
        timeout(SOON, enough).await.expect("a connection in time").unwrap();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut cursor = None;
    let live = shared.live.subscribe();
    let is_upstream = shared.is_upstream;
    let accepted = accept_hdr_async(stream, |request: &Request, response| {
        if is_upstream { Ok(response) } else { answer(request, response, &mut cursor) }
    });
    let Ok(mut socket) = accepted.await else { return };
    let (replay, mut live) = if is_upstream {
        shared.connections.send_modify(|connections| connections.push(None));
        (Vec::new(), live)
    } else {
        let log = shared.log.lock();
        let current = log.iter().rev().map(|(position, _)| *position).find(|at| at.index == 0);
        let from = cursor.or(current).unwrap_or_default();
        let begins = |(position, _): &&(Position, String)| *position >= from;
        let replay: Vec<String> =
            log.iter().filter(begins).map(|(_, frame)| frame.clone()).collect();
        shared.connections.send_modify(|connections| connections.push(cursor));
        (replay, shared.live.subscribe())
    };
    for frame in replay {
        if socket.send(Message::text(frame)).await.is_err() {
            return;
        }
    }
    loop {
        tokio::select! {
            sent = live.recv() => match sent {
                Ok(Sent::Frame(message)) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Ok(Sent::Close) => {
                    let _ = socket.close(None).await;
                    return;
                }
                Err(_) => return,
            },
            message = socket.next() => {
                if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}

fn answer(
    request: &Request,
    mut response: Response,
    cursor: &mut Option<Position>,
) -> Result<Response, ErrorResponse> {
    let query = request.uri().query().unwrap_or_default();
    let url = url::Url::parse(&format!("ws://feed/?{query}")).unwrap();
    let mut pairs = url.query_pairs();
    *cursor = pairs.find(|(key, _)| key == "cursor").map(|(_, value)| value.parse().unwrap());
    if let Some(asked) = request.headers().get(SEC_WEBSOCKET_PROTOCOL) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, asked.clone());
    }
    Ok(response)
}
