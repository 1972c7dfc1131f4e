//! What the consumer makes of a block in flashblocks, beside executing it at one go.
//!
//! Ours, for each flashblock: from the decoded message through the receiving machine to the update
//! that it publishes, and from that to the snapshot that a reader has. State is in memory. What comes
//! before (checking the seal, recovering senders) and after (closing the block) is measured apart,
//! each beside its own limit where it has one.
//!
//! The limits execute the same transactions at one go: over revm's `CacheDB`, which keeps the last
//! values and nothing else; over an overlay like ours, so that the difference is what the cuts cost;
//! and over revm's `State` with its bundle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use preconf_chain::Transaction;
use preconf_pending::{
    CanonicalHead, Effect, Limits, Machine, Received, Reception, Step,
    snapshot::{Snapshot, SnapshotStore, Update},
};
use preconf_signing::{Checked, SignedFlashblock, Verifier};
use preconf_state::{Key, StateCache};
use revm::database::{CacheDB, EmptyDB, State, states::bundle_state::BundleRetention};

use crate::{
    clock::{on_all_cores, on_this_thread},
    measure::{Rounds, Wrong, each, median, same},
    one_shot::{OneShot, overlaid, run_overlaid, same_receipts, same_state},
    recover::{RawRecovery, recover_raw},
    report::{Goal, Row},
    sequencer::{RawSeal, Sequencer},
    world::{Recipient, World},
};

const BLOCKS: [usize; 3] = [500, 1_000, 1_500];
/// How many transactions are in a flashblock.
const FLASHBLOCK: usize = 10;

/// One block on its way through ours. A duration for each flashblock.
#[derive(Default)]
struct Consumed {
    verifying: Vec<Duration>,
    decoding: Vec<Duration>,
    executing: Vec<Duration>,
    folding: Vec<Duration>,
    /// Ending the block: system calls, and the roots of transactions and receipts.
    closing: Duration,
    /// What was not in memory.
    needed: Vec<Key>,
    snapshot: Option<Snapshot>,
}

/// The limits of the same block.
struct Limit {
    cache_db: Duration,
    overlaid: Duration,
    state: Duration,
    closing: Duration,
    verifying: Duration,
    recovering: Duration,
}

/// What is not measured: reading the state.
#[derive(Default)]
struct Fetching {
    elapsed: Duration,
    needed: Vec<Key>,
}

struct Block {
    world: World,
    verifier: Verifier,
    flashblocks: Vec<SignedFlashblock>,
    /// Everything that is read.
    keys: Vec<Key>,
}

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut rows = Vec::new();
    for transactions in BLOCKS {
        rows.extend(measure_block(transactions, rounds)?);
    }
    Ok(rows)
}

fn measure_block(count: usize, rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut world = World::new();
    let transactions: Vec<Transaction> =
        (0..count).map(|at| world.transfer(at, Recipient::Fresh)).collect();
    let sequencer = Sequencer::new();
    let flashblocks = sequencer.flashblocks(&world.next_block(), &transactions, FLASHBLOCK);
    let mut block = Block { world, verifier: sequencer.verifier(), flashblocks, keys: Vec::new() };
    block.keys = block.consume()?.needed;

    let db = block.world.cache_db();
    let one_shot = OneShot::new(&block.world, block.world.next_block(), &transactions);
    let seals: Vec<RawSeal> = block.flashblocks.iter().map(RawSeal::of).collect();
    let raw: Vec<RawRecovery> = transactions.iter().map(RawRecovery::of).collect();
    let ours = || {
        let consumed = block.consume()?;
        check(&block, &consumed, &one_shot, &db)?;
        Ok(consumed)
    };
    let limit = || {
        let executed = one_shot.run(db.clone());
        let (closing, cache_db) = (executed.closing, executed.execution);
        let (spec, next) = (&block.world.spec, block.world.next_block());
        let cache = block.filled();
        let overlaid = run_overlaid(spec, next, cache, &transactions)?.0;
        let bundled = State::builder().with_database(db.clone()).with_bundle_update().build();
        let executed = one_shot.run(bundled);
        let mut bundled = executed.db;
        let merging = on_this_thread(|| bundled.merge_transitions(BundleRetention::PlainState)).0;
        let (verifying, verified) = on_this_thread(|| sequencer.verify_raw(&seals));
        verified?;
        let recovering = on_all_cores(|| recover_raw(&raw)).0;
        let state = executed.execution + merging;
        Ok(Limit { cache_db, overlaid, state, closing, verifying, recovering })
    };
    let (ours, limits) = rounds.interleave(ours, limit)?;
    Ok(rows(count, &ours, &limits))
}

fn rows(count: usize, ours: &[Consumed], limits: &[Limit]) -> Vec<Row> {
    let sum = |field: fn(&Consumed) -> &Vec<Duration>| each(ours, |run| field(run).iter().sum());
    let row = |name: &str, ours: &[Duration]| Row::time(format!("{count} {name}"), ours);
    let pending = each(ours, |run| run.pending().sum());
    let all = each(ours, |run| {
        run.verifying.iter().chain(&run.decoding).copied().chain(run.pending()).sum()
    });
    let limit = |field: fn(&Limit) -> Duration| each(limits, field);
    let (first, last) = deciles(ours);
    vec![
        row("decoded to snapshot, beside CacheDB", &pending)
            .beside(1, &limit(|limit| limit.cache_db))
            .goal(Goal::AtMost(1.5)),
        row("the same, beside an overlay of our own", &pending)
            .beside(1, &limit(|limit| limit.overlaid))
            .goal(Goal::AtMost(1.5)),
        row("the same, beside State with bundle", &pending).beside(1, &limit(|limit| limit.state)),
        row("a flashblock of the last tenth, beside the first", &last)
            .beside(1, &first)
            .goal(Goal::AtMost(1.2)),
        row("decode with senders, beside raw recovery", &sum(|run| &run.decoding))
            .beside(1, &limit(|limit| limit.recovering))
            .goal(Goal::AtMost(1.3)),
        row("check seals, beside raw blst", &sum(|run| &run.verifying))
            .beside(1, &limit(|limit| limit.verifying)),
        row("all of it, beside the sum of the limits", &all)
            .beside(1, &limit(|limit| limit.cache_db + limit.verifying + limit.recovering)),
        row("of it, folding updates into snapshots", &sum(|run| &run.folding)),
        row("close the block, roots included", &each(ours, |run| run.closing))
            .beside(1, &limit(|limit| limit.closing)),
    ]
}

