//! Whatever a network does to the feed: the pending chain is the one that was published.

use std::sync::LazyLock;

use alloy_primitives::{B256, Bytes};
use preconf_pending::{CanonicalHead, Limits, MAX_DEPTH, Received, snapshot::BlockReference};
use preconf_primitives::{Abandoned, Position, Retracted, Retraction, RetractionCause, Sealed};
use preconf_signing::{SignedStatement, Verified};
use proptest::prelude::*;

use crate::{
    rig::Rig,
    support::{COUNTER, Known, ONCE, transaction, transfer},
};

/// One entry of the feed's log, verified once for all.
#[derive(Clone, Debug)]
enum Entry {
    Flashblock(Received),
    Sealed(Box<Verified<SignedStatement<Sealed>>>),
}

/// A chain of blocks as it was published, one of which was built twice.
struct Log {
    entries: Vec<Entry>,
    blocks: Vec<Known>,
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let mut rig = Rig::without_head(Default::default());
    let (mut entries, mut blocks) = (Vec::new(), Vec::new());
    let mut parent = rig.genesis.clone();
    for block in 0..3_u64 {
        if block == 1 {
            let mut given_up = rig.sequencer.open(&parent);
            let first = rig.sequencer.flashblock(&mut given_up, &[transfer(1, block * 3)]);
            entries.push(Entry::Flashblock(rig.received(&first)));
        }
        let mut building = rig.sequencer.open(&parent);
        for nonce in block * 3..block * 3 + 3 {
            let transactions = [transfer(1, nonce), transaction(2, nonce, COUNTER)];
            let signed = rig.sequencer.flashblock(&mut building, &transactions);
            entries.push(Entry::Flashblock(rig.received(&signed)));
        }
        let last = rig.sequencer.last(&mut building, &[]);
        entries.push(Entry::Flashblock(rig.received(&last)));
        let (sealed, known) = rig.sequencer.seal(&building);
        entries.push(Entry::Sealed(Box::new(rig.verifier.sealed(sealed).unwrap())));
        blocks.push(known.clone());
        parent = known;
    }
    Log { entries, blocks }
});

impl Entry {
    fn is_at_or_after(&self, cursor: Position) -> bool {
        match self {
            Self::Flashblock(received) => received.flashblock().position() >= cursor,
            Self::Sealed(verified) => verified.get().statement.seq >= cursor.seq,
        }
    }
}

/// What a network does to what is on its way.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Deliver,
    Drop,
    Duplicate,
    Swap,
    Reconnect,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        6 => Just(Mishap::Deliver),
        2 => Just(Mishap::Drop),
        1 => Just(Mishap::Duplicate),
        1 => Just(Mishap::Swap),
        1 => Just(Mishap::Reconnect),
    ]
}

fn deliver(rig: &mut Rig, entry: &Entry) {
    match entry {
        Entry::Flashblock(received) => drop(rig.machine.flashblock(received.clone(), rig.now)),
        Entry::Sealed(verified) => drop(rig.machine.sealed(Verified::clone(verified), rig.now)),
    }
    rig.run();
}

/// What is on its way after connecting at a cursor.
fn connect(cursor: Position) -> Vec<Entry> {
    let from = LOG.entries.iter().position(|entry| entry.is_at_or_after(cursor));
    LOG.entries[from.unwrap_or(LOG.entries.len())..].to_vec()
}

/// How many entries of a replay arrive undisturbed: what was missing, and what showed it.
const RELIABLE: usize = 3;

