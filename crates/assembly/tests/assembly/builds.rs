//! Builds: what goes into a flashblock, when it is cut, and what becomes of promises.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use preconf_assembly::{
    Assembler, BuildId, CanonicalBlock, Completion, Cut, Effect, Exhausted, PoolLimits, Timing,
    Wake,
};
use preconf_chain::{ChainSpec, ProposerPublicKey, Transaction};
use preconf_evm::{NextBlock, Paused};
use preconf_primitives::RetractionCause;
use preconf_state::Overlay;

use crate::chain::{GAS_LIMIT, Hidden, Transfer, account, berachain, next_block, signer, spec};

const INTERVAL: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(12);

/// A machine with a driver that shows it the state it asks for.
struct Bench {
    assembler: Assembler<Hidden>,
    spec: Arc<ChainSpec>,
    state: Hidden,
    now: Instant,
    builds: u64,
    /// Whether published flashblocks are reported as published.
    publishes: bool,
    cuts: Vec<Cut>,
    completed: Vec<(Cut, Paused<Hidden>, Completion)>,
}

impl Bench {
    fn new() -> Self {
        Self::on(spec())
    }

    fn on(spec: Arc<ChainSpec>) -> Self {
        let timing = Timing { interval: INTERVAL, deadline: DEADLINE };
        Self {
            assembler: Assembler::new(spec.clone(), timing, PoolLimits::default()),
            state: Hidden::all(&spec),
            spec,
            now: Instant::now(),
            builds: 0,
            publishes: true,
            cuts: Vec::new(),
            completed: Vec::new(),
        }
    }

    /// Offers a transaction and, as a thread that is woken by it would, lets the machine work.
    fn submit(&mut self, transfer: Transfer) -> Transaction {
        let transaction = self.offer(transfer);
        self.run();
        transaction
    }

    fn offer(&mut self, transfer: Transfer) -> Transaction {
        let transaction = transfer.sign();
        self.assembler.submit(transaction.clone(), account(100)).unwrap();
        transaction
    }

    fn open(&mut self) -> BuildId {
        let block = next_block(&self.spec);
        self.open_block(block)
    }

    fn open_block(&mut self, block: NextBlock) -> BuildId {
        self.builds += 1;
        let build = BuildId(self.builds);
        self.assembler.open(build, block, Overlay::new(self.state.clone()), self.now);
        build
    }

