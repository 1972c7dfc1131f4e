//! A round that is lost: the block is built anew for the next proposer, with what was promised.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256, keccak256};
use futures_util::StreamExt as _;
use preconf_devnet::{consensus::RoundFault, traffic::Intent};
use preconf_tests::cluster::{Cluster, DEADLINE};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::network::{KINDS, is_sequencers, next, start, until_both};

/// What the feed has said: of each block the payload ids at index 0, and its transactions.
#[derive(Debug, Default)]
struct Heard {
    openings: BTreeMap<u64, BTreeSet<String>>,
    transactions: BTreeMap<u64, BTreeSet<B256>>,
}

/// Listens as anybody does, until it is told to stop.
async fn listen(cluster: &Cluster) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<Heard>) {
    let (stream, _) = connect_async(&cluster.devnet.endpoints.gateway_url).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let listening = tokio::spawn(async move {
        let (mut stream, mut heard) = (stream, Heard::default());
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
    (stop, listening)
}

impl Heard {
    fn read(&mut self, text: &str) {
        let flashblock: Value = serde_json::from_str(text).unwrap();
        let number = flashblock["metadata"]["block_number"].as_u64().unwrap();
        if flashblock["index"] == 0 {
            let id = flashblock["payload_id"].as_str().unwrap().to_owned();
            self.openings.entry(number).or_default().insert(id);
        }
        let transactions = flashblock["diff"]["transactions"].as_array().unwrap().iter();
        let hashes = transactions.map(|encoded| {
            let encoded: alloy_primitives::Bytes = encoded.as_str().unwrap().parse().unwrap();
            keccak256(encoded)
        });
        self.transactions.entry(number).or_default().extend(hashes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_round_the_next_proposer_gets_a_block_of_its_own_with_what_was_promised() {
    let mut cluster = start(&[]).await;
    until_both(&mut cluster, is_sequencers).await;
    let (stop, listening) = listen(&cluster).await;

    let mut rotated = BTreeMap::new();
    let mut nonce = 0;
    while rotated.len() < KINDS.len() {
        let number = *cluster.devnet.consensus.head().borrow() + 2;
        cluster.devnet.faults.order(number, RoundFault::FailProposer);
        let block = loop {
            let block = next(&mut cluster).await;
            if block.lost_rounds > 0 {
                break block;
            }
            // For the block whose first round is lost.
            let to = Address::repeat_byte(0x51);
            let intent = Intent::payment(to, U256::from(1));
            let account = &cluster.devnet.accounts[0];
            let transaction = intent.sign(account, cluster.chain_id, nonce);
            cluster.overlay.send_raw_transaction(&transaction).await.unwrap();
            nonce += 1;
        };
        assert_eq!((block.number, block.lost_rounds), (number, 1));
        assert!(is_sequencers(&block), "{block:#?}");
        if rotated.insert(block.kind, block).is_some() {
            // So that the round of the other validator is lost next.
            next(&mut cluster).await;
        }
    }

    stop.send(()).unwrap();
    let heard = timeout(DEADLINE, listening).await.unwrap().unwrap();
    for block in rotated.values() {
        let openings = &heard.openings[&block.number];
        assert!(openings.len() >= 2, "{block:#?} had {openings:?}");
        let promised = &heard.transactions[&block.number];
        assert!(!block.transactions.is_empty(), "{block:#?}");
        assert!(block.transactions.iter().all(|hash| promised.contains(hash)), "{heard:#?}");
    }
    cluster.stop().await;
}
