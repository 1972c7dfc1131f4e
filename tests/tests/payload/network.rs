//! The system of these tests, and what is read from it.

use std::{sync::Arc, time::Duration};

use preconf_devnet::{
    consensus::{CanonicalBlock, Source, Way, slot_rule},
    services::SIDECARS,
};
use preconf_payload_api::{
    Authorities, ClientConfig, FetchError, MAX_RESPONSE_BYTES, PayloadClient, PayloadRequest,
    PayloadResponse, SlotRule,
};
use preconf_tests::cluster::{Cluster, DEADLINE};
use tokio::time::{Instant, interval, timeout};

/// All validators fetch by themselves, as beacon-kit does.
pub(crate) const NATIVELY: &str = "native";
/// All validators are behind sidecars.
pub(crate) const WITH_SIDECARS: &str = "sidecar";
/// They take turns: the first and the third fetch by themselves.
pub(crate) const MIXED: &str = "mixed";
/// How many there are in each system.
pub(crate) const VALIDATORS: usize = 3;
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

/// A system whose validators come to their block in this way.
pub(crate) async fn start(fetch: &str) -> Cluster {
    Cluster::start(&[&ours(fetch)[..], &["--slot-ms", "2000"]].concat()).await
}

/// The same, for what can be shown with short slots and few transactions: time enough for a builder that
/// is not optimised.
pub(crate) async fn start_quiet(fetch: &str, flags: &[&str]) -> Cluster {
    let quiet = ["--slot-ms", "1000", "--proposal-delay-ms", "200", "--seal-budget-ms", "500"];
    Cluster::start_beside(&[&ours(fetch)[..], &quiet, flags].concat()).await
}

fn ours(fetch: &str) -> [&str; 6] {
    ["--tps", "0", "--validators", "3", "--fetch", fetch]
}

/// The next block, whoever built it.
pub(crate) async fn next(cluster: &mut Cluster) -> Arc<CanonicalBlock> {
    let next = timeout(DEADLINE, cluster.devnet.next_block());
    next.await.expect("blocks come").expect("the system runs")
}

/// So many blocks. No validator misses its round.
pub(crate) async fn next_blocks(cluster: &mut Cluster, count: usize) -> Vec<Arc<CanonicalBlock>> {
    let mut blocks = Vec::new();
    while blocks.len() < count {
        blocks.push(next(cluster).await);
    }
    assert_no_round_is_missed(&blocks);
    blocks
}

/// Reads blocks until each validator has proposed one that is as wanted, and returns all that it has
/// read. No validator misses its round.
pub(crate) async fn until_each(
    cluster: &mut Cluster,
    is_wanted: impl Fn(&CanonicalBlock) -> bool,
) -> Vec<Arc<CanonicalBlock>> {
    let started = Instant::now();
    let mut read: Vec<Arc<CanonicalBlock>> = Vec::new();
    let has = |read: &[Arc<CanonicalBlock>], validator| {
        read.iter().any(|block| block.proposer == validator && is_wanted(block))
    };
    while !(0..VALIDATORS).all(|validator| has(&read, validator)) {
        read.push(next(cluster).await);
        assert!(started.elapsed() < DEADLINE, "it did not happen: {read:#?}");
    }
    assert_no_round_is_missed(&read);
    read
}

pub(crate) fn is_sequencers(block: &CanonicalBlock) -> bool {
    block.source == Source::Builder
}

/// Asserts that every validator whose turn it was has proposed a block that the others accept.
pub(crate) fn assert_no_round_is_missed(blocks: &[Arc<CanonicalBlock>]) {
    assert!(blocks.iter().all(|block| block.missed.is_empty()), "{blocks:#?}");
}

/// How often a validator found that the sequencer was gone.
pub(crate) fn losses(cluster: &mut Cluster, validator: usize) -> usize {
    match &cluster.devnet.ways()[validator] {
        Way::Native(native) => native.losses() as usize,
        Way::Sidecar(_) => said(cluster, SIDECARS[validator], "Detected sequencer offline"),
        Way::Direct => panic!("it has none"),
    }
}

/// How often a validator found that the sequencer was back.
pub(crate) fn returns(cluster: &mut Cluster, validator: usize) -> usize {
    match &cluster.devnet.ways()[validator] {
        Way::Native(native) => native.returns() as usize,
        Way::Sidecar(_) => said(cluster, SIDECARS[validator], "Sequencer is healthy again"),
        Way::Direct => panic!("it has none"),
    }
}

/// How often a service has said something.
pub(crate) fn said(cluster: &mut Cluster, service: &str, what: &str) -> usize {
    cluster.devnet.children().log(service).matches(what).count()
}

/// Waits until a service has said something so often.
pub(crate) async fn until_said(cluster: &mut Cluster, service: &str, what: &str, times: usize) {
    let wait = format!("{service} says {what:?} {times} times");
    until(cluster, &wait, |cluster| said(cluster, service, what) >= times).await;
}

/// Waits until something is so, while the chain goes on.
pub(crate) async fn until(cluster: &mut Cluster, what: &str, is_so: impl Fn(&mut Cluster) -> bool) {
    let started = Instant::now();
    let mut looks = interval(LOOK);
    while !is_so(cluster) {
        looks.tick().await;
        assert!(started.elapsed() < DEADLINE, "not so in time: {what}");
    }
}

/// Asks for the payload of a block once more, as one of the validators.
pub(crate) async fn ask(
    cluster: &Cluster,
    validator: usize,
    number: u64,
) -> Result<PayloadResponse, FetchError> {
    let url = cluster.devnet.endpoints.payload_server.as_ref().unwrap();
    let authority = &cluster.devnet.payload_tls.authority;
    let client = PayloadClient::new(ClientConfig {
        url: url.as_str().parse().unwrap(),
        secret: cluster.devnet.validator_secrets[validator].secret.clone(),
        authorities: Some(Authorities::read(authority).unwrap()),
        max_response_bytes: MAX_RESPONSE_BYTES,
    });
    client.unwrap().fetch(&request(cluster, number), DEADLINE).await
}

/// Asks as [`ask`] does, and is refused: the status and the message.
pub(crate) async fn refusal(cluster: &Cluster, validator: usize, number: u64) -> (u16, String) {
    match ask(cluster, validator, number).await {
        Err(FetchError::Refused { status, message, .. }) => (status.into(), message),
        other => panic!("{other:?}"),
    }
}

/// What the block with this number is asked for by.
fn request(cluster: &Cluster, number: u64) -> PayloadRequest {
    let client = cluster.devnet.clients.rpc_node.client();
    let block = client.block_by_number(number).unwrap();
    let slots: SlotRule = slot_rule(client.spec()).parse().unwrap();
    PayloadRequest {
        slot: slots.slot(number, block.header().timestamp).unwrap(),
        parent_block_root: block.header().parent_beacon_block_root.unwrap(),
    }
}
