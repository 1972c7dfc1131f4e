//! The whitelist is read anew while the system runs: who is taken off builds for itself, also when a
//! round change makes it the proposer, and who is put on again gets the sequencer's block again.

use std::collections::BTreeSet;

use preconf_devnet::{
    consensus::{CanonicalBlock, RoundFault},
    services::PAYLOAD_SERVER,
};
use preconf_payload_api::FetchError;
use preconf_tests::cluster::Cluster;

use crate::network::{
    ask, assert_no_slot_is_missed, is_sequencers, next, start, until_both, until_said,
};

const RELOADED: &str = "Preconf whitelist reloaded";

/// Replaces the list, and waits until the server has read it and the block is agreed on that was
/// ordered before.
async fn whitelist(cluster: &mut Cluster, validators: &[usize], reloads: usize) {
    cluster.devnet.set_whitelist(validators).unwrap();
    until_said(cluster, PAYLOAD_SERVER, RELOADED, reloads).await;
    next(cluster).await;
}

fn is_as_listed(block: &CanonicalBlock, listed: usize) -> bool {
    is_sequencers(block) == (block.proposer == listed)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_off_the_whitelist_builds_for_itself_until_it_is_put_on_again() {
    let mut cluster = start(&[]).await;
    until_both(&mut cluster, is_sequencers).await;

    for (reloads, listed) in [(1, 1), (2, 0)] {
        whitelist(&mut cluster, &[listed], reloads).await;
        let refused = ask_off_list(&mut cluster, 1 - listed).await;
        assert_eq!(refused, "validator not whitelisted");
        let blocks = until_both(&mut cluster, |block| is_as_listed(block, listed)).await;
        assert_no_slot_is_missed(&blocks);
        for block in &blocks {
            assert!(is_as_listed(block, listed), "{block:#?}");
        }
    }
    whitelist(&mut cluster, &[0, 1], 3).await;
    until_both(&mut cluster, is_sequencers).await;
    cluster.stop().await;
}

async fn ask_off_list(cluster: &mut Cluster, validator: usize) -> String {
    match ask(cluster, validator, 1).await {
        Err(FetchError::Refused { status, message, .. }) if status == 403 => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_change_has_the_block_rebuilt_only_for_who_is_on_the_whitelist() {
    let mut cluster = start(&[]).await;
    until_both(&mut cluster, is_sequencers).await;
    whitelist(&mut cluster, &[1], 1).await;

    let mut rotated = BTreeSet::new();
    while rotated.len() < 2 {
        let head = *cluster.devnet.consensus.head().borrow();
        cluster.devnet.faults.order(head + 2, RoundFault::FailProposer);
        let block = loop {
            let block = next(&mut cluster).await;
            assert!(is_as_listed(&block, 1), "{block:#?}");
            if block.lost_rounds > 0 {
                break block;
            }
        };
        if !rotated.insert(block.proposer) {
            // So that the round of the other validator is lost next.
            next(&mut cluster).await;
        }
    }
    cluster.stop().await;
}
