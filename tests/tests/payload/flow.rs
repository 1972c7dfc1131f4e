//! The sequencer's payload server dies and returns: no slot is missed, and everybody asks it again.

use preconf_devnet::{
    consensus::Source,
    services::{PAYLOAD_SERVER, SIDECARS},
};

use crate::network::{
    assert_no_slot_is_missed, is_sequencers, losses, next, said, start, until_both, until_said,
};

#[tokio::test(flavor = "multi_thread")]
async fn validators_do_without_a_sequencer_that_dies_and_ask_it_again_when_it_returns() {
    let mut cluster = start(&[]).await;
    let mut blocks = until_both(&mut cluster, is_sequencers).await;
    assert!(said(&mut cluster, PAYLOAD_SERVER, "GetPayloadBySlot completed") >= 2);
    assert!(said(&mut cluster, SIDECARS[1], "Using payload from sequencer") >= 1);

    cluster.devnet.children().kill(PAYLOAD_SERVER).await;
    blocks.extend(until_both(&mut cluster, |block| !is_sequencers(block)).await);
    // A validator that found it gone does not ask for every block.
    for _ in 0..3 {
        let block = next(&mut cluster).await;
        assert!(!is_sequencers(&block), "{block:#?}");
        blocks.push(block);
    }
    assert_eq!(losses(&cluster), 1, "it is found gone once");
    let reasons = blocks.iter().filter_map(|block| match &block.source {
        Source::Fallback(reason) => Some(reason.as_str()),
        Source::Builder => None,
    });
    assert!(reasons.clone().any(|reason| reason == "the payload server is not there"));

    assert!(cluster.devnet.children().revive(PAYLOAD_SERVER, "payloads").await.unwrap());
    let completed = said(&mut cluster, PAYLOAD_SERVER, "GetPayloadBySlot completed");
    blocks.extend(until_both(&mut cluster, is_sequencers).await);
    until_said(&mut cluster, PAYLOAD_SERVER, "GetPayloadBySlot completed", completed + 2).await;
    assert_no_slot_is_missed(&blocks);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_dies_costs_its_blocks_and_no_slot() {
    let mut cluster = start(&[]).await;
    let mut blocks = until_both(&mut cluster, is_sequencers).await;

    cluster.devnet.children().kill("builder").await;
    blocks.extend(until_both(&mut cluster, |block| !is_sequencers(block)).await);
    assert!(cluster.devnet.children().revive("builder", "engine").await.unwrap());
    blocks.extend(until_both(&mut cluster, is_sequencers).await);

    // The server was there all the time, and said so.
    assert_eq!(losses(&cluster), 0);
    assert_no_slot_is_missed(&blocks);
    cluster.stop().await;
}