/// Delivers the log with mishaps until they are used up, and then undisturbed. What was asked for
/// is replayed in earnest: a feed that loses it again and again cannot be repaired. So is where the
/// feed begins: nobody can know what came before the first thing that was ever received.
fn receive(rig: &mut Rig, mishaps: &[Mishap], head: Option<(usize, usize)>) {
    let mut coming = connect(rig.machine.cursor());
    let mut mishaps = mishaps.iter();
    let (mut delivered, mut reliable) = (0, 1_usize);
    for _ in 0..2_000 {
        if let Some((after, block)) = head
            && after == delivered
        {
            rig.head(&LOG.blocks[block]);
        }
        delivered += 1;
        let asked = rig.replays.len();
        let mishap = match reliable {
            0 => mishaps.next().unwrap_or(&Mishap::Deliver),
            _ => &Mishap::Deliver,
        };
        reliable = reliable.saturating_sub(1);
        if coming.is_empty() {
            // A live feed does not end; to connect again is what makes a lost tail come.
            coming = connect(rig.machine.cursor());
            if mishaps.len() == 0 {
                coming.iter().for_each(|entry| deliver(rig, entry));
                if rig.replays.len() == asked {
                    return;
                }
                coming = connect(rig.machine.cursor());
            }
            continue;
        }
        match mishap {
            Mishap::Drop => drop(coming.remove(0)),
            Mishap::Deliver => deliver(rig, &coming.remove(0)),
            Mishap::Duplicate => deliver(rig, &coming[0].clone()),
            Mishap::Swap => {
                let at = coming.len().min(2) - 1;
                coming.swap(0, at);
            }
            Mishap::Reconnect => coming = connect(rig.machine.cursor()),
        }
        if rig.replays.len() > asked {
            coming = connect(rig.machine.cursor());
            reliable = RELIABLE;
        }
    }
    panic!("it does not come to an end");
}

fn chain(rig: &Rig) -> Vec<BlockReference> {
    rig.snapshot().blocks.iter().map(|block| block.reference.clone()).collect()
}

#[test]
fn the_log_delivered_in_order_ends_in_its_last_block() {
    let mut rig = Rig::new();
    receive(&mut rig, &[], None);
    let hashes: Vec<_> = chain(&rig).iter().map(|block| block.hash).collect();
    assert_eq!(hashes, LOG.blocks.iter().map(|block| block.hash).collect::<Vec<_>>());
    assert!(rig.replays.is_empty() && rig.refusals.is_empty());
}

/// The pending chain after the log was delivered in order.
static EXPECTED: LazyLock<Vec<BlockReference>> = LazyLock::new(|| {
    let mut rig = Rig::new();
    receive(&mut rig, &[], None);
    chain(&rig)
});

/// Anything that could come, verified: sessions that contradict each other, transactions that
/// cannot be executed, statements about them, and canonical blocks.
enum Anything {
    Flashblock(Received),
    Sealed(Verified<SignedStatement<Sealed>>),
    Abandoned(Verified<SignedStatement<Abandoned>>),
    Retracted(Verified<SignedStatement<Retracted>>),
    Head(Known),
    Content(Known),
    NotReplayed(Position, Position),
}