/// What a flashblock of the first tenth and of the last takes, in each run. The very first is left
/// out: it also opens the block.
fn deciles(ours: &[Consumed]) -> (Vec<Duration>, Vec<Duration>) {
    let tenth = |run: &Consumed| run.executing.len() / 10;
    let pending = |run: &Consumed| run.pending().collect::<Vec<_>>();
    let first = each(ours, |run| median(&pending(run)[1..=tenth(run)]));
    let last = each(ours, |run| median(&pending(run)[run.executing.len() - tenth(run)..]));
    (first, last)
}

impl Consumed {
    /// What each flashblock takes from being decoded to being in a reader's snapshot.
    fn pending(&self) -> impl Iterator<Item = Duration> {
        self.executing.iter().zip(&self.folding).map(|(executing, folding)| *executing + *folding)
    }
}

impl Block {
    /// Sends the block through a new machine.
    fn consume(&self) -> Result<Consumed, Wrong> {
        let mut machine = Machine::new(self.world.spec.clone(), Limits::default());
        let (hash, header) = (self.world.genesis_hash, self.world.genesis.clone());
        machine.head(CanonicalHead { hash, header });
        while machine.poll_effect().is_some() {}
        let mut store = SnapshotStore::new();
        let mut consumed = Consumed::default();
        let mut received = Vec::new();
        for signed in self.flashblocks.iter().cloned() {
            let (elapsed, verified) =
                on_this_thread(|| self.verifier.flashblock(signed, Checked::Seal));
            consumed.verifying.push(elapsed);
            let verified = verified.map_err(|refusal| Wrong(refusal.to_string()))?;
            let (elapsed, decoded) = on_all_cores(|| Received::decode(verified));
            consumed.decoding.push(elapsed);
            received.push(decoded);
        }
        let mut updates = Vec::new();
        for received in received {
            let (elapsed, update) = on_this_thread(|| self.execute(&mut machine, received));
            let (update, fetching) = update?;
            consumed.executing.push(elapsed.saturating_sub(fetching.elapsed));
            consumed.needed.extend(fetching.needed);
            updates.push(update);
        }
        for update in &updates {
            let (elapsed, snapshot) = on_this_thread(|| store.apply(update));
            consumed.folding.push(elapsed);
            consumed.snapshot = Some(snapshot.map_err(|bad| Wrong(bad.to_string()))?);
        }
        let (elapsed, step) = on_this_thread(|| machine.work());
        same("whether the block ends", &matches!(step, Step::Closed(_)), &true)?;
        consumed.closing = elapsed;
        Ok(consumed)
    }

    /// From the decoded flashblock to the published update.
    fn execute(
        &self,
        machine: &mut Machine,
        received: Received,
    ) -> Result<(Arc<Update>, Fetching), Wrong> {
        let mut fetching = Fetching::default();
        let reception = machine.flashblock(received, Instant::now());
        same("the reception", &matches!(reception, Reception::Accepted), &true)?;
        loop {
            match (machine.work(), machine.poll_effect()) {
                (Step::Executed(_), Some(Effect::Publish(update))) => {
                    return Ok((update, fetching));
                }
                (Step::Opened(_), None) => {}
                (Step::Waiting, None) => {
                    let (elapsed, needed) = on_this_thread(|| self.fetch(machine));
                    fetching.elapsed += elapsed;
                    fetching.needed.extend(needed);
                }
                (step, effect) => return Err(Wrong(format!("the step {step:?} with {effect:?}"))),
            }
        }
    }

    /// A cache that holds everything that the block reads.
    fn filled(&self) -> StateCache {
        let cache = StateCache::new(self.world.genesis.number, self.world.genesis_hash, 1 << 20);
        self.world.fill(&cache, &self.keys);
        cache
    }

    /// Brings what the machine needs, and everything else that the block reads.
    fn fetch(&self, machine: &mut Machine) -> Vec<Key> {
        let Some(need) = machine.need().cloned() else { return Vec::new() };
        self.world.fill(&need.cache, &need.keys);
        self.world.fill(&need.cache, &self.keys);
        machine.state_arrived(need.id);
        need.keys
    }
}

/// Fails unless the block came to what executing it at one go comes to.
fn check(
    block: &Block,
    consumed: &Consumed,
    one_shot: &OneShot<'_>,
    db: &CacheDB<EmptyDB>,
) -> Result<(), Wrong> {
    let wanted = one_shot.run(db.clone());
    let snapshot = consumed.snapshot.as_ref().ok_or_else(|| Wrong("any snapshot".to_owned()))?;
    let tip = snapshot.tip().ok_or_else(|| Wrong("any block".to_owned()))?;
    same_receipts(tip.transactions().map(|executed| &executed.receipt), &wanted.receipts)?;
    let gas_used = wanted.receipts.last().map_or(0, |last| last.cumulative_gas_used);
    same("the gas used", &tip.gas_used(), &gas_used)?;
    same_state(&overlaid(&block.world, tip.diffs().cloned()), &wanted.db)
}
