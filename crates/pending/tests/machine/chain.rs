//! Blocks on top of each other, and the canonical chain below them.

use alloy_primitives::{Address, B256, U256};
use preconf_pending::{Audit, HeadRelation, Limits, MAX_DEPTH, Machine, Reception};
use preconf_state::{Overlay, StateReader};

use crate::{
    rig::Rig,
    support::{COUNTER, Known, PARENT, genesis, hashes, signer, transaction, transfer},
};

/// What the state holds that a snapshot describes: balances and the counter.
fn state(rig: &Rig, below: &Known) -> (U256, U256, U256) {
    let snapshot = rig.snapshot();
    let mut overlay = Overlay::new(below.state.clone());
    for diff in snapshot.diffs_through(snapshot.blocks.len()) {
        overlay.push_layer(diff.clone());
    }
    let balance = |address| overlay.account(address).unwrap().map_or(U256::ZERO, |a| a.balance);
    let counter = overlay.slot(COUNTER, U256::ZERO).unwrap();
    (balance(signer(1).address()), balance(Address::repeat_byte(0x77)), counter)
}

fn state_of(known: &Known) -> (U256, U256, U256) {
    let balance = |address| known.state.account(address).unwrap().map_or(U256::ZERO, |a| a.balance);
    let counter = known.state.slot(COUNTER, U256::ZERO).unwrap();
    (balance(signer(1).address()), balance(Address::repeat_byte(0x77)), counter)
}

#[test]
fn a_flashblock_shows_its_transactions_with_their_receipts() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let first = [transfer(1, 0), transaction(2, 0, COUNTER)];
    let second = [transaction(1, 1, COUNTER)];

    let signed = rig.sequencer.flashblock(&mut building, &first);
    rig.deliver(&signed);
    let signed = rig.sequencer.flashblock(&mut building, &second);
    rig.deliver(&signed);

    let all = [first.to_vec(), second.to_vec()].concat();
    assert_eq!(rig.shown(), [hashes(&all)]);
    let expected = rig.sequencer.finish(&building);
    let snapshot = rig.snapshot();
    let receipts: Vec<_> = snapshot.blocks[0].transactions().map(|tx| &tx.receipt).collect();
    assert_eq!(receipts, expected.receipts.iter().collect::<Vec<_>>());
    assert_eq!(snapshot.blocks[0].reference.hash, rig.received(&signed).digest().get());
    assert_eq!(snapshot.blocks[0].reference.closing, None);
}

#[test]
fn the_end_of_a_session_adds_withdrawals_and_the_seal_adds_the_hash() {
    let mut rig = Rig::new();
    let first = [transfer(1, 0)];

    let (_, known) = rig.whole_block(&rig.genesis.clone(), &[&first]);

    let block = &rig.snapshot().blocks[0].reference;
    assert_eq!(block.hash, known.hash);
    assert_eq!(block.state_root, Some(known.header.state_root));
    let closing = block.closing.as_ref().unwrap();
    assert_eq!(closing.requests_hash, known.header.requests_hash);
    assert_eq!(state(&rig, &rig.genesis), state_of(&known));
}

#[test]
fn a_second_block_is_pending_on_a_sealed_one() {
    let mut rig = Rig::new();
    let [one, two] = [[transaction(1, 0, COUNTER)], [transaction(1, 1, PARENT)]];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&one]);

    let (_, second) = rig.whole_block(&first, &[&two]);

    assert_eq!(rig.shown(), [hashes(&one), hashes(&two)]);
    assert_eq!(rig.snapshot().blocks[1].reference.hash, second.hash);
    assert_eq!(state(&rig, &rig.genesis), state_of(&second));
    // The parent's hash was visible to the second block although no client knows that block.
    let overlay = rig.snapshot().blocks[1].diffs();
    let parent = overlay.filter_map(|diff| diff.accounts.get(&PARENT)?.slot(&U256::from(2))).last();
    assert_eq!(parent.map(B256::from), Some(first.hash));
}

#[test]
fn a_session_waits_for_the_block_below_it() {
    let mut rig = Rig::new();
    let mut first = rig.sequencer.open(&rig.genesis);
    let one = [transfer(1, 0)];
    let last = rig.sequencer.last(&mut first, &one);
    let (sealed, known) = rig.sequencer.seal(&first);
    let mut second = rig.sequencer.open(&known);
    let two = [transfer(1, 1)];
    let next = rig.sequencer.flashblock(&mut second, &two);

    rig.deliver(&last);
    // The feed repeats what it said and again has no word on how the first session ended.
    rig.deliver(&next);
    rig.deliver(&next);
    assert_eq!(rig.shown(), [hashes(&one)]);

    rig.sealed(&sealed);
    assert_eq!(rig.shown(), [hashes(&one), hashes(&two)]);
}

