//! The whitelist is read anew while the system runs: for who is not on it nothing is built, also when a
//! round change makes him the proposer, and who is put on it again gets the sequencer's block again.

use std::sync::Arc;

use preconf_devnet::{consensus::CanonicalBlock, services::PAYLOAD_SERVER};
use preconf_tests::cluster::{Cluster, DEADLINE};
use tokio::time::Instant;

use crate::{
    feed::Listener,
    network::{
        NATIVELY, VALIDATORS, WITH_SIDECARS, is_sequencers, next, next_blocks, refusal, said,
        start_quiet, until_each, until_said,
    },
};

const RELOADED: &str = "Preconf whitelist reloaded";
const REFUSED: &str = "Validator not whitelisted";

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_built_for_who_is_on_the_whitelist_and_fetches_natively() {
    rounds_change_with_and_without_whitelisting(NATIVELY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_built_for_who_is_on_the_whitelist_and_has_a_sidecar() {
    rounds_change_with_and_without_whitelisting(WITH_SIDECARS).await;
}

async fn rounds_change_with_and_without_whitelisting(fetch: &str) {
    let mut cluster = start_quiet(fetch, &[]).await;
    until_each(&mut cluster, is_sequencers).await;

    // Validator 0 is taken off, and builds for itself.
    whitelist(&mut cluster, &[1, 2], 1).await;
    let refused = refusal(&cluster, 0, 1).await;
    assert_eq!(refused, (403, "validator not whitelisted".to_owned()));
    let is_as_listed = |block: &CanonicalBlock| is_sequencers(block) == (block.proposer != 0);
    for block in until_each(&mut cluster, is_as_listed).await {
        assert!(block.proposer != 0 || is_as_listed(&block), "{block:#?}");
    }
    // It stops: nothing was built for it, and the block is built for who proposes next.
    let (block, openings) = rotated(&mut cluster).await;
    assert!(is_sequencers(&block), "{block:#?}");
    assert_eq!(openings, 1, "the whitelisted round only");
    restore(&mut cluster, 2).await;

    // It is the only one that stays: its block is built, and none for who proposes next.
    whitelist(&mut cluster, &[0], 3).await;
    assert_ne!(refusal(&cluster, 0, 1).await.1, refused.1, "it is not its turn");
    let (block, openings) = rotated(&mut cluster).await;
    assert!(!is_sequencers(&block), "{block:#?}");
    assert_eq!(openings, 1, "the whitelisted round only");
    restore(&mut cluster, 4).await;
    cluster.stop().await;
}

/// Replaces the list, and waits until the server has read it and the block is agreed on that was
/// ordered before.
async fn whitelist(cluster: &mut Cluster, validators: &[usize], reloads: usize) {
    cluster.devnet.set_whitelist(validators).unwrap();
    until_said(cluster, PAYLOAD_SERVER, RELOADED, reloads).await;
    next(cluster).await;
}

/// Stops validator 0, and waits until a block is agreed on after its round was lost: which one it is,
/// and how often it was begun to be built.
async fn rotated(cluster: &mut Cluster) -> (Arc<CanonicalBlock>, usize) {
    let listener = Listener::start(cluster).await;
    // What was begun before somebody listened is not heard.
    next(cluster).await;
    cluster.devnet.faults.stop(0);
    let started = Instant::now();
    let block = loop {
        let block = next(cluster).await;
        if block.lost_rounds > 0 {
            break block;
        }
        assert!(started.elapsed() < DEADLINE, "no round was lost");
    };
    let openings = listener.stop().await.openings(block.number);
    (block, openings)
}

/// Puts all on the list again, and starts validator 0: each gets the sequencer's block again.
async fn restore(cluster: &mut Cluster, reloads: usize) {
    let all: Vec<_> = (0..VALIDATORS).collect();
    whitelist(cluster, &all, reloads).await;
    next_blocks(cluster, 3).await;
    cluster.devnet.faults.start(0);
    let refused = said(cluster, PAYLOAD_SERVER, REFUSED);
    let blocks = next_blocks(cluster, 10).await;
    assert_eq!(said(cluster, PAYLOAD_SERVER, REFUSED), refused, "somebody is still refused");
    for validator in all {
        let proposed = |block: &Arc<CanonicalBlock>| block.proposer == validator;
        let mut proposed = blocks.iter().filter(|block| proposed(block));
        assert!(proposed.any(|block| is_sequencers(block)), "not {validator}: {blocks:#?}");
    }
}
