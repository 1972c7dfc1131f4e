//! What is owed is said, whatever the signer does meanwhile.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests name what they expect")]

use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use preconf_chassis::Context;
use preconf_primitives::{Base, Retraction, RetractionCause};
use preconf_wire::feed::{FeedService, FeedStream};
use tempfile::TempDir;

use super::*;
use crate::testing::{DEADLINE, FakeSigner, hash};

const LEASE: Duration = Duration::from_secs(20);

/// A publisher with its signer, and a subscriber of its feed.
struct Bench {
    signer: Arc<FakeSigner>,
    outgoing: mpsc::Sender<Outgoing>,
    feed: FeedStream,
    context: Context,
    /// The signer outlives the publisher.
    signers: Context,
    reports: mpsc::Receiver<Published>,
    _directory: TempDir,
}

impl Bench {
    async fn new(lease: Duration) -> Self {
        let mut bench = Self::with(lease, FakeSigner::default(), None, None).await;
        assert_eq!(bench.reports.recv().await, Some(Published::Leads));
        bench
    }

    async fn with(
        lease_duration: Duration,
        signer: FakeSigner,
        journal: Option<Journal>,
        unsigned: Option<Flashblock>,
    ) -> Self {
        let (context, signers) = (Context::for_test(), Context::for_test());
        let signer = Arc::new(signer);
        let (client, _directory) = signer.serve(&signers).await;
        let origin = Arc::new(Feed::new(Shutdown::new()));
        let feed = origin.subscribe(None).unwrap();
        let metrics = Arc::new(Metrics::new(&context.registry));
        let (published, reports) = mpsc::channel(64);
        let publisher = Publisher::new(Parts {
            signer: client,
            feed: origin,
            metrics,
            submissions: Arc::new(Remembered::new(16)),
            holder: "builder".to_owned(),
            lease_duration,
            journal,
            unsigned,
            check: context.health.check("lease"),
            published,
        });
        let (outgoing, to_publish) = mpsc::channel(64);
        let shutdown = context.shutdown.clone();
        context.tasks.spawn("publish", async move {
            publisher.run(to_publish, shutdown).await;
            Ok::<(), std::convert::Infallible>(())
        });
        Self { signer, outgoing, feed, context, signers, reports, _directory }
    }

    async fn publish(&self, outgoing: Outgoing) {
        self.outgoing.send(outgoing).await.unwrap();
    }

    async fn item(&mut self) -> FeedItem {
        timeout(DEADLINE, self.feed.next()).await.unwrap().unwrap().as_ref().clone()
    }