    /// Lets the machine do all it can at this moment.
    fn run(&mut self) -> Wake {
        loop {
            let wake = self.assembler.work(self.now);
            while let Some(effect) = self.assembler.poll_effect() {
                self.carry_out(effect);
            }
            if wake != Wake::Now {
                return wake;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect<Hidden>) {
        match effect {
            Effect::Need { build, keys } => {
                self.state.show(&keys);
                self.assembler.state_arrived(build, &keys);
            }
            Effect::Publish { build, cut } => {
                if self.publishes {
                    self.assembler.published(build, cut.index);
                }
                self.cuts.push(cut);
            }
            Effect::Complete { last, block, completion, .. } => {
                self.completed.push((last, *block, completion));
            }
            Effect::Locate { transaction, .. } => panic!("{transaction} is asked for"),
            Effect::Failed { failure, .. } => panic!("the build failed: {failure}"),
            Effect::Recheck { .. } => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    fn published(&self) -> Vec<B256> {
        self.cuts.iter().flat_map(|cut| &cut.transactions).map(|tx| *tx.hash()).collect()
    }
}

#[test]
fn index_0_goes_out_at_once_and_the_others_on_the_schedule() {
    let mut bench = Bench::new();
    bench.open();
    let start = bench.now;
    assert_eq!(bench.run(), Wake::At(start + INTERVAL));
    assert_eq!(bench.cuts.len(), 1);
    assert_eq!((bench.cuts[0].index, bench.cuts[0].transactions.len()), (0, 0));

    let transaction = bench.submit(Transfer::new(1, 0, 1));
    bench.pass(Duration::from_millis(199));
    assert_eq!(bench.cuts.len(), 1);
    bench.pass(Duration::from_millis(31));
    assert_eq!(bench.cuts.len(), 2);
    assert_eq!(bench.published(), [*transaction.hash()]);
    // 30 ms late, and the next one is not.
    assert_eq!(bench.run(), Wake::At(start + 2 * INTERVAL));
}

#[test]
fn the_chains_own_transaction_is_in_the_block_and_neither_published_nor_promised() {
    let mut bench = Bench::on(berachain());
    let block = |byte| NextBlock {
        prev_proposer_pubkey: Some(ProposerPublicKey::repeat_byte(byte)),
        ..next_block(&bench.spec)
    };
    let (first, second) = (block(1), block(2));
    bench.open_block(first);
    bench.run();
    let sent = bench.submit(Transfer::new(1, 0, 1));
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*sent.hash()]);

    // Another proposer: the chain's own transaction is another one, and nothing is taken back.
    bench.cuts.clear();
    let build = bench.open_block(second);
    bench.run();
    assert_eq!(bench.published(), [*sent.hash()]);
    assert!(bench.cuts.iter().all(|cut| cut.retractions.is_empty()));

    assert!(bench.assembler.finish(build, bench.now));
    bench.run();
    let (last, block, _) = &bench.completed[0];
    assert!(last.transactions.is_empty());
    let [own, user] = block.transactions() else { panic!("{:?}", block.transactions()) };
    assert!(own.envelope().is_pol());
    assert_eq!(user.hash(), sent.hash());
}

#[test]
fn a_heartbeat_is_cut_when_nothing_happens() {
    let mut bench = Bench::new();
    bench.open();
    for _ in 0..5 {
        bench.pass(INTERVAL);
    }
    let indexes: Vec<u64> = bench.cuts.iter().map(|cut| cut.index).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
}

#[test]
fn ticks_coalesce_while_a_flashblock_is_on_its_way() {
    let mut bench = Bench::new();
    bench.publishes = false;
    let build = bench.open();
    bench.run();
    for _ in 0..4 {
        bench.pass(INTERVAL);
    }
    assert_eq!(bench.cuts.len(), 1);
    bench.publishes = true;
    bench.assembler.published(build, 0);
    bench.run();
    assert_eq!(bench.cuts.len(), 2);
    assert_eq!(bench.cuts[1].index, 1);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.cuts.len(), 2);
}

#[test]
fn getpayload_ends_the_build_with_what_was_not_published_yet() {
    let mut bench = Bench::new();
    let build = bench.open();
    bench.run();
    let first = bench.submit(Transfer::new(1, 0, 1));
    bench.pass(INTERVAL);
    let second = bench.submit(Transfer::new(1, 1, 1));
    bench.pass(Duration::from_millis(50));
    assert!(bench.assembler.finish(build, bench.now));
    bench.run();
    let (last, block, completion) = bench.completed.pop().unwrap();
    assert_eq!(completion, Completion::Requested);
    assert_eq!(last.index, 2);
    assert_eq!(last.transactions, vec![second.clone()]);
    assert_eq!(block.transactions(), [first, second]);
    assert!(!bench.assembler.finish(build, bench.now));
    assert_eq!(bench.run(), Wake::OnInput);
}

#[test]
fn the_deadline_ends_the_build() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    bench.pass(DEADLINE);
    let (_, _, completion) = bench.completed.pop().unwrap();
    assert_eq!(completion, Completion::Exhausted(Exhausted::Deadline));
}

