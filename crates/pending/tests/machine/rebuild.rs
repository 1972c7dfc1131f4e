//! A block that its sequencer builds anew: when readers see the new one, and what is taken back.

use preconf_pending::StatementReception;
use preconf_primitives::{Retraction, RetractionCause};

use crate::{
    rig::Rig,
    support::{ONCE, hashes, transaction, transfer},
};

fn retraction(transaction: &preconf_chain::Transaction, cause: RetractionCause) -> Retraction {
    Retraction { transaction: *transaction.hash(), cause }
}

#[test]
fn the_old_snapshot_stays_until_the_new_session_holds_what_was_promised() {
    let mut rig = Rig::new();
    let [a, b, c] = [transfer(1, 0), transfer(2, 0), transfer(3, 0)];
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[a.clone(), b.clone()]);
    rig.deliver(&signed);

    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, std::slice::from_ref(&a));
    rig.deliver(&signed);
    assert_eq!(rig.shown(), [hashes(&[a.clone(), b.clone()])], "b is not there yet");

    let signed = rig.sequencer.flashblock(&mut new, &[b.clone(), c.clone()]);
    rig.deliver(&signed);
    assert_eq!(rig.shown(), [hashes(&[a, b, c])]);
    assert!(rig.retracted.is_empty());
}

#[test]
fn a_first_flashblock_that_holds_everything_is_shown_at_once() {
    let mut rig = Rig::new();
    let a = transfer(1, 0);
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, std::slice::from_ref(&a));
    rig.deliver(&signed);

    let all = [transfer(2, 0), a];
    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, &all);
    rig.deliver(&signed);

    assert_eq!(rig.shown(), [hashes(&all)]);
    assert!(rig.retracted.is_empty());
}

#[test]
fn what_is_absent_after_the_second_flashblock_is_retracted() {
    let mut rig = Rig::new();
    let [a, b] = [transfer(1, 0), transfer(2, 0)];
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[a.clone(), b.clone()]);
    rig.deliver(&signed);

    let mut new = rig.sequencer.open(&rig.genesis);
    for transactions in [&[a.clone()][..], &[]] {
        let signed = rig.sequencer.flashblock(&mut new, transactions);
        rig.deliver(&signed);
    }

    assert_eq!(rig.shown(), [hashes(&[a])]);
    assert_eq!(rig.retracted, [retraction(&b, RetractionCause::BlockReplaced)]);
}

#[test]
fn another_outcome_in_the_rebuilt_block_is_told() {
    let mut rig = Rig::new();
    let [a, b] = [transaction(1, 0, ONCE), transaction(2, 0, ONCE)];
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[a.clone(), b.clone()]);
    rig.deliver(&signed);

    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, &[b.clone(), a.clone()]);
    rig.deliver(&signed);

    rig.retracted.sort_by_key(|retraction| retraction.transaction);
    let mut expected = [&a, &b].map(|tx| retraction(tx, RetractionCause::OutcomeChanged));
    expected.sort_by_key(|retraction| retraction.transaction);
    assert_eq!(rig.retracted, expected);
}

#[test]
fn the_child_of_a_rebuilt_block_goes_with_it() {
    let mut rig = Rig::new();
    let [a, b] = [transfer(1, 0), transfer(1, 1)];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[std::slice::from_ref(&a)]);
    let mut child = rig.sequencer.open(&first);
    let signed = rig.sequencer.flashblock(&mut child, std::slice::from_ref(&b));
    rig.deliver(&signed);

    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, std::slice::from_ref(&a));
    rig.deliver(&signed);
    assert_eq!(rig.shown(), [[*a.hash()], [*b.hash()]]);

    let signed = rig.sequencer.flashblock(&mut new, std::slice::from_ref(&b));
    rig.deliver(&signed);
    assert_eq!(rig.shown(), [hashes(&[a, b])]);
    assert!(rig.retracted.is_empty(), "it moved to the block below");
}