    async fn flashblock(&mut self) -> Position {
        match self.item().await {
            FeedItem::Flashblock(signed) => signed.flashblock.position(),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Does something that has a statement signed, while the signer is silent until it was asked
    /// more than once.
    async fn publish_while_silent(&mut self, outgoing: Outgoing) {
        self.signer.is_silent.store(true, Ordering::SeqCst);
        let before = *self.signer.asked.borrow();
        self.publish(outgoing).await;
        let mut asked = self.signer.asked.subscribe();
        timeout(DEADLINE, asked.wait_for(|asked| *asked >= before + 2)).await.unwrap().unwrap();
        self.signer.is_silent.store(false, Ordering::SeqCst);
    }

    fn lost(&self, statement: &str, cause: &str) -> bool {
        let labels =
            format!(r#"lost_statements_total{{statement="{statement}",cause="{cause}"}} 1"#);
        self.context.registry.encode().contains(&labels)
    }

    async fn stop(self) {
        for context in [self.context, self.signers] {
            context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
        }
    }
}

fn open(build: u64) -> Outgoing {
    let base = Base {
        parent_beacon_block_root: B256::ZERO,
        parent_hash: B256::ZERO,
        fee_recipient: Default::default(),
        prev_randao: B256::ZERO,
        block_number: 1,
        gas_limit: 1,
        timestamp: 1,
        extra_data: Default::default(),
        base_fee_per_gas: 1,
        prev_proposer_pubkey: None,
    };
    Outgoing::Open {
        build: BuildId(build),
        block_number: 1,
        parent_hash: B256::ZERO,
        payload_id: PayloadId::ZERO,
        opening: Box::new(Opening { base, withdrawals: vec![] }),
        trace: Trace::default(),
    }
}

fn taking_back(index: u64) -> Cut {
    let retraction = Retraction { transaction: hash(7), cause: RetractionCause::NoRoom };
    Cut { index, retractions: vec![retraction], ..Cut::default() }
}

fn flashblock(build: u64) -> Outgoing {
    Outgoing::Flashblock { build: BuildId(build), cut: Cut::default() }
}

fn abandon(build: u64) -> Outgoing {
    Outgoing::Abandon { build: BuildId(build), reason: AbandonReason::SealFailed }
}

#[tokio::test]
async fn every_statement_is_asked_for_until_it_is_signed_and_order_is_kept() {
    let mut bench = Bench::new(LEASE).await;
    let build = BuildId(1);
    bench.publish(open(1)).await;
    bench.publish_while_silent(Outgoing::Flashblock { build, cut: taking_back(0) }).await;
    assert_eq!(bench.flashblock().await.index, 0);
    assert!(matches!(bench.item().await, FeedItem::Retracted(_)));
    assert_eq!(bench.reports.recv().await, Some(Published::Flashblock { build, index: 0 }));

    let last = Cut { index: 1, ..Cut::default() };
    let seal = Outgoing::Seal { build, last, block_hash: hash(1), state_root: hash(2) };
    bench.publish_while_silent(seal).await;
    assert_eq!(bench.flashblock().await.index, 1);
    let FeedItem::Sealed(sealed) = bench.item().await else { panic!("the seal is said") };
    assert_eq!(sealed.statement.block_hash, hash(1));

    bench.publish(open(2)).await;
    bench.publish(flashblock(2)).await;
    bench.flashblock().await;
    // The next session waits until the end of this one is said.
    bench.publish_while_silent(open(3)).await;
    bench.publish(flashblock(3)).await;
    let FeedItem::Abandoned(abandoned) = bench.item().await else { panic!("the end is said") };
    assert_eq!(abandoned.statement.reason, AbandonReason::HeadChanged);
    assert!(bench.flashblock().await.seq > abandoned.statement.seq);
    bench.stop().await;
}

#[tokio::test]
async fn what_the_signer_refuses_is_counted_and_holds_up_nothing() {
    let mut bench = Bench::new(LEASE).await;
    bench.signer.refuses.store(true, Ordering::SeqCst);
    bench.publish(open(1)).await;
    bench.publish(Outgoing::Flashblock { build: BuildId(1), cut: taking_back(0) }).await;
    bench.publish(abandon(1)).await;
    bench.publish(open(2)).await;
    bench.publish(flashblock(2)).await;
    let first = bench.flashblock().await;
    assert!(bench.flashblock().await.seq > first.seq);
    assert!(bench.lost("retracted", "refused") && bench.lost("abandoned", "refused"));
    bench.stop().await;
}

#[tokio::test]
async fn a_statement_is_given_up_after_a_lease_without_an_answer() {
    let mut bench = Bench::new(Duration::from_millis(500)).await;
    bench.signer.is_silent.store(true, Ordering::SeqCst);
    bench.publish(open(1)).await;
    bench.publish(flashblock(1)).await;
    bench.publish(abandon(1)).await;
    bench.publish(open(2)).await;
    bench.publish(flashblock(2)).await;
    let first = bench.flashblock().await;
    assert!(bench.flashblock().await.seq > first.seq);
    assert!(bench.lost("abandoned", "unavailable"));
    assert!(*bench.signer.asked.borrow() > 1);
    bench.signer.is_silent.store(false, Ordering::SeqCst);
    bench.stop().await;
}

#[tokio::test]
async fn what_was_signed_and_not_published_before_the_start_is_published_before_all_else() {
    let signer = FakeSigner::default();
    signer.remember_session(1);
    let unsigned = crate::testing::flashblock(crate::testing::at(1, 1));
    let mut bench = Bench::with(LEASE, signer, None, Some(unsigned)).await;
    assert_eq!(bench.flashblock().await, crate::testing::at(1, 1));
    bench.publish(open(1)).await;
    bench.publish(flashblock(1)).await;
    assert_eq!(bench.flashblock().await.index, 0);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_published_is_in_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let (journal, _) = Journal::open(&path, |_, _| {}).unwrap();
    let mut bench = Bench::with(LEASE, FakeSigner::default(), Some(journal), None).await;
    bench.publish(open(1)).await;
    bench.publish(flashblock(1)).await;
    bench.publish(abandon(1)).await;
    let published = [bench.item().await, bench.item().await];
    bench.stop().await;
    let mut items = Vec::new();
    let (_, recovered) = Journal::open(&path, |_, item| items.push(item)).unwrap();
    assert_eq!(items, published);
    assert_eq!(recovered.unsigned, None);
}

#[tokio::test]
async fn the_lease_is_taken_when_the_other_builder_lets_go_of_it() {
    let signer = FakeSigner::default();
    signer.is_held.store(true, Ordering::SeqCst);
    let mut bench = Bench::with(Duration::from_millis(30), signer, None, None).await;
    let is_ready = |bench: &Bench| bench.context.health.is_ready();
    timeout(DEADLINE, async {
        while is_ready(&bench) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(bench.reports.try_recv().is_err());

    bench.signer.is_held.store(false, Ordering::SeqCst);
    assert_eq!(bench.reports.recv().await, Some(Published::Leads));
    assert!(is_ready(&bench));
    bench.signer.is_held.store(true, Ordering::SeqCst);
    assert_eq!(bench.reports.recv().await, Some(Published::Follows));
    bench.stop().await;
}

#[tokio::test]
async fn a_lease_is_renewed_by_how_long_it_was_given_for_and_not_by_what_was_asked() {
    let mut signer = FakeSigner::default();
    signer.granted = Some(Duration::from_millis(300));
    let bench = Bench::with(4 * DEADLINE, signer, None, None).await;
    let mut renewed = bench.signer.renewed.subscribe();
    timeout(DEADLINE, renewed.wait_for(|renewed| *renewed >= 2)).await.unwrap().unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_publisher_that_is_stopped_gives_the_lease_back_after_its_last_words() {
    let mut bench = Bench::new(DEADLINE).await;
    bench.publish(open(1)).await;
    bench.publish(flashblock(1)).await;
    bench.flashblock().await;
    let signer = bench.signer.clone();
    assert_eq!(*signer.released.lock(), None);
    bench.stop().await;
    assert_eq!(*signer.released.lock(), Some(1), "the session was abandoned before");
}

#[tokio::test]
async fn a_publisher_that_had_no_time_for_its_last_words_keeps_the_lease() {
    let mut bench = Bench::new(DEADLINE).await;
    bench.publish(open(1)).await;
    bench.publish(flashblock(1)).await;
    bench.flashblock().await;
    let signer = bench.signer.clone();
    signer.is_silent.store(true, Ordering::SeqCst);
    bench.stop().await;
    assert_eq!(*signer.released.lock(), None);
}
