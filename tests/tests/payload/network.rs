//! The system of these tests, and what is read from it.

use std::{sync::Arc, time::Duration};

use alloy_primitives::B256;
use preconf_devnet::consensus::{CanonicalBlock, Kind, Source, Way};
use preconf_payload_api::{
    ClientConfig, FetchError, MAX_RESPONSE_BYTES, PayloadClient, PayloadRequest, PayloadResponse,
};
use preconf_tests::cluster::{Cluster, DEADLINE};
use tokio::time::{Instant, interval, timeout};

/// What validators of both kinds are called for.
pub(crate) const KINDS: [Kind; 2] = [Kind::Native, Kind::Sidecar];
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

/// Two validators: the first fetches by itself, the second is behind a sidecar.
pub(crate) async fn start(flags: &[&str]) -> Cluster {
    let ours = ["--slot-ms", "2000", "--tps", "0", "--validators", "2", "--fetch", "mixed"];
    Cluster::start(&[&ours, flags].concat()).await
}

/// The next block, whoever built it.
pub(crate) async fn next(cluster: &mut Cluster) -> Arc<CanonicalBlock> {
    let next = timeout(DEADLINE, cluster.devnet.next_block());
    next.await.expect("blocks come").expect("the system runs")
}

/// Reads blocks until validators of both kinds have proposed one that is as wanted, and returns all
/// that it has read.
pub(crate) async fn until_both(
    cluster: &mut Cluster,
    is_wanted: impl Fn(&CanonicalBlock) -> bool,
) -> Vec<Arc<CanonicalBlock>> {
    let started = Instant::now();
    let mut read: Vec<Arc<CanonicalBlock>> = Vec::new();
    let has = |read: &[Arc<CanonicalBlock>], kind| {
        read.iter().any(|block| block.kind == kind && is_wanted(block))
    };
    while !KINDS.iter().all(|kind| has(&read, *kind)) {
        read.push(next(cluster).await);
        assert!(started.elapsed() < DEADLINE, "it did not happen: {read:#?}");
    }
    read
}

pub(crate) fn is_sequencers(block: &CanonicalBlock) -> bool {
    block.source == Source::Builder
}

/// Asserts that no slot is without a block.
pub(crate) fn assert_no_slot_is_missed(blocks: &[Arc<CanonicalBlock>]) {
    for pair in blocks.windows(2) {
        assert_eq!(pair[0].slot + 1, pair[1].slot, "{pair:#?}");
        assert!(pair[1].missed.is_empty(), "{pair:#?}");
    }
}

/// How often the validators that fetch by themselves found that the server was gone.
pub(crate) fn losses(cluster: &Cluster) -> u64 {
    let of = |way: &Way| match way {
        Way::Native(native) => native.losses(),
        Way::Direct | Way::Sidecar(_) => 0,
    };
    cluster.devnet.ways().iter().map(of).sum()
}

/// How often a service has said something.
pub(crate) fn said(cluster: &mut Cluster, service: &str, what: &str) -> usize {
    cluster.devnet.children().log(service).matches(what).count()
}

/// Waits until a service has said something so often.
pub(crate) async fn until_said(cluster: &mut Cluster, service: &str, what: &str, times: usize) {
    let started = Instant::now();
    let mut looks = interval(LOOK);
    while said(cluster, service, what) < times {
        looks.tick().await;
        assert!(started.elapsed() < DEADLINE, "{service} did not say {what:?} {times} times");
    }
}

/// Asks for the payload of a block once more, as one of the validators.
pub(crate) async fn ask(
    cluster: &Cluster,
    validator: usize,
    number: u64,
) -> Result<PayloadResponse, FetchError> {
    let url = cluster.devnet.endpoints.payload_server.as_ref().unwrap();
    let client = PayloadClient::new(ClientConfig {
        url: url.as_str().parse().unwrap(),
        secret: cluster.devnet.validator_secrets[validator].secret.clone(),
        authorities: None,
        max_response_bytes: MAX_RESPONSE_BYTES,
    });
    let request = PayloadRequest { slot: number, parent_block_root: beacon_root(cluster, number) };
    client.unwrap().fetch(&request, DEADLINE).await
}

/// The root of the beacon block before the block with this number.
fn beacon_root(cluster: &Cluster, number: u64) -> B256 {
    let block = cluster.devnet.clients.rpc_node.client().block_by_number(number).unwrap();
    block.header().parent_beacon_block_root.unwrap()
}