#[test]
fn the_old_block_can_still_become_canonical() {
    let mut rig = Rig::new();
    let a = transfer(1, 0);
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[std::slice::from_ref(&a)]);
    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, &[]);
    rig.deliver(&signed);
    let signed = rig.sequencer.flashblock(&mut new, &[]);
    rig.deliver(&signed);
    assert_eq!(rig.retracted, [retraction(&a, RetractionCause::BlockReplaced)]);

    rig.head(&first);

    assert!(rig.fetches.is_empty(), "it was executed here");
    assert!(rig.shown().is_empty());
    let mut next = rig.sequencer.open(&first);
    let signed = rig.sequencer.flashblock(&mut next, &[transfer(1, 1)]);
    rig.deliver(&signed);
    assert_eq!(rig.shown().len(), 1);
}

#[test]
fn a_rebuild_that_is_refused_changes_nothing() {
    let mut rig = Rig::new();
    let a = transfer(1, 0);
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, std::slice::from_ref(&a));
    rig.deliver(&signed);
    let updates = rig.snapshots.len();

    let mut new = rig.sequencer.open(&rig.genesis);
    new.base.gas_limit *= 2;
    for _ in 0..3 {
        let signed = rig.sequencer.unchecked(&mut new, vec![], false);
        rig.deliver(&signed);
    }

    assert_eq!(rig.refusals.len(), 1);
    assert_eq!(rig.snapshots.len(), updates);
    assert_eq!(rig.shown(), [hashes(&[a])]);
}

#[test]
fn what_the_sequencer_takes_back_is_passed_on_once_with_its_cause() {
    let mut rig = Rig::new();
    let [a, b] = [transfer(1, 0), transfer(2, 0)];
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[a.clone(), b.clone()]);
    rig.deliver(&signed);
    let mut new = rig.sequencer.open(&rig.genesis);
    let first = rig.sequencer.flashblock(&mut new, std::slice::from_ref(&a));
    let no_room = retraction(&b, RetractionCause::NoRoom);
    let statement = rig.sequencer.retract(&new, vec![no_room]);
    let second = rig.sequencer.flashblock(&mut new, &[]);

    rig.deliver(&first);
    rig.take_back(&statement);
    assert!(matches!(rig.take_back(&statement), StatementReception::Duplicate));
    rig.deliver(&second);

    assert_eq!(rig.retracted, [no_room]);
    assert_eq!(rig.shown(), [hashes(&[a])]);
}

#[test]
fn an_old_retraction_does_not_take_back_what_was_promised_after_it() {
    let mut rig = Rig::new();
    let [a, b] = [transfer(1, 0), transfer(2, 0)];
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[a.clone(), b.clone()]);
    rig.deliver(&signed);
    let said = vec![
        retraction(&a, RetractionCause::NoRoom),
        retraction(&transfer(3, 0), RetractionCause::NoRoom),
    ];
    let statement = rig.sequencer.retract(&old, said.clone());
    let mut new = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut new, &[a, b]);
    rig.deliver(&signed);

    assert!(matches!(rig.take_back(&statement), StatementReception::Accepted));
    assert_eq!(rig.retracted, said[1..]);
}

#[test]
fn a_second_end_of_a_session_contradicts_the_first() {
    let mut rig = Rig::new();
    let (building, _) = rig.whole_block(&rig.genesis.clone(), &[&[transfer(1, 0)]]);
    let abandoned = rig.sequencer.abandon(&building);
    assert!(matches!(rig.abandoned(&abandoned), StatementReception::Contradiction));
    let (sealed, _) = rig.sequencer.seal(&building);
    assert!(matches!(rig.sealed(&sealed), StatementReception::Duplicate));
    let mut other = sealed.statement.clone();
    other.block_hash = alloy_primitives::B256::repeat_byte(0x11);
    let other = rig.sequencer.sealed(other);
    assert!(matches!(rig.sealed(&other), StatementReception::Contradiction));
}
