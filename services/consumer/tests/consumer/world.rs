//! A running consumer and everybody it knows.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use clap::Parser;
use futures_util::{Stream, StreamExt};
use preconf_chain::{ChainSpec, Transaction};
use preconf_chassis::{Context, Endpoint, Exit, Security, channel};
use preconf_consumer::{Config, spawn};
use preconf_pending::snapshot::{Snapshot, SnapshotStore, Update};
use preconf_primitives::Retraction;
use preconf_wire::{
    feed::FeedItem,
    pending::{PendingClient, PendingError},
};
use tokio::time::{interval, timeout};

use crate::{
    client::ExecutionClient,
    feed::Feed,
    support::{Building, Known, Sequencer, genesis, genesis_json},
};

/// Longer than anything takes, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How often a counter is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A consumer whose feed, execution client and sequencer are scripted.
pub(crate) struct World {
    pub(crate) spec: Arc<ChainSpec>,
    pub(crate) genesis: Known,
    pub(crate) sequencer: Sequencer,
    pub(crate) client: ExecutionClient,
    pub(crate) feed: Feed,
    pub(crate) consumer: Consumer,
}

/// A running consumer.
pub(crate) struct Consumer {
    pub(crate) context: Context,
    pub(crate) endpoint: Endpoint,
    _directory: tempfile::TempDir,
}

/// Somebody who follows the pending chain.
pub(crate) struct Overlay {
    updates: Pin<Box<dyn Stream<Item = Result<Update, PendingError>> + Send>>,
    store: SnapshotStore,
    pub(crate) retracted: Vec<Retraction>,
}

impl World {
    /// Starts a consumer and waits until it is ready.
    pub(crate) async fn new() -> Self {
        let (spec, genesis) = genesis();
        let sequencer = Sequencer::new(&spec, 1);
        let client = ExecutionClient::start(&genesis).await;
        let feed = Feed::start().await;
        let consumer = Consumer::start(&sequencer, feed.address, client.address).await;
        consumer.until_ready().await;
        Self { spec, genesis, sequencer, client, feed, consumer }
    }

    /// Starts a consumer of a bera-reth sequencer's feed, and waits until it is ready.
    pub(crate) async fn v1(flags: &[&str]) -> Self {
        let (spec, genesis) = genesis();
        let sequencer = Sequencer::new(&spec, 1);
        let client = ExecutionClient::start(&genesis).await;
        let feed = Feed::start_upstream().await;
        let flags: Vec<&str> = ["--policy=v1"].into_iter().chain(flags.iter().copied()).collect();
        let consumer = Consumer::start_with(&sequencer, feed.address, client.address, &flags).await;
        consumer.until_ready().await;
        Self { spec, genesis, sequencer, client, feed, consumer }
    }

    /// Publishes the next flashblock of a session.
    pub(crate) fn publish(&mut self, building: &mut Building, transactions: &[Transaction]) {
        let signed = self.sequencer.flashblock(building, transactions);
        self.feed.publish(&FeedItem::Flashblock(signed));
    }

    /// Publishes the end of a session and its seal.
    pub(crate) fn seal(&mut self, building: &mut Building, transactions: &[Transaction]) -> Known {
        let last = self.sequencer.last(building, transactions);
        self.feed.publish(&FeedItem::Flashblock(last));
        let (sealed, known) = self.sequencer.seal(building);
        self.feed.publish(&FeedItem::Sealed(sealed));
        known
    }
}

impl Consumer {
    pub(crate) async fn start(sequencer: &Sequencer, feed: SocketAddr, client: SocketAddr) -> Self {
        Self::start_with(sequencer, feed, client, &[]).await
    }

    pub(crate) async fn start_with(
        sequencer: &Sequencer,
        feed: SocketAddr,
        client: SocketAddr,
        flags: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("genesis.json");
        std::fs::write(&file, genesis_json()).unwrap();
        let required = [
            "consumer".to_owned(),
            format!("--flashblocks-url=ws://{feed}"),
            format!("--sequencer-pubkey={}", sequencer.public_key()),
            format!("--genesis={}", file.display()),
            format!("--execution-url=http://{client}"),
            "--pending-listen=http://127.0.0.1:0".to_owned(),
        ];
        let flags = required.into_iter().chain(flags.iter().map(ToString::to_string));
        let prepared = Config::try_parse_from(flags).unwrap().prepare().unwrap();
        let context = Context::for_test();
        let endpoint = spawn(prepared, &context).await.unwrap();
        Self { context, endpoint, _directory: directory }
    }

    pub(crate) async fn until_ready(&self) {
        timeout(SOON, self.context.health.until_ready()).await.expect("it becomes ready");
    }

    /// Subscribes to the pending chain.
    pub(crate) async fn overlay(&self) -> Overlay {
        let channel = channel(&self.endpoint, &Security::default()).unwrap();
        let updates = PendingClient::new(channel).subscribe().await.unwrap();
        let (store, retracted) = (SnapshotStore::new(), Vec::new());
        Overlay { updates: Box::pin(updates), store, retracted }
    }

    /// The value of a metric, with its labels as they are written.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.context.registry.encode();
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("preconf_test_{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has come to a value.
    pub(crate) async fn until_metric(&self, name: &str, value: u64) {
        until(|| self.metric(name) >= value, || self.context.registry.encode()).await;
    }

    /// Stops it.
    pub(crate) async fn finish(self) -> Result<(), Exit> {
        self.context.finish(SOON).await
    }
}

impl Overlay {
    /// The next snapshot.
    pub(crate) async fn next(&mut self) -> Snapshot {
        let update = timeout(SOON, self.updates.next()).await.expect("an update in time");
        let update = update.expect("the stream goes on").unwrap();
        self.retracted.extend(&update.retracted);
        self.store.apply(&update).unwrap()
    }

    /// The first snapshot for which this holds.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let found = async {
            loop {
                let snapshot = self.next().await;
                if holds(&snapshot) {
                    return snapshot;
                }
            }
        };
        timeout(SOON, found).await.expect("such a snapshot in time")
    }

    /// Waits for the end of the stream.
    pub(crate) async fn end(&mut self) {
        let end = async { while let Some(Ok(_)) = self.updates.next().await {} };
        timeout(SOON, end).await.expect("the end in time");
    }
}

/// How many transactions the pending blocks have, lowest block first.
pub(crate) fn counts(snapshot: &Snapshot) -> Vec<usize> {
    snapshot.blocks.iter().map(|block| block.transaction_count).collect()
}

/// Waits until something holds that tells nobody, as a counter does: it is looked at now and then.
async fn until(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let mut looks = interval(LOOK);
    let holds = async {
        while !condition() {
            looks.tick().await;
        }
    };
    if timeout(SOON, holds).await.is_err() {
        panic!("the condition does not come true: {}", otherwise());
    }
}
