//! The payload server is slow, lies, is dead, and is back, for validators that fetch natively and one
//! behind a sidecar. While it does its work both propose the block that was preconfirmed; what it does
//! otherwise costs who has a sidecar no round.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use preconf_devnet::{
    consensus::{CanonicalBlock, Kind, Source},
    links::Condition,
    observer::{Observer, SessionEnd},
    services::PAYLOAD_SERVER,
    wiring::Line,
};
use preconf_signing::Verifier;
use preconf_tests::cluster::{Cluster, DEADLINE};
use tokio::time::{Instant, sleep};

use crate::{
    network::{MIXED, VALIDATORS, next, start_quiet},
    rounds::send,
};

/// In how many blocks one after the other everybody does as he should, when nothing is wrong.
const IN_A_ROW: usize = 2 * VALIDATORS;
/// Longer than anybody waits for the server.
const SLOW: Duration = Duration::from_secs(3);
/// From one transaction to the next: what waits for a block is soon too much.
const PACE: Duration = Duration::from_millis(500);
/// From one look at the feed to the next.
const LOOK: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn with_a_sidecar_and_without_the_blocks_are_the_same_and_with_one_no_round_is_missed() {
    // Links that can be made slow, and lie: with a scenario there are some, and this one is empty.
    let cluster = start_quiet(MIXED, &["--scenario", "/dev/null"]).await;
    let (stop, sending) = send(&cluster, PACE);
    let mut watched = Watched::start(cluster).await;
    watched.until_all_propose_what_was_sealed().await;

    watched.cluster.devnet.wiring.set(Line::PayloadServer, Condition::Slow(SLOW));
    watched.until("both propose their own", Watched::both_fell_back).await;
    watched.cluster.devnet.wiring.set(Line::PayloadServer, Condition::Whole);
    watched.until_all_propose_what_was_sealed().await;

    watched.cluster.devnet.wiring.lie(true);
    // A block that is valid and not the one that was ordered: only the other validators see that.
    let is_misled =
        |watched: &Watched| watched.missed > 0 && watched.fell_back.contains(&Kind::Sidecar);
    watched.until("who has no sidecar is misled", is_misled).await;
    watched.cluster.devnet.wiring.lie(false);
    watched.until_all_propose_what_was_sealed().await;

    watched.cluster.devnet.children().kill(PAYLOAD_SERVER).await;
    watched.until("both propose their own", Watched::both_fell_back).await;
    let children = watched.cluster.devnet.children();
    assert!(children.revive(PAYLOAD_SERVER, "payloads").await.unwrap());
    watched.until_all_propose_what_was_sealed().await;

    stop.send(()).unwrap();
    sending.await.unwrap();
    watched.cluster.stop().await;
}

/// A system whose blocks are compared with what its feed says of them.
struct Watched {
    cluster: Cluster,
    observer: Observer,
    /// Who has proposed his own client's block, and how many rounds were missed, since all was well.
    fell_back: BTreeSet<Kind>,
    missed: usize,
}

impl Watched {
    async fn start(mut cluster: Cluster) -> Self {
        let verifier = Verifier::new(cluster.chain_id, vec![cluster.devnet.public_key]);
        let feed = cluster.devnet.endpoints.gateway.clone();
        let observer = Observer::start(feed, verifier).unwrap();
        // What was said before it listened is not heard.
        let started = Instant::now();
        loop {
            let number = next(&mut cluster).await.number;
            if observer.with_ledger(|ledger| ledger.has_ended(number)) {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "nothing is heard");
        }
        Self { cluster, observer, fell_back: BTreeSet::new(), missed: 0 }
    }

    /// The next block, and whether it is the one that the feed calls sealed. If it came from the
    /// sequencer it is no other one, whoever proposed it.
    async fn next(&mut self) -> (Arc<CanonicalBlock>, bool) {
        let block = next(&mut self.cluster).await;
        // Nobody but who takes what he is given is misled.
        assert!(block.missed.iter().all(|kind| *kind == Kind::Native), "{block:#?}");
        self.missed += block.missed.len();
        if block.source != Source::Builder {
            self.fell_back.insert(block.kind);
            return (block, false);
        }
        let started = Instant::now();
        loop {
            match self.observer.with_ledger(|ledger| ledger.end(block.number)) {
                Some(SessionEnd::Sealed(hash)) if hash == block.hash => return (block, true),
                // The builder has handed out its client's block, and says so.
                Some(SessionEnd::Abandoned(_)) => return (block, false),
                end => assert!(started.elapsed() < DEADLINE, "{end:?} of {block:#?}"),
            }
            sleep(LOOK).await;
        }
    }

    /// Reads blocks until nothing but what was sealed was proposed in a row of them. Before it, what
    /// was wrong is found to be over.
    async fn until_all_propose_what_was_sealed(&mut self) {
        let started = Instant::now();
        let mut row = Vec::new();
        let is_whole = |row: &[Arc<CanonicalBlock>]| {
            let proposers: BTreeSet<_> = row.iter().map(|block| block.proposer).collect();
            row.len() >= IN_A_ROW && proposers.len() == VALIDATORS
        };
        while !is_whole(&row) {
            assert!(started.elapsed() < DEADLINE, "not all propose what was sealed: {row:#?}");
            match self.next().await {
                (block, true) if block.missed.is_empty() => row.push(block),
                _ => row.clear(),
            }
        }
        for kind in [Kind::Native, Kind::Sidecar] {
            let is_used =
                |block: &Arc<CanonicalBlock>| block.kind == kind && !block.transactions.is_empty();
            assert!(row.iter().any(is_used), "there is nothing to be told apart by: {row:#?}");
        }
        (self.fell_back, self.missed) = (BTreeSet::new(), 0);
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            self.next().await;
            assert!(started.elapsed() < DEADLINE, "not so in time: {what}");
        }
    }

    fn both_fell_back(&self) -> bool {
        self.fell_back == BTreeSet::from([Kind::Native, Kind::Sidecar])
    }
}