#[test]
fn the_gas_limit_ends_the_build() {
    let mut bench = Bench::new();
    let block = NextBlock { gas_limit: 50_000, ..next_block(&bench.spec) };
    for sender in 1..=3 {
        bench.submit(Transfer::new(sender, 0, 1));
    }
    bench.open_block(block);
    bench.run();
    let (last, block, completion) = bench.completed.pop().unwrap();
    assert_eq!(completion, Completion::Exhausted(Exhausted::GasLimit));
    assert_eq!(last.gas_used, 42_000);
    assert_eq!(block.transactions().len(), 2);
    // The third waits for the next block.
    assert_eq!(bench.assembler.pool().len(), 3);
}

#[test]
fn what_does_not_fit_is_passed_over_and_smaller_ones_go_in() {
    let mut bench = Bench::new();
    let greedy = Transfer { gas_limit: GAS_LIMIT - 20_000, ..Transfer::new(1, 0, 9) };
    let block = next_block(&bench.spec);
    let small = bench.submit(Transfer::new(2, 0, 20));
    bench.submit(greedy);
    let other = bench.submit(Transfer::new(3, 0, 1));
    bench.open_block(block);
    bench.run();
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*small.hash(), *other.hash()]);
}

#[test]
fn a_flashblock_is_cut_early_when_it_is_full_of_bytes() {
    let mut bench = Bench::new();
    let large = |nonce| Transfer {
        gas_limit: 1_400_000,
        data_bytes: 120_000,
        ..Transfer::new(1, nonce, 1)
    };
    for nonce in 0..20 {
        bench.submit(large(nonce));
    }
    bench.open();
    bench.run();
    let early = &bench.cuts[1];
    let bytes: usize = early.transactions.iter().map(|tx| tx.encoded().len()).sum();
    assert!(bytes >= preconf_primitives::CUT_BYTES, "{bytes}");
    assert!(bytes < preconf_primitives::CUT_BYTES + 128 * 1024, "{bytes}");
}

#[test]
fn missing_state_does_not_hold_up_others() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    // Nothing of sender 1 is in memory; sender 2 and the recipient are.
    bench.state.show(&[
        preconf_state::Key::Account(signer(2).address()),
        preconf_state::Key::Account(crate::chain::RECIPIENT),
    ]);
    let unknown = bench.offer(Transfer::new(1, 0, 9));
    let known = bench.offer(Transfer::new(2, 0, 1));
    assert_eq!(bench.assembler.work(bench.now), Wake::Now);
    let Some(Effect::Need { build, keys }) = bench.assembler.poll_effect() else {
        panic!("state is asked for")
    };
    assert!(keys.contains(&preconf_state::Key::Account(signer(1).address())), "{keys:?}");
    bench.run();
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*known.hash()]);
    bench.state.show(&keys);
    bench.assembler.state_arrived(build, &keys);
    bench.run();
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*known.hash(), *unknown.hash()]);
}

#[test]
fn a_rebuild_keeps_its_promises_first_and_in_order() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    let promised = [bench.submit(Transfer::new(1, 0, 1)), bench.submit(Transfer::new(2, 0, 1))];
    bench.pass(INTERVAL);
    let better = bench.submit(Transfer::new(3, 0, 50));
    bench.cuts.clear();
    bench.open();
    bench.run();
    assert_eq!(bench.cuts[0].index, 0);
    let hashes: Vec<B256> = promised.iter().map(|transaction| *transaction.hash()).collect();
    assert_eq!(bench.published(), hashes);
    bench.pass(INTERVAL);
    assert_eq!(bench.published()[2..], [*better.hash()]);
    assert!(bench.cuts.iter().all(|cut| cut.retractions.is_empty()));
}

