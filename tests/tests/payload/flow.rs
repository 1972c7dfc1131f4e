//! The sequencer's payload server dies and returns: the chain goes on without it, and everybody asks it
//! again.

use preconf_devnet::services::PAYLOAD_SERVER;
use preconf_tests::cluster::Cluster;

use crate::network::{
    MIXED, NATIVELY, VALIDATORS, WITH_SIDECARS, is_sequencers, losses, next_blocks, returns, start,
    start_quiet, until, until_each, until_said,
};

const COMPLETED: &str = "GetPayloadBySlot completed";

#[tokio::test(flavor = "multi_thread")]
async fn validators_that_fetch_natively_do_without_a_dead_sequencer_and_return_to_it() {
    sequencer_dies_and_returns(NATIVELY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_with_sidecars_do_without_a_dead_sequencer_and_return_to_it() {
    sequencer_dies_and_returns(WITH_SIDECARS).await;
}

async fn sequencer_dies_and_returns(fetch: &str) {
    let mut cluster = start_quiet(fetch, &[]).await;
    let blocks = until_each(&mut cluster, is_sequencers).await;
    let fetched = blocks.iter().filter(|block| is_sequencers(block)).count();
    until_said(&mut cluster, PAYLOAD_SERVER, COMPLETED, fetched).await;

    let before = of_each(&mut cluster, losses);
    cluster.devnet.children().kill(PAYLOAD_SERVER).await;
    next_blocks(&mut cluster, 10).await;
    for block in next_blocks(&mut cluster, 10).await {
        assert!(!is_sequencers(&block), "{block:#?}");
    }
    for (now, before) in of_each(&mut cluster, losses).into_iter().zip(before) {
        assert!(now <= before + 1, "it is found gone once: {before} times, then {now}");
    }

    let before = of_each(&mut cluster, returns);
    assert!(cluster.devnet.children().revive(PAYLOAD_SERVER, "payloads").await.unwrap());
    // Who has found it gone asks again only when it has found it back.
    until_each(&mut cluster, is_sequencers).await;
    for (validator, before) in before.into_iter().enumerate() {
        let what = format!("validator {validator} finds it back");
        until(&mut cluster, &what, |cluster| returns(cluster, validator) > before).await;
    }
    until_said(&mut cluster, PAYLOAD_SERVER, COMPLETED, fetched + VALIDATORS).await;
    cluster.stop().await;
}

fn of_each(cluster: &mut Cluster, count: fn(&mut Cluster, usize) -> usize) -> [usize; VALIDATORS] {
    std::array::from_fn(|validator| count(cluster, validator))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_dies_costs_its_blocks_and_no_round() {
    let mut cluster = start(MIXED).await;
    until_each(&mut cluster, is_sequencers).await;

    cluster.devnet.children().kill("builder").await;
    until_each(&mut cluster, |block| !is_sequencers(block)).await;
    assert!(cluster.devnet.children().revive("builder", "engine").await.unwrap());
    until_each(&mut cluster, is_sequencers).await;

    // The server was there all the time, and said so.
    assert_eq!(of_each(&mut cluster, losses), [0; VALIDATORS]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_are_given_the_blocks_of_the_second_builder_when_the_first_one_dies() {
    let mut cluster = start_quiet(MIXED, &["--builders", "2"]).await;
    until_each(&mut cluster, is_sequencers).await;

    let (first, second) = cluster.devnet.builders();
    cluster.devnet.children().kill(first).await;
    until(&mut cluster, "the second builder leads", |cluster| {
        Some(cluster.devnet.builders().0) == second
    })
    .await;
    until_each(&mut cluster, is_sequencers).await;
    cluster.stop().await;
}
