//! What the feed says, heard as anybody can hear it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{B256, Bytes, keccak256};
use futures_util::StreamExt as _;
use preconf_tests::cluster::{Cluster, DEADLINE};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// What was said of each block: the payload ids at index 0, and all its transactions.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    openings: BTreeMap<u64, BTreeSet<String>>,
    transactions: BTreeMap<u64, BTreeSet<B256>>,
}

impl Heard {
    /// How often it was begun to be built.
    pub(crate) fn openings(&self, number: u64) -> usize {
        self.openings.get(&number).map_or(0, BTreeSet::len)
    }

    /// Whether this transaction was promised for the block.
    pub(crate) fn promised(&self, number: u64, transaction: B256) -> bool {
        self.transactions.get(&number).is_some_and(|of_block| of_block.contains(&transaction))
    }

    fn read(&mut self, text: &str) {
        let flashblock: Value = serde_json::from_str(text).unwrap();
        let number = flashblock["metadata"]["block_number"].as_u64().unwrap();
        if flashblock["index"] == 0 {
            let id = flashblock["payload_id"].as_str().unwrap().to_owned();
            self.openings.entry(number).or_default().insert(id);
        }
        let transactions = flashblock["diff"]["transactions"].as_array().unwrap().iter();
        let hashes = transactions.map(|encoded| {
            let encoded: Bytes = encoded.as_str().unwrap().parse().unwrap();
            keccak256(encoded)
        });
        self.transactions.entry(number).or_default().extend(hashes);
    }
}

/// Somebody who listens.
pub(crate) struct Listener {
    stop: oneshot::Sender<()>,
    listening: JoinHandle<Heard>,
}

impl Listener {
    /// Listens to the gateway from now on.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let (mut stream, _) = connect_async(&cluster.devnet.endpoints.gateway_url).await.unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let listening = tokio::spawn(async move {
            let mut heard = Heard::default();
            loop {
                tokio::select! {
                    _ = &mut stopped => return heard,
                    frame = stream.next() => match frame {
                        Some(Ok(Message::Text(text))) => heard.read(&text),
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return heard,
                    },
                }
            }
        });
        Self { stop, listening }
    }

    /// Ends, and says what was heard.
    pub(crate) async fn stop(self) -> Heard {
        self.stop.send(()).unwrap();
        timeout(DEADLINE, self.listening).await.unwrap().unwrap()
    }
}