static POOL: LazyLock<Vec<Anything>> = LazyLock::new(|| {
    let mut rig = Rig::without_head(Limits::default());
    let mut pool = Vec::new();
    let mut parents = vec![rig.genesis.clone()];
    for round in 0..6_u64 {
        let parent = parents[round as usize / 2].clone();
        let mut building = rig.sequencer.open(&parent);
        let nonce = parent.header.number;
        match round {
            3 => building.base.gas_limit += 1_000_000,
            4 => building.base.block_number += 5,
            _ => (),
        }
        let encoded = |transactions: &[preconf_chain::Transaction]| -> Vec<Bytes> {
            transactions.iter().map(|transaction| transaction.encoded().clone()).collect()
        };
        let good = [transfer(1, nonce), transaction(2, nonce, ONCE)];
        let mut signed = vec![rig.sequencer.unchecked(&mut building, encoded(&good), false)];
        let bad = match round % 3 {
            0 => encoded(&[transfer(3, 7)]),
            1 => vec![Bytes::from_static(&[1, 2, 3])],
            _ => encoded(&[transaction(3, nonce, ONCE)]),
        };
        let mut other = building.clone();
        signed.push(rig.sequencer.unchecked(&mut other, bad, false));
        signed.push(rig.sequencer.unchecked(&mut building, vec![], true));
        signed.push(rig.sequencer.unchecked(&mut building, vec![], false));
        pool.extend(signed.iter().map(|signed| Anything::Flashblock(rig.received(signed))));

        let foreign = rig.sequencer.foreign(&parent, &good);
        let about = rig.sequencer.abandon(&other);
        pool.push(Anything::Abandoned(rig.verifier.abandoned(about).unwrap()));
        let cause = RetractionCause::NoRoom;
        let retraction = Retraction { transaction: *good[0].hash(), cause };
        let taken_back = rig.sequencer.retract(&other, vec![retraction]);
        pool.push(Anything::Retracted(rig.verifier.retracted(taken_back).unwrap()));
        for block_hash in [foreign.hash, B256::repeat_byte(9)] {
            let sealed = Sealed {
                seq: building.seq,
                block_number: building.base.block_number,
                last_digest: rig.received(&signed[2]).digest(),
                block_hash,
                state_root: foreign.header.state_root,
            };
            let sealed = rig.sequencer.sealed(sealed);
            pool.push(Anything::Sealed(rig.verifier.sealed(sealed).unwrap()));
        }
        let next = Position::new(building.seq, 2);
        pool.push(Anything::NotReplayed(Position::new(building.seq, 0), next));
        pool.extend([Anything::Head(foreign.clone()), Anything::Content(foreign.clone())]);
        parents.push(foreign);
    }
    pool
});

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn any_delivery_converges_to_the_chain_in_order(
        mishaps in prop::collection::vec(mishap(), 0..60)
    ) {
        let mut rig = Rig::new();
        receive(&mut rig, &mishaps, None);

        prop_assert!(rig.refusals.is_empty(), "{:?}", rig.refusals);
        prop_assert_eq!(&chain(&rig), &*EXPECTED);
        let ids: Vec<_> = rig.snapshots.iter().map(|snapshot| snapshot.id).collect();
        prop_assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }

    /// Canonical blocks may come at any time, early or late.
    #[test]
    fn heads_at_any_time_leave_what_is_above_them(
        mishaps in prop::collection::vec(mishap(), 0..40),
        after in 0_usize..30,
        block in 0_usize..3,
    ) {
        let mut rig = Rig::new();
        receive(&mut rig, &mishaps, Some((after, block)));
        rig.head(&LOG.blocks[block]);

        let hashes: Vec<_> = chain(&rig).iter().map(|block| block.hash).collect();
        let above: Vec<_> = LOG.blocks[block + 1..].iter().map(|block| block.hash).collect();
        prop_assert_eq!(hashes, above);
        prop_assert!(rig.refusals.is_empty(), "{:?}", rig.refusals);
    }

    /// Every snapshot that comes out is a chain (the rig's reader checks it), and nothing panics.
    #[test]
    fn whatever_comes_the_machine_stays_within_its_bounds(
        inputs in prop::collection::vec(any::<prop::sample::Index>(), 0..120)
    ) {
        let limits = Limits { sessions: 3, ..Limits::default() };
        let mut rig = Rig::without_head(limits);
        let genesis = rig.genesis.clone();
        rig.head(&genesis);
        for input in inputs {
            match input.get(&POOL) {
                Anything::Flashblock(received) => {
                    rig.machine.flashblock(received.clone(), rig.now);
                }
                Anything::Sealed(verified) => {
                    rig.machine.sealed(verified.clone(), rig.now);
                }
                Anything::Abandoned(verified) => {
                    rig.machine.abandoned(verified.clone(), rig.now);
                }
                Anything::Retracted(verified) => {
                    rig.machine.retracted(verified.clone());
                }
                Anything::Head(known) => {
                    rig.states.insert(known);
                    let (hash, header) = (known.hash, known.header.clone());
                    rig.machine.head(CanonicalHead { hash, header });
                }
                Anything::Content(known) => {
                    rig.machine.content(known.hash, Some(&known.content()));
                }
                Anything::NotReplayed(wanted, next) => rig.machine.not_replayed(*wanted, *next),
            }
            rig.run();
            prop_assert!(rig.machine.held().0 <= limits.sessions);
            prop_assert!(rig.snapshot().blocks.len() <= MAX_DEPTH);
            let head = rig.machine.canonical().map(|head| head.hash);
            prop_assert_eq!(Some(rig.snapshot().canonical.hash), head);
        }
    }
}
