//! An overlay between a consumer, a builder and an execution client that do what a test says.

#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod client;
pub(crate) mod peers;
pub(crate) mod snapshots;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use preconf_chassis::{Context, Exit};
use preconf_rpc_overlay::{Config, spawn};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use self::{
    client::ExecutionClient,
    peers::{Builder, Consumer},
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// An overlay and whom it knows. Sockets and files are in a directory of its own.
pub(crate) struct World {
    pub(crate) client: ExecutionClient,
    pub(crate) overlay: Overlay,
    directory: tempfile::TempDir,
}

/// A running overlay.
pub(crate) struct Overlay {
    pub(crate) context: Context,
    pub(crate) address: SocketAddr,
}

impl World {
    /// Starts an overlay whose consumer and builder are not there.
    pub(crate) async fn new(flags: &[&str]) -> Self {
        Self::with_client(ExecutionClient::start().await, flags).await
    }

    /// Starts an overlay whose sequencer has no ingress, with a consumer as in [`Self::ready`].
    pub(crate) async fn without_ingress() -> (Self, Consumer) {
        Self::begin(ExecutionClient::start().await, &[], false).await.with_consumer().await
    }

    pub(crate) async fn with_client(client: ExecutionClient, flags: &[&str]) -> Self {
        Self::begin(client, flags, true).await
    }

    async fn begin(client: ExecutionClient, flags: &[&str], has_ingress: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("genesis.json"), snapshots::GENESIS).unwrap();
        let required = [
            "rpc-overlay".to_owned(),
            "--http-addr=127.0.0.1:0".to_owned(),
            format!("--pending=unix:{}", path("pending.sock")),
            format!("--execution-url=http://{}", client.address),
            format!("--genesis={}", path("genesis.json")),
        ];
        let ingress = has_ingress.then(|| format!("--ingress=unix:{}", path("ingress.sock")));
        let flags =
            required.into_iter().chain(ingress).chain(flags.iter().map(|flag| (*flag).to_owned()));
        let prepared = Config::try_parse_from(flags).unwrap().prepare().unwrap();
        let context = Context::for_test();
        let address = spawn(prepared, &context).await.unwrap();
        Self { client, overlay: Overlay { context, address }, directory }
    }

    /// Starts an overlay and a consumer with two pending blocks, and waits until it is ready.
    pub(crate) async fn ready(flags: &[&str]) -> (Self, Consumer) {
        Self::new(flags).await.with_consumer().await
    }

    async fn with_consumer(self) -> (Self, Consumer) {
        let consumer = self.consumer().await;
        consumer.greet_with(snapshots::update(7, snapshots::Sealing::Provisional));
        self.until_ready().await;
        (self, consumer)
    }

    pub(crate) async fn consumer(&self) -> Consumer {
        Consumer::start(&self.socket("pending.sock")).await
    }

    pub(crate) async fn builder(&self) -> Builder {
        Builder::start(&self.socket("ingress.sock")).await
    }

    pub(crate) async fn until_ready(&self) {
        timeout(DEADLINE, self.overlay.context.health.until_ready()).await.unwrap();
    }

    pub(crate) async fn until_not_ready(&self) {
        let not_ready = async {
            while self.is_ready() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, not_ready).await.unwrap();
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.overlay.context.health.is_ready()
    }

    /// Asks the overlay and returns the whole answer.
    pub(crate) async fn request(&self, method: &str, params: Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        serde_json::from_str(&self.post(&body.to_string()).await).unwrap()
    }

    /// Asks the overlay and returns the result, which there must be.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.request(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Asks the overlay and returns the error, which there must be.
    pub(crate) async fn refusal(&self, method: &str, params: Value) -> (i64, String) {
        let answer = self.request(method, params).await;
        let error = &answer["error"];
        assert!(error.is_object(), "{method}: {answer}");
        (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
    }

    /// Asks until the answer is `expected`.
    pub(crate) async fn until(&self, method: &str, params: Value, expected: Value) {
        let asking = async {
            while self.request(method, params.clone()).await["result"] != expected {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(DEADLINE, asking).await.is_ok(), "{method} never becomes {expected}");
    }

    /// Posts a body as it is and returns the body of the answer.
    pub(crate) async fn post(&self, body: &str) -> String {
        timeout(DEADLINE, post(self.overlay.address, body)).await.unwrap()
    }

    /// Ends the overlay and says how it ended.
    pub(crate) async fn finish(self) -> Result<(), Exit> {
        self.overlay.context.finish(DEADLINE).await
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

async fn post(address: SocketAddr, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}
