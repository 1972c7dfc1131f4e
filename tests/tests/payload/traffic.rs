//! Traffic while validators fetch their blocks: when it is seen, where it is included, and that `pending`
//! and the chain say exactly what it has changed.
//!
//! How soon it is seen is printed; what is demanded of that, `--max-latency-ms` demands of an optimised
//! builder.

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U64, U256};
use alloy_signer_local::PrivateKeySigner;
use futures_util::future::join_all;
use preconf_devnet::{consensus::CanonicalBlock, rpc::Rpc, samples::Samples, traffic::Intent};
use preconf_tests::cluster::{Cluster, DEADLINE};
use serde_json::Value;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, interval, timeout},
};

use crate::{
    network::{NATIVELY, WITH_SIDECARS, is_sequencers, next, start, until_each},
    state,
};

/// From one burst of transactions to the next.
const TICK: Duration = Duration::from_millis(200);
/// How many bursts there are.
const BURSTS: u64 = 50;
/// Who sends to the preconfirming RPC, and how many transactions each has in a burst.
const SENDERS: usize = 4;
const PAYMENTS: u64 = 2;
/// Who sends to the pool of an execution client, and how many.
const SPAMMER: usize = SENDERS;
const SPAM: u64 = 4;
/// The accounts from here on send nothing.
const REST: usize = SPAMMER + 1;
/// Who is paid by the senders, and who by the spammer. They never had anything before.
const PAID: Address = Address::repeat_byte(0xb0);
const SPAMMED: Address = Address::repeat_byte(0x5b);
/// From one look at `pending` to the next.
const LOOK: Duration = Duration::from_millis(50);
/// In how many blocks a transaction is included at most.
const BLOCKS: u64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_seen_included_and_exact_while_validators_fetch_natively() {
    promises(NATIVELY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_seen_included_and_exact_while_validators_have_sidecars() {
    promises(WITH_SIDECARS).await;
}

async fn promises(fetch: &str) {
    let mut cluster = start(fetch).await;
    until_each(&mut cluster, is_sequencers).await;
    all_are_included_soon_and_counted_exactly(&mut cluster, fetch).await;
    state::is_exact_for_one_worker_and_for_many(&mut cluster, REST).await;
    cluster.stop().await;
}

/// Payments of one wei from one account.
#[derive(Clone)]
struct Payments {
    door: Rpc,
    chain_id: u64,
    account: PrivateKeySigner,
    receiver: Address,
    burst: u64,
}

/// A payment that was taken: when, and how long the chain was.
struct Sent {
    hash: B256,
    at: Instant,
    head: u64,
}

impl Payments {
    fn new(
        cluster: &Cluster,
        door: &Rpc,
        account: usize,
        (receiver, burst): (Address, u64),
    ) -> Self {
        Self {
            door: door.clone(),
            chain_id: cluster.chain_id,
            account: cluster.devnet.accounts[account].clone(),
            receiver,
            burst,
        }
    }

    async fn send(&self, head: watch::Receiver<u64>) -> Vec<Sent> {
        let mut ticks = interval(TICK);
        let mut sent = Vec::new();
        for _ in 0..BURSTS {
            ticks.tick().await;
            for _ in 0..self.burst {
                let intent = Intent::payment(self.receiver, U256::from(1));
                let transaction = intent.sign(&self.account, self.chain_id, sent.len() as u64);
                let (at, head) = (Instant::now(), *head.borrow());
                let hash = self.door.send_raw_transaction(&transaction).await.unwrap();
                sent.push(Sent { hash, at, head });
            }
        }
        sent
    }
}

#[allow(clippy::print_stdout, reason = "figures for whoever runs it with --nocapture")]
async fn all_are_included_soon_and_counted_exactly(cluster: &mut Cluster, fetch: &str) {
    // Its pool is the one that the builder reads, as a peer's would be that is connected with it.
    let pool = Rpc::new(cluster.devnet.endpoints.sequencer.clone()).unwrap();
    let overlay = &cluster.overlay;
    let senders = (0..SENDERS).map(|at| Payments::new(cluster, overlay, at, (PAID, PAYMENTS)));
    let spammer = Payments::new(cluster, &pool, SPAMMER, (SPAMMED, SPAM));
    let all: Vec<_> = senders.chain([spammer]).collect();
    let (stop, looking) = look(cluster.overlay.clone());
    let head = cluster.devnet.consensus.head();
    let sending = all.clone();
    let sending = async move { join_all(sending.iter().map(|one| one.send(head.clone()))).await };
    let (sent, included) = until_included(cluster, tokio::spawn(sending)).await;
    stop.send(()).unwrap();
    let seen = timeout(DEADLINE, looking).await.unwrap().unwrap();

    let mut latency = Samples::default();
    for sent in sent[..SENDERS].iter().flatten() {
        let (number, seen) = (included[&sent.hash], seen[&sent.hash]);
        assert!(number - sent.head <= BLOCKS, "sent after {}, included in {number}", sent.head);
        latency.add(seen.saturating_duration_since(sent.at).as_secs_f64() * 1_000.0);
    }
    let latency = latency.percentiles();
    println!("{fetch}: sent to seen: p50 {:?} ms, p99 {:?} ms", latency.p50, latency.p99);
    for sent in sent.iter().flatten() {
        assert!(cluster.rpc_node.receipt(sent.hash).await.unwrap().unwrap().success);
    }

    let last = *included.values().max().unwrap();
    for (payments, sent) in all.iter().zip(&sent) {
        let account = (payments.account.address(), last);
        assert_eq!(nonce(&cluster.rpc_node, account).await, sent.len() as u64);
        agree_on(cluster, account).await;
    }
    let paid = sent[..SENDERS].iter().map(Vec::len).sum::<usize>();
    assert_eq!(balance(&cluster.rpc_node, (PAID, last)).await, U256::from(paid));
    agree_on(cluster, (PAID, last)).await;
}

/// Follows the chain until everything that is being sent is sent and included: in which block.
async fn until_included(
    cluster: &mut Cluster,
    mut sending: JoinHandle<Vec<Vec<Sent>>>,
) -> (Vec<Vec<Sent>>, HashMap<B256, u64>) {
    let mut included = HashMap::new();
    let take = |block: Arc<CanonicalBlock>, included: &mut HashMap<B256, u64>| {
        included.extend(block.transactions.iter().map(|hash| (*hash, block.number)));
    };
    let sent = loop {
        tokio::select! {
            sent = &mut sending => break sent.unwrap(),
            block = next(cluster) => take(block, &mut included),
        }
    };
    let started = Instant::now();
    while !sent.iter().flatten().all(|sent| included.contains_key(&sent.hash)) {
        assert!(started.elapsed() < DEADLINE, "not all are included");
        take(next(cluster).await, &mut included);
    }
    (sent, included)
}

/// Asserts that both RPCs say the same of an account at a block.
async fn agree_on(cluster: &Cluster, account: (Address, u64)) {
    let [ours, theirs] = [&cluster.overlay, &cluster.rpc_node];
    assert_eq!(balance(ours, account).await, balance(theirs, account).await, "{account:?}");
    assert_eq!(nonce(ours, account).await, nonce(theirs, account).await, "{account:?}");
}

/// Looks at the pending block and at the newest one until it is told to stop: when each transaction was
/// seen first.
fn look(overlay: Rpc) -> (oneshot::Sender<()>, JoinHandle<HashMap<B256, Instant>>) {
    let (stop, mut stopped) = oneshot::channel();
    let looking = tokio::spawn(async move {
        let mut seen = HashMap::new();
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            for tag in ["pending", "latest"] {
                let block: Value =
                    overlay.call("eth_getBlockByNumber", (tag, false)).await.unwrap();
                for hash in block["transactions"].as_array().unwrap() {
                    let hash = hash.as_str().unwrap().parse().unwrap();
                    seen.entry(hash).or_insert_with(Instant::now);
                }
            }
            if stopped.try_recv().is_ok() {
                return seen;
            }
        }
    });
    (stop, looking)
}

async fn balance(at: &Rpc, (account, block): (Address, u64)) -> U256 {
    at.call("eth_getBalance", (account, U64::from(block))).await.unwrap()
}

async fn nonce(at: &Rpc, (account, block): (Address, u64)) -> u64 {
    let nonce: U64 = at.call("eth_getTransactionCount", (account, U64::from(block))).await.unwrap();
    nonce.to()
}
