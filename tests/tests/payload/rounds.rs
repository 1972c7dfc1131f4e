//! A validator that has stopped: its rounds are lost, and each time the block is built anew for the next
//! proposer, with what was promised.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use preconf_devnet::{services::PAYLOAD_SERVER, traffic::Intent};
use preconf_tests::cluster::{Cluster, DEADLINE};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};

use crate::{
    feed::Listener,
    network::{NATIVELY, WITH_SIDECARS, is_sequencers, next_blocks, said, start_quiet, until_each},
};

/// From one transaction to the next.
const PACE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_round_the_next_proposer_fetches_natively_a_block_of_its_own() {
    a_validator_stops_and_returns(NATIVELY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_round_the_next_proposer_is_given_a_block_of_its_own_by_its_sidecar() {
    a_validator_stops_and_returns(WITH_SIDECARS).await;
}

async fn a_validator_stops_and_returns(fetch: &str) {
    let mut cluster = start_quiet(fetch, &[]).await;
    until_each(&mut cluster, is_sequencers).await;
    let listener = Listener::start(&cluster).await;
    let (stop, sending) = send(&cluster, PACE);
    let said_so = if fetch == NATIVELY { "CometBFT round change detected" } else { "round=1" };
    let rounds = said(&mut cluster, PAYLOAD_SERVER, said_so);

    cluster.devnet.faults.stop(0);
    let blocks = next_blocks(&mut cluster, 10).await;
    let rotated: Vec<_> = blocks.iter().filter(|block| block.lost_rounds > 0).collect();
    assert!(said(&mut cluster, PAYLOAD_SERVER, said_so) > rounds, "nobody announced a round");
    cluster.devnet.faults.start(0);
    next_blocks(&mut cluster, 5).await;
    until_each(&mut cluster, |_| true).await;

    stop.send(()).unwrap();
    let sent = timeout(DEADLINE, sending).await.unwrap().unwrap();
    let heard = listener.stop().await;
    let is_rebuilt = |number| heard.openings(number) >= 2;
    let rebuilt =
        rotated.into_iter().filter(|block| is_sequencers(block) && is_rebuilt(block.number));
    let mut kept = 0;
    for block in rebuilt {
        assert!(block.transactions.iter().all(|hash| heard.promised(block.number, *hash)));
        kept += block.transactions.iter().filter(|hash| sent.contains(hash)).count();
    }
    assert!(
        kept >= 1,
        "no block was built anew with a transaction of ours: {blocks:#?} {heard:#?}"
    );
    cluster.stop().await;
}

/// Sends one transaction after the other until it is told to stop, and returns them.
pub(crate) fn send(
    cluster: &Cluster,
    pace: Duration,
) -> (oneshot::Sender<()>, JoinHandle<Vec<B256>>) {
    let (overlay, chain_id) = (cluster.overlay.clone(), cluster.chain_id);
    let account = cluster.devnet.accounts[0].clone();
    let (stop, mut stopped) = oneshot::channel();
    let sending = tokio::spawn(async move {
        let mut sent = Vec::new();
        let mut ticks = interval(pace);
        loop {
            tokio::select! {
                _ = &mut stopped => return sent,
                _ = ticks.tick() => {
                    let intent = Intent::payment(Address::repeat_byte(0x51), U256::from(1));
                    let transaction = intent.sign(&account, chain_id, sent.len() as u64);
                    sent.push(overlay.send_raw_transaction(&transaction).await.unwrap());
                }
            }
        }
    });
    (stop, sending)
}
