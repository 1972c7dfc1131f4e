//! What the builder's thread makes of a full pool, beside alloy-evm's block executor alone.
//!
//! Ours: one build from its opening to its end over the state cache, driven as the build thread
//! drives it (a look into the queue of orders, a look at the clock, one step, its effects), with a
//! flashblock every [`CUT`] transactions, which is far more often than every 200 ms. Taking the
//! transactions into the pool happens before, and is told in a row of its own.
//!
//! The limit executes the same transactions in the same order over revm's `CacheDB`.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::{Duration, Instant},
};

use preconf_assembly::{Assembler, BuildId, Cut, Effect, PoolLimits, Timing, Wake};
use preconf_chain::Transaction;
use preconf_evm::Paused;
use preconf_state::{Overlay, StateCache, StateReader};

use crate::{
    clock::on_this_thread,
    measure::{Rounds, Wrong, each, same},
    one_shot::{Executed, OneShot, overlaid, same_receipts, same_state},
    report::{Goal, Row},
    world::{Recipient, World},
};

const TRANSACTIONS: usize = 20_000;
/// How many transactions are in a flashblock.
const CUT: u32 = 1_000;
const INTERVAL: Duration = Duration::from_millis(200);
const TIMING: Timing = Timing { interval: INTERVAL, deadline: Duration::from_secs(3_600) };
const BUILD: BuildId = BuildId(1);
/// Enough for every account and slot of the block.
const CACHE: usize = 1 << 20;

/// One build of ours.
struct Built {
    /// Taking the transactions into the pool.
    insertion: Duration,
    /// From the opening to the end of the build.
    building: Duration,
    /// All but the last. Kept, because the build thread hands them on; another lets go of them.
    flashblocks: Vec<Cut>,
    block: Box<Paused<StateCache>>,
}

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut world = World::new();
    let pool = transactions(&mut world);
    let cache = StateCache::new(0, world.genesis_hash, CACHE);
    // The first build finds the cache empty, and says in which order the pool gives.
    let order = build(&world, &pool, &cache)?.block.transactions().to_vec();
    let limit = OneShot::new(&world, world.next_block(), &order);
    let db = world.cache_db();

    let mut wanted = None;
    let ours = || {
        let built = build(&world, &pool, &cache)?;
        same("the transactions", &built.block.transactions(), &order.as_slice())?;
        let wanted = wanted.get_or_insert_with(|| limit.run(db.clone()));
        check(&world, &built, wanted)?;
        Ok((built.insertion, built.building))
    };
    let (ours, limit) = rounds.interleave(ours, || Ok(limit.run(db.clone()).execution))?;

    let building = each(&ours, |(_, building)| *building);
    let both = each(&ours, |(insertion, building)| *insertion + *building);
    Ok(vec![
        Row::rate("build: select, execute, receipts, cut", TRANSACTIONS, &building)
            .beside(TRANSACTIONS, &limit)
            .goal(Goal::AtLeast(0.8)),
        Row::rate("the same with insertion into the pool", TRANSACTIONS, &both)
            .beside(TRANSACTIONS, &limit),
        Row::rate("insertion alone", TRANSACTIONS, &each(&ours, |(insertion, _)| *insertion)),
    ])
}

/// Equal shares of ether and token transfers, to those who exist and to those who do not.
fn transactions(world: &mut World) -> Vec<Transaction> {
    let kinds = |at: usize| match at % 4 {
        0 => (false, Recipient::Fresh),
        1 => (true, Recipient::Fresh),
        2 => (false, Recipient::Existing(at as u64 * 7)),
        _ => (true, Recipient::Existing(at as u64 * 7)),
    };
    (0..TRANSACTIONS)
        .map(|at| match kinds(at) {
            // Seven: so that each sender sends all four kinds.
            (false, to) => world.transfer(at / 7, to),
            (true, to) => world.token_transfer(at / 7, to),
        })
        .collect()
}

fn build(world: &World, pool: &[Transaction], cache: &StateCache) -> Result<Built, Wrong> {
    let mut assembler = Assembler::new(world.spec.clone(), TIMING, PoolLimits::default());
    let accounts: Vec<_> =
        pool.iter().map(|transaction| world.state.account(transaction.signer())).collect();
    let (insertion, inserted) = on_this_thread(|| {
        pool.iter().zip(accounts).try_for_each(|(transaction, account)| {
            let account = account.map_err(|need| Wrong(need.to_string()))?;
            let inserted = assembler.submit(transaction.clone(), account);
            inserted.map(drop).map_err(|refused| Wrong(format!("what is taken: {refused:?}")))
        })
    });
    inserted?;
    let (orders, no_orders) = sync_channel(1);
    let (building, built) = on_this_thread(|| {
        let started = Instant::now();
        assembler.open(BUILD, world.next_block(), Overlay::new(cache.clone()), started);
        drive(world, &mut assembler, cache, &no_orders, started)
    });
    drop(orders);
    let (flashblocks, block) = built?;
    Ok(Built { insertion, building, flashblocks, block })
}

/// What the build thread does, with time that goes on by an interval every [`CUT`] steps.
fn drive(
    world: &World,
    assembler: &mut Assembler<StateCache>,
    cache: &StateCache,
    orders: &Receiver<()>,
    started: Instant,
) -> Result<(Vec<Cut>, Box<Paused<StateCache>>), Wrong> {
    let mut flashblocks = Vec::new();
    let mut steps = 0;
    loop {
        orders.try_iter().for_each(drop);
        // As the thread looks at the clock; what it says is not what is measured here.
        std::hint::black_box(Instant::now());
        let now = started + INTERVAL * (steps / CUT);
        let wake = assembler.work(now);
        steps += 1;
        while let Some(effect) = assembler.poll_effect() {
            match effect {
                Effect::Need { build, keys } => {
                    world.fill(cache, &keys);
                    assembler.state_arrived(build, &keys);
                }
                Effect::Publish { build, cut } => {
                    assembler.published(build, cut.index);
                    flashblocks.push(cut);
                }
                Effect::Complete { block, .. } => return Ok((flashblocks, block)),
                Effect::Locate { transaction, .. } => {
                    return Err(Wrong(format!("the promise of {transaction}")));
                }
                Effect::Failed { failure, .. } => return Err(Wrong(failure.to_string())),
                // No block becomes canonical here.
                Effect::Recheck { .. } => {}
            }
        }
        if matches!(wake, Wake::At(_) | Wake::OnInput) {
            assembler.finish(BUILD, now);
        }
    }
}

fn check(
    world: &World,
    built: &Built,
    wanted: &Executed<revm::database::CacheDB<revm::database::EmptyDB>>,
) -> Result<(), Wrong> {
    same("the number of transactions", &built.block.transactions().len(), &TRANSACTIONS)?;
    // The last one is not among them.
    let enough = built.flashblocks.len() >= TRANSACTIONS / CUT as usize;
    same("whether there were flashblocks", &enough, &true)?;
    same_receipts(built.block.receipts().iter(), &wanted.receipts)?;
    same_state(
        &overlaid(world, [Arc::new(built.block.overlay().block_diff())].into_iter()),
        &wanted.db,
    )
}