#[test]
fn our_own_block_becomes_canonical_without_being_executed_again() {
    let mut rig = Rig::new();
    let [one, two] = [[transaction(1, 0, COUNTER)], [transaction(1, 1, COUNTER)]];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&one]);
    let mut building = rig.sequencer.open(&first);
    let signed = rig.sequencer.flashblock(&mut building, &two);
    rig.deliver(&signed);
    let (executed, updates) = (rig.executed, rig.snapshots.len());

    let report = rig.head(&first);

    assert_eq!(report.relation, HeadRelation::Ours);
    assert_eq!((report.audit.kept, report.audit.missing), (1, 0));
    assert!(rig.fetches.is_empty(), "the hash says all");
    assert_eq!(rig.executed, executed);
    assert_eq!(rig.snapshots.len(), updates + 1);
    assert_eq!(rig.snapshot().canonical.hash, first.hash);
    assert_eq!(rig.shown(), [hashes(&two)]);
    // And it goes on from there.
    let three = [transaction(1, 2, COUNTER)];
    let signed = rig.sequencer.last(&mut building, &three);
    rig.deliver(&signed);
    assert_eq!(state(&rig, &first).2, U256::from(3));
}

#[test]
fn what_our_block_read_and_changed_is_not_asked_for_again() {
    let mut rig = Rig::new();
    let one = [transaction(1, 0, COUNTER)];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&one]);
    rig.head(&first);
    let mut building = rig.sequencer.open(&first);
    let opened = rig.sequencer.flashblock(&mut building, &[]);
    rig.deliver(&opened);
    let asked = rig.asked;

    let signed = rig.sequencer.flashblock(&mut building, &[transaction(1, 1, COUNTER)]);
    rig.deliver(&signed);

    assert_eq!(rig.asked, asked);
    assert_eq!(state(&rig, &first).2, U256::from(2));
}

#[test]
fn a_head_that_comes_before_the_seal_is_recognised_by_its_content() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let one = [transfer(1, 0)];
    let last = rig.sequencer.last(&mut building, &one);
    rig.deliver(&last);
    let (sealed, known) = rig.sequencer.seal(&building);

    let report = rig.head(&known);

    assert_eq!(report.relation, HeadRelation::Ours);
    assert_eq!(report.audit.kept, 1);
    assert!(rig.fetches.is_empty());
    rig.sealed(&sealed);
    assert!(rig.shown().is_empty());
}

#[test]
fn a_foreign_head_drops_everything_on_its_place() {
    let mut rig = Rig::new();
    let [one, two] = [[transfer(1, 0)], [transfer(1, 1)]];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&one]);
    rig.whole_block(&first, &[&two]);
    let foreign = rig.sequencer.foreign(&rig.genesis, &[]);

    let report = rig.head(&foreign);

    assert_eq!(report.relation, HeadRelation::Foreign);
    assert_eq!(rig.fetches, [foreign.hash]);
    assert!(rig.shown().is_empty());
    assert_eq!(rig.snapshot().canonical.hash, foreign.hash);
}

#[test]
fn sessions_that_were_waiting_are_tried_when_their_parent_arrives() {
    let mut rig = Rig::new();
    let foreign = rig.sequencer.foreign(&rig.genesis, &[transfer(2, 0)]);
    let mut building = rig.sequencer.open(&foreign);
    let one = [transfer(2, 1)];
    let signed = rig.sequencer.flashblock(&mut building, &one);
    rig.deliver(&signed);
    assert!(rig.shown().is_empty());

    rig.head(&foreign);

    assert_eq!(rig.shown(), [hashes(&one)]);
}

#[test]
fn flashblocks_that_come_before_the_first_head_are_kept() {
    let mut rig = Rig::without_head(Default::default());
    let mut building = rig.sequencer.open(&rig.genesis);
    let one = [transfer(1, 0)];
    let signed = rig.sequencer.flashblock(&mut building, &one);
    rig.deliver(&signed);
    assert!(rig.snapshots.is_empty());

    rig.head(&rig.genesis.clone());

    assert_eq!(rig.shown(), [hashes(&one)]);
}