#[test]
fn a_promise_that_a_rebuild_cannot_keep_is_taken_back_with_its_cause() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    let first = bench.submit(Transfer::new(1, 0, 1));
    let second = bench.submit(Transfer::new(2, 0, 1));
    bench.pass(INTERVAL);
    bench.cuts.clear();
    let block = NextBlock { gas_limit: 30_000, ..next_block(&bench.spec) };
    bench.open_block(block);
    bench.run();
    let (last, ..) = bench.completed.pop().unwrap();
    let cuts: Vec<&Cut> = bench.cuts.iter().chain([&last]).collect();
    let kept: Vec<_> = cuts.iter().flat_map(|cut| &cut.transactions).cloned().collect();
    let taken_back: Vec<_> = cuts.iter().flat_map(|cut| &cut.retractions).collect();
    assert_eq!(kept, [first]);
    assert_eq!(taken_back.len(), 1);
    assert_eq!(taken_back[0].transaction, *second.hash());
    assert_eq!(taken_back[0].cause, RetractionCause::NoRoom);
}

#[test]
fn what_is_canonical_is_not_promised_again() {
    let mut bench = Bench::new();
    let build = bench.open();
    bench.run();
    let transaction = bench.submit(Transfer::new(1, 0, 1));
    bench.pass(INTERVAL);
    bench.assembler.finish(build, bench.now);
    bench.run();
    let hash = *transaction.hash();
    let used = vec![(signer(1).address(), 0, hash)];
    let block = CanonicalBlock { number: 1, hash: B256::ZERO, used };
    bench.assembler.canonical(vec![block], bench.now);
    assert!(bench.assembler.pool().is_empty());
    bench.cuts.clear();
    bench.open();
    bench.pass(INTERVAL);
    assert!(bench.published().is_empty());
    assert!(bench.cuts.iter().all(|cut| cut.retractions.is_empty()));
}

#[test]
fn a_build_that_is_given_up_loses_no_transaction() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    let transaction = bench.submit(Transfer::new(1, 0, 1));
    bench.assembler.drop_build();
    bench.open();
    bench.run();
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*transaction.hash()]);
}

#[test]
fn many_that_wait_for_state_do_not_use_up_each_others_tries() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    let waiting: Vec<B256> =
        (1..=9).map(|sender| *bench.offer(Transfer::new(sender, 0, 1)).hash()).collect();
    // All of them are tried and miss their state before any of it comes.
    let mut needs = Vec::new();
    for _ in &waiting {
        assert_eq!(bench.assembler.work(bench.now), Wake::Now);
        let Some(Effect::Need { build, keys }) = bench.assembler.poll_effect() else {
            panic!("state is asked for")
        };
        needs.push((build, keys));
    }
    for (build, keys) in needs {
        bench.state.show(&keys);
        bench.assembler.state_arrived(build, &keys);
        bench.run();
    }
    bench.pass(INTERVAL);
    let mut published = bench.published();
    published.sort_unstable();
    let mut expected = waiting;
    expected.sort_unstable();
    assert_eq!(published, expected);
}

#[test]
fn a_nonce_that_is_used_elsewhere_does_not_hold_up_the_next_one() {
    let mut bench = Bench::new();
    let stale = bench.offer(Transfer::new(1, 0, 1));
    let next = bench.offer(Transfer::new(1, 1, 1));
    bench.state.move_nonce(signer(1).address(), 1);
    bench.open();
    bench.run();
    bench.pass(INTERVAL);
    assert_eq!(bench.published(), [*next.hash()]);
    assert!(bench.assembler.pool().get(stale.hash()).is_none());
}

#[test]
fn promises_survive_a_rebuild_that_ends_before_it_comes_to_them() {
    let mut bench = Bench::new();
    bench.open();
    bench.run();
    let transaction = bench.submit(Transfer::new(1, 0, 1));
    bench.pass(INTERVAL);
    bench.cuts.clear();
    // A rebuild on state that nobody has read: it ends before it begins.
    bench.state = Hidden::all(&bench.spec);
    let build = bench.open();
    bench.assembler.work(bench.now);
    assert!(bench.assembler.finish(build, bench.now));
    while bench.assembler.poll_effect().is_some() {}
    bench.open();
    bench.run();
    assert_eq!(bench.published(), [*transaction.hash()]);
}
