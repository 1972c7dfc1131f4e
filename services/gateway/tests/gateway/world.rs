//! A gateway between a scripted builder and WebSocket clients of its own.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use futures_util::StreamExt;
use preconf_chassis::{Context, Endpoint, Security};
use preconf_gateway::{Addresses, Config};
use preconf_wire::json::SUBPROTOCOL;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::CloseFrame,
    },
};

use crate::{
    builder::{Builder, Script},
    sequencer::{CHAIN_ID, Sequencer},
};

/// Longer than anything takes, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How often a counter is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What a test is made of.
pub(crate) struct World {
    pub(crate) sequencer: Sequencer,
    pub(crate) script: Script,
    pub(crate) gateway: Gateway,
    builder: Option<Builder>,
    directory: TempDir,
}

impl World {
    /// A gateway that follows a running builder.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with more flags.
    pub(crate) async fn with(flags: &[&str]) -> Self {
        let mut world = Self::without_builder(flags).await;
        world.start_builder().await;
        world.gateway.context.health.until_ready().await;
        world
    }

    /// A gateway whose builder is not there yet.
    pub(crate) async fn without_builder(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sequencer = Sequencer::new();
        let gateway = Gateway::start(&upstream(&directory), &sequencer, flags).await;
        Self { sequencer, script: Script::new(), gateway, builder: None, directory }
    }

    pub(crate) async fn start_builder(&mut self) {
        let endpoint: Endpoint = upstream(&self.directory).parse().unwrap();
        self.builder = Some(Builder::start(&self.script, &endpoint).await);
    }

    pub(crate) async fn stop_builder(&mut self) {
        self.builder.take().unwrap().stop().await;
    }

    /// Publishes flashblocks `indexes` of session `seq`.
    pub(crate) fn publish(&mut self, seq: u64, indexes: impl IntoIterator<Item = u64>) {
        for index in indexes {
            self.script.publish(self.sequencer.flashblock(seq, index));
        }
    }

    /// Publishes them and waits until the gateway serves them.
    pub(crate) async fn publish_and_wait(
        &mut self,
        seq: u64,
        indexes: impl IntoIterator<Item = u64>,
    ) {
        let before = self.gateway.count(FLASHBLOCKS);
        let indexes: Vec<_> = indexes.into_iter().collect();
        let count = indexes.len() as u64;
        self.publish(seq, indexes);
        self.gateway.counts(FLASHBLOCKS, before + count).await;
    }
}

/// The counter of served flashblocks.
pub(crate) const FLASHBLOCKS: &str = r#"messages_served_total{kind="flashblock"}"#;

fn upstream(directory: &TempDir) -> String {
    format!("unix:{}", directory.path().join("builder.sock").display())
}

/// A gateway in this process.
pub(crate) struct Gateway {
    pub(crate) context: Context,
    pub(crate) addresses: Addresses,
}

impl Gateway {
    pub(crate) async fn start(upstream: &str, sequencer: &Sequencer, flags: &[&str]) -> Self {
        Self::start_as(Security::default(), upstream, sequencer, flags).await
    }

    /// One that shows a certificate.
    pub(crate) async fn start_as(
        security: Security,
        upstream: &str,
        sequencer: &Sequencer,
        flags: &[&str],
    ) -> Self {
        let key = sequencer.public_key().to_string();
        let chain_id = CHAIN_ID.to_string();
        let required = [
            "preconf-gateway",
            "--upstream",
            upstream,
            "--chain-id",
            &chain_id,
            "--sequencer-pubkey",
            &key,
            "--flashblock-ws-addr",
            "127.0.0.1:0",
        ];
        let config = Config::try_parse_from(required.iter().chain(flags)).unwrap();
        let context = Context::for_test();
        let addresses = preconf_gateway::start(&config, security, context.clone()).await.unwrap();
        Self { context, addresses }
    }

    /// A reader of flashblocks as JSON.
    pub(crate) async fn reader(&self) -> Client {
        Client::connect(self.addresses.websocket, "/", None).await.unwrap()
    }

    /// A reader of every message.
    pub(crate) async fn preconf_v1(&self, target: &str) -> Client {
        Client::connect(self.addresses.websocket, target, Some(SUBPROTOCOL)).await.unwrap()
    }

    /// The value of a metric, 0 if it is not there yet.
    pub(crate) fn count(&self, metric: &str) -> u64 {
        let metric = format!("preconf_test_{metric} ");
        let text = self.context.registry.encode();
        let value = text.lines().find_map(|line| line.strip_prefix(&metric));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(crate) async fn counts(&self, metric: &str, expected: u64) {
        eventually(
            || self.count(metric) == expected,
            || format!("{metric} is {}, not {expected}", self.count(metric)),
        )
        .await;
    }
}

/// Waits until something holds that tells nobody, as a counter does: it is looked at now and then.
pub(crate) async fn eventually(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let mut looks = interval(LOOK);
    let holds = async {
        while !condition() {
            looks.tick().await;
        }
    };
    if timeout(SOON, holds).await.is_err() {
        panic!("{}", otherwise());
    }
}

/// A WebSocket client.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(
        address: SocketAddr,
        target: &str,
        subprotocol: Option<&'static str>,
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        Self::over(stream, target, subprotocol).await
    }

    /// A client that the kernel buffers little for.
    pub(crate) async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(128 * 1024).unwrap();
        Self::over(socket.connect(address).await.unwrap(), "/", None).await.unwrap()
    }

    async fn over(
        stream: TcpStream,
        target: &str,
        subprotocol: Option<&'static str>,
    ) -> Result<Self, Error> {
        let mut request = format!("ws://gateway{target}").into_client_request()?;
        if let Some(subprotocol) = subprotocol {
            let value = HeaderValue::from_static(subprotocol);
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        let (socket, _) = timeout(SOON, client_async(request, stream)).await.unwrap()?;
        Ok(Self { socket })
    }

    pub(crate) async fn message(&mut self) -> Message {
        loop {
            let message = timeout(SOON, self.socket.next()).await.expect("a message in time");
            match message.expect("the connection is open").unwrap() {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    /// The next message, which must be a text frame.
    pub(crate) async fn json(&mut self) -> Value {
        match self.message().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no text frame"),
        }
    }

    /// Reads flashblocks and says where they stand.
    pub(crate) async fn positions(&mut self, count: usize) -> Vec<String> {
        let mut positions = Vec::new();
        for _ in 0..count {
            positions.push(position(&self.json().await));
        }
        positions
    }

    /// Reads to the end and says how it was closed.
    pub(crate) async fn closed(&mut self) -> CloseFrame {
        loop {
            if let Message::Close(frame) = self.message().await {
                return frame.expect("a close frame with a code");
            }
        }
    }
}

/// Where a flashblock stands, written `seq:index`.
pub(crate) fn position(flashblock: &Value) -> String {
    assert!(flashblock["payload_id"].is_string(), "{flashblock} is no flashblock");
    format!("{}:{}", flashblock["session"], flashblock["index"])
}