#[test]
fn a_head_that_jumps_over_our_blocks_takes_them_along() {
    let mut rig = Rig::new();
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&[transaction(1, 0, COUNTER)]]);
    let (_, second) = rig.whole_block(&first, &[&[transaction(1, 1, COUNTER)]]);
    let three = [transaction(1, 2, COUNTER)];
    let mut building = rig.sequencer.open(&second);
    let signed = rig.sequencer.flashblock(&mut building, &three);
    rig.deliver(&signed);

    let report = rig.head(&second);

    assert_eq!(report.relation, HeadRelation::Ours);
    assert_eq!(report.audit, Audit { kept: 2, ..Audit::default() });
    assert_eq!(rig.shown(), [hashes(&three)]);
    assert_eq!(state(&rig, &second).2, U256::from(3));
}

#[test]
fn a_client_that_is_behind_takes_nothing_back() {
    let mut rig = Rig::new();
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&[transfer(1, 0)]]);
    rig.head(&first);
    let two = [transfer(1, 1)];
    let mut building = rig.sequencer.open(&first);
    let signed = rig.sequencer.flashblock(&mut building, &two);
    rig.deliver(&signed);

    assert_eq!(rig.head(&rig.genesis.clone()).relation, HeadRelation::Ancestor);
    assert_eq!(rig.head(&first).relation, HeadRelation::Known);
    assert_eq!(rig.shown(), [hashes(&two)]);
}

#[test]
fn a_chain_that_goes_back_and_forth_is_followed() {
    let mut rig = Rig::new();
    let [one, other] = [[transfer(1, 0)], [transfer(2, 0)]];
    let [one, other] = [&one, &other].map(|txs| rig.sequencer.foreign(&rig.genesis, txs));
    for known in [&one, &other, &one] {
        rig.head(known);
        assert_eq!(rig.snapshot().canonical.hash, known.hash);
        let mut building = rig.sequencer.open(known);
        let signed = rig.sequencer.flashblock(&mut building, &[transfer(3, 0)]);
        rig.deliver(&signed);
        assert_eq!(rig.shown(), [hashes(&[transfer(3, 0)])]);
    }
}

#[test]
fn no_more_than_the_greatest_depth_is_pending() {
    let mut rig = Rig::new();
    let mut parent = rig.genesis.clone();
    for nonce in 0..MAX_DEPTH as u64 + 2 {
        (_, parent) = rig.whole_block(&parent, &[&[transfer(1, nonce)]]);
    }
    assert_eq!(rig.snapshot().blocks.len(), MAX_DEPTH);
}

#[test]
fn a_newcomer_is_led_to_the_newest_snapshot_piece_by_piece() {
    let mut rig = Rig::new();
    let [one, two] = [[transfer(1, 0)], [transfer(1, 1)]];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[&one, &two]);
    let three = [transfer(1, 2)];
    let mut building = rig.sequencer.open(&first);
    let signed = rig.sequencer.flashblock(&mut building, &three);
    rig.deliver(&signed);

    let mut store = preconf_pending::snapshot::SnapshotStore::new();
    let updates = rig.current.updates();
    let mut ids = Vec::new();
    let mut newest = None;
    for update in &updates {
        assert!(update.executed.len() <= 1);
        // Less than what was shown before is shown to nobody.
        assert_eq!(update.is_part, update.snapshot_id != rig.snapshot().id);
        let snapshot = store.apply(update).unwrap();
        ids.push(snapshot.id);
        newest = Some(snapshot);
    }

    let newest = newest.unwrap();
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    assert_eq!(newest.id, rig.snapshot().id);
    assert_eq!(newest.canonical, rig.snapshot().canonical);
    let references = |snapshot: &preconf_pending::snapshot::Snapshot| {
        snapshot.blocks.iter().map(|block| block.reference.clone()).collect::<Vec<_>>()
    };
    assert_eq!(references(&newest), references(rig.snapshot()));
}

#[test]
fn without_statements_silence_is_no_gap_and_a_block_waits_for_the_one_below() {
    let (spec, _) = genesis();
    let mut rig = Rig::without_head(Limits::default());
    rig.machine = Machine::new(spec, Limits::default()).unsealed();
    rig.head(&rig.genesis.clone());
    let mut first = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut first, &[transfer(1, 0)]);
    rig.deliver(&last);
    let known = rig.sequencer.finish(&first);
    let mut second = rig.sequencer.open(&known);
    let next = rig.sequencer.flashblock(&mut second, &[transfer(1, 1)]);

    assert!(matches!(rig.deliver(&next), Reception::Accepted));

    assert!(rig.replays.is_empty());
    assert_eq!(rig.shown(), [hashes(&[transfer(1, 0)])]);
    assert_eq!(rig.head(&known).relation, HeadRelation::Ours);
    assert_eq!(rig.shown(), [hashes(&[transfer(1, 1)])]);
}
