//! What `pending` says of each transaction, and what the chain says of it then, exactly.

use std::time::Duration;

use alloy_primitives::{Address, B256, U64, U256};
use alloy_signer_local::PrivateKeySigner;
use futures_util::future::join_all;
use preconf_devnet::{rpc::Rpc, traffic::Intent};
use preconf_tests::cluster::{Cluster, DEADLINE};
use serde_json::Value;
use tokio::time::{Instant, interval};

use crate::network::{is_sequencers, next};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(10);
/// How many transactions a worker sends.
const EACH: u64 = 20;
/// How many workers send at the same time.
const WORKERS: usize = 4;
/// How long a transaction may take to be pending.
const PENDING: Duration = Duration::from_secs(30);

/// One account that sends, and somebody who never had anything.
struct Worker {
    overlay: Rpc,
    rpc_node: Rpc,
    chain_id: u64,
    account: PrivateKeySigner,
    receiver: Address,
}

impl Worker {
    fn new(cluster: &Cluster, number: usize) -> Self {
        Self {
            overlay: cluster.overlay.clone(),
            rpc_node: cluster.rpc_node.clone(),
            chain_id: cluster.chain_id,
            account: cluster.devnet.accounts[number].clone(),
            receiver: Address::left_padding_from(&[0xa0, number as u8]),
        }
    }

    /// Sends one after the other, each when the one before is pending; then looks at each where it was
    /// included. Returns in which block each one is.
    async fn work(self) -> Vec<u64> {
        let mut hashes = Vec::new();
        for nonce in 0..EACH {
            let intent = Intent::payment(self.receiver, U256::from(1));
            let transaction = intent.sign(&self.account, self.chain_id, nonce);
            let hash = self.overlay.send_raw_transaction(&transaction).await.unwrap();
            self.until_pending(hash).await;
            let sent = nonce + 1;
            assert_eq!(self.balance(&self.overlay, "pending").await, U256::from(sent));
            assert_eq!(self.nonce(&self.overlay, "pending").await, sent);
            hashes.push(hash);
        }
        let mut numbers = Vec::new();
        for hash in &hashes {
            numbers.push(self.included(*hash).await);
        }
        for (at, number) in numbers.iter().enumerate() {
            // Of its block are all that come after it there, too.
            let sent = numbers.iter().filter(|other| *other <= number).count() as u64;
            assert!(sent > at as u64);
            let tag = format!("{number:#x}");
            assert_eq!(self.balance(&self.rpc_node, &tag).await, U256::from(sent), "at {number}");
            assert_eq!(self.nonce(&self.rpc_node, &tag).await, sent, "at {number}");
        }
        numbers
    }

    /// Until the pending block holds it, or a canonical one.
    async fn until_pending(&self, hash: B256) {
        let (started, mut looks) = (Instant::now(), interval(LOOK));
        loop {
            looks.tick().await;
            let pending: Value =
                self.overlay.call("eth_getBlockByNumber", ("pending", false)).await.unwrap();
            let hashes = pending["transactions"].as_array().unwrap();
            if hashes.iter().any(|known| known.as_str() == Some(&hash.to_string())) {
                return;
            }
            // It may have become canonical between two looks.
            if self.overlay.receipt(hash).await.unwrap().is_some() {
                return;
            }
            assert!(started.elapsed() < PENDING, "{hash} is not pending");
        }
    }

    async fn included(&self, hash: B256) -> u64 {
        let (started, mut looks) = (Instant::now(), interval(LOOK));
        loop {
            looks.tick().await;
            if let Some(receipt) = self.rpc_node.receipt(hash).await.unwrap() {
                assert!(receipt.success);
                return receipt.block_number;
            }
            assert!(started.elapsed() < DEADLINE, "{hash} is not included");
        }
    }

    async fn balance(&self, at: &Rpc, block: &str) -> U256 {
        at.call("eth_getBalance", (self.receiver, block)).await.unwrap()
    }

    async fn nonce(&self, at: &Rpc, block: &str) -> u64 {
        let account = self.account.address();
        let nonce: U64 = at.call("eth_getTransactionCount", (account, block)).await.unwrap();
        nonce.to()
    }
}

/// First one account alone, the `first` that has not sent anything yet, then one for each worker, at the
/// same time.
pub(crate) async fn is_exact_for_one_worker_and_for_many(cluster: &mut Cluster, first: usize) {
    let alone = tokio::spawn(Worker::new(cluster, first).work());
    let numbers = finished(cluster, alone).await;
    assert_eq!(numbers.len() as u64, EACH);
    let workers = (1..=WORKERS).map(|number| Worker::new(cluster, first + number).work());
    let all = tokio::spawn(join_all(workers.collect::<Vec<_>>()));
    let numbers = finished(cluster, all).await;
    assert_eq!(numbers.concat().len() as u64, EACH * WORKERS as u64);
}

/// Follows the chain while somebody works; all its blocks are the sequencer's.
async fn finished<T>(cluster: &mut Cluster, mut work: tokio::task::JoinHandle<T>) -> T {
    loop {
        tokio::select! {
            done = &mut work => return done.unwrap(),
            block = next(cluster) => assert!(is_sequencers(&block), "{block:#?}"),
        }
    }
}
