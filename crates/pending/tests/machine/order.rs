//! What follows what, and what is done about what is missing.

use std::time::Duration;

use preconf_pending::{Limits, REPLAY_PATIENCE, Reception, StatementReception};
use preconf_primitives::{Position, Seq};
use preconf_signing::SignedFlashblock;

use crate::{
    rig::Rig,
    support::{Building, hashes, transfer},
};

fn at(seq: u64, index: u64) -> Position {
    Position::new(Seq::new(seq), index)
}

/// A session of three flashblocks with one transfer each.
fn three(rig: &mut Rig) -> (Building, Vec<SignedFlashblock>) {
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = (0..3).map(|nonce| rig.sequencer.flashblock(&mut building, &[transfer(1, nonce)]));
    let signed = signed.collect();
    (building, signed)
}

#[test]
fn a_gap_asks_for_the_first_missing_position_once() {
    let mut rig = Rig::new();
    let (mut building, signed) = three(&mut rig);
    let fourth = rig.sequencer.flashblock(&mut building, &[]);
    rig.deliver(&signed[0]);

    assert!(matches!(rig.deliver(&signed[2]), Reception::Gap(missing) if missing == at(1, 1)));
    assert!(matches!(rig.deliver(&fourth), Reception::Gap(_)));
    assert_eq!(rig.replays, [at(1, 1)]);
    assert_eq!(rig.machine.cursor(), at(1, 1));

    for signed in &signed[1..] {
        assert!(matches!(rig.deliver(signed), Reception::Accepted));
    }
    assert_eq!(rig.shown()[0].len(), 3);
    assert_eq!(rig.machine.cursor(), at(1, 2));
}

#[test]
fn a_replay_that_does_not_come_is_asked_for_again() {
    let mut rig = Rig::new();
    let (_, signed) = three(&mut rig);
    rig.deliver(&signed[0]);
    rig.deliver(&signed[2]);
    rig.wait(REPLAY_PATIENCE - Duration::from_millis(1));
    rig.deliver(&signed[2]);
    assert_eq!(rig.replays.len(), 1);

    rig.wait(Duration::from_millis(1));
    rig.deliver(&signed[2]);
    assert_eq!(rig.replays, [at(1, 1), at(1, 1)]);
}

#[test]
fn what_cannot_be_replayed_is_given_up_and_the_next_session_is_taken() {
    let mut rig = Rig::new();
    let (building, signed) = three(&mut rig);
    rig.deliver(&signed[0]);
    rig.deliver(&signed[2]);
    rig.machine.not_replayed(at(1, 1), at(1, 2));

    rig.deliver(&signed[2]);
    assert_eq!(rig.replays.len(), 1, "it is not asked for again");
    let parent = rig.sequencer.finish(&building);
    let mut next = rig.sequencer.open(&parent);
    let first = rig.sequencer.flashblock(&mut next, &[]);
    // What is missing now is all that the session had after the hole.
    assert!(matches!(rig.deliver(&first), Reception::Accepted));
}

#[test]
fn a_start_is_where_the_feed_begins() {
    assert_eq!(Rig::new().machine.cursor(), at(0, 0));
}

#[test]
fn the_first_flashblock_after_a_start_must_open_a_session() {
    let mut rig = Rig::new();
    let (_, signed) = three(&mut rig);

    assert!(matches!(rig.deliver(&signed[1]), Reception::Gap(missing) if missing == at(1, 0)));
    assert_eq!(rig.replays, [at(1, 0)]);
}

#[test]
fn the_lost_end_of_a_session_is_asked_for_when_the_next_one_begins() {
    let mut rig = Rig::new();
    let (mut building, signed) = three(&mut rig);
    let last = rig.sequencer.last(&mut building, &[transfer(1, 3)]);
    let (sealed, known) = rig.sequencer.seal(&building);
    let mut next = rig.sequencer.open(&known);
    let first = rig.sequencer.flashblock(&mut next, &[transfer(1, 4)]);
    signed.iter().for_each(|signed| drop(rig.deliver(signed)));

    assert!(matches!(rig.deliver(&first), Reception::Gap(missing) if missing == at(1, 3)));

    rig.deliver(&last);
    rig.sealed(&sealed);
    rig.deliver(&first);
    assert_eq!(rig.replays, [at(1, 3)]);
    assert_eq!(rig.snapshot().blocks.len(), 2);
}

#[test]
fn a_lost_seal_is_asked_for_by_replaying_the_last_flashblock() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut building, &[transfer(1, 0)]);
    let (sealed, known) = rig.sequencer.seal(&building);
    let mut next = rig.sequencer.open(&known);
    let first = rig.sequencer.flashblock(&mut next, &[]);
    rig.deliver(&last);

    assert!(matches!(rig.deliver(&first), Reception::Gap(missing) if missing == at(1, 0)));
    assert_eq!(rig.replays, [at(1, 0)]);

    assert!(matches!(rig.deliver(&last), Reception::Duplicate));
    rig.sealed(&sealed);
    rig.deliver(&first);
    assert_eq!(rig.snapshot().blocks.len(), 2);
}

#[test]
fn a_session_that_was_never_sealed_does_not_hold_up_the_next_one() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut building, &[]);
    let known = rig.sequencer.finish(&building);
    let mut next = rig.sequencer.open(&known);
    let first = rig.sequencer.flashblock(&mut next, &[]);
    rig.deliver(&last);
    rig.deliver(&first);

    rig.deliver(&last);
    assert!(matches!(rig.deliver(&first), Reception::Accepted));
    assert_eq!(rig.replays.len(), 1);
}

#[test]
fn a_seal_over_flashblocks_that_are_missing_asks_for_them() {
    let mut rig = Rig::new();
    let (mut building, signed) = three(&mut rig);
    let last = rig.sequencer.last(&mut building, &[]);
    let (sealed, known) = rig.sequencer.seal(&building);
    signed.iter().for_each(|signed| drop(rig.deliver(signed)));

    let reception = rig.sealed(&sealed);
    assert!(matches!(reception, StatementReception::Gap(missing) if missing == at(1, 3)));

    rig.deliver(&last);
    assert!(matches!(rig.sealed(&sealed), StatementReception::Accepted));
    assert!(matches!(rig.sealed(&sealed), StatementReception::Duplicate));
    assert_eq!(rig.snapshot().blocks[0].reference.hash, known.hash);
}

#[test]
fn duplicates_and_what_is_stale_change_nothing() {
    let mut rig = Rig::new();
    let (_, signed) = three(&mut rig);
    rig.deliver(&signed[0]);
    rig.deliver(&signed[1]);
    let (updates, executed) = (rig.snapshots.len(), rig.executed);

    assert!(matches!(rig.deliver(&signed[0]), Reception::Duplicate));
    assert!(matches!(rig.deliver(&signed[1]), Reception::Duplicate));
    let mut newer = rig.sequencer.open(&rig.genesis);
    rig.sequencer.flashblock(&mut newer, &[]);
    assert_eq!((rig.snapshots.len(), rig.executed), (updates, executed));

    let mut rebuilt = rig.sequencer.open(&rig.genesis);
    let first = rig.sequencer.flashblock(&mut rebuilt, &[transfer(1, 0), transfer(1, 1)]);
    // The digest before it is of a session that was never seen.
    rig.deliver(&first);
    assert!(matches!(rig.deliver(&first), Reception::Accepted));
    assert!(matches!(rig.deliver(&signed[2]), Reception::Stale));
}

#[test]
fn two_contents_at_one_position_are_evidence_and_change_nothing() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let mut other = building.clone();
    let one = [transfer(1, 0)];
    let first = rig.sequencer.flashblock(&mut building, &one);
    let second = rig.sequencer.flashblock(&mut other, &[transfer(2, 0)]);
    rig.deliver(&first);
    let updates = rig.snapshots.len();

    let Reception::Equivocation(evidence) = rig.deliver(&second) else { panic!() };

    assert_eq!(evidence.known.unwrap().signed(), &first);
    assert_eq!(evidence.other.signed(), &second);
    assert_eq!(rig.snapshots.len(), updates);
    assert_eq!(rig.shown(), [hashes(&one)]);
}

#[test]
fn another_past_is_evidence_too() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let mut other = building.clone();
    let first = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.sequencer.flashblock(&mut other, &[transfer(2, 0)]);
    let next = rig.sequencer.flashblock(&mut other, &[transfer(2, 1)]);
    rig.deliver(&first);

    let Reception::Equivocation(evidence) = rig.deliver(&next) else { panic!() };
    assert_eq!(evidence.known.unwrap().signed(), &first);
}

#[test]
fn nothing_follows_the_last_flashblock() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut building, &[]);
    let after = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.deliver(&last);
    assert!(matches!(rig.deliver(&after), Reception::AfterLast));
}

#[test]
fn a_session_for_a_canonical_block_is_late() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[]);
    let next = rig.sequencer.flashblock(&mut building, &[]);
    let foreign = rig.sequencer.foreign(&rig.genesis, &[]);
    rig.head(&foreign);

    assert!(matches!(rig.deliver(&signed), Reception::Late));
    assert!(matches!(rig.deliver(&next), Reception::Late));
}

#[test]
fn statements_that_do_not_fit_are_not_believed() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let open = rig.sequencer.flashblock(&mut building, &[]);
    let (early, _) = rig.sequencer.seal(&building);
    assert!(matches!(rig.sealed(&early), StatementReception::Unknown));
    rig.deliver(&open);
    assert!(matches!(rig.sealed(&early), StatementReception::Contradiction), "it has not ended");
    let last = rig.sequencer.last(&mut building, &[]);
    rig.deliver(&last);
    assert!(matches!(rig.sealed(&early), StatementReception::Contradiction), "another end");
    assert!(rig.replays.is_empty());
}

#[test]
fn an_abandoned_session_is_shown_until_something_takes_its_place() {
    let mut rig = Rig::new();
    let (building, signed) = three(&mut rig);
    signed.iter().for_each(|signed| drop(rig.deliver(signed)));

    let abandoned = rig.sequencer.abandon(&building);
    assert!(matches!(rig.abandoned(&abandoned), StatementReception::Accepted));
    assert!(matches!(rig.abandoned(&abandoned), StatementReception::Duplicate));
    assert_eq!(rig.shown()[0].len(), 3);
}

#[test]
fn sessions_are_bounded_in_number_and_the_oldest_go() {
    let limits = Limits { sessions: 4, ..Limits::default() };
    let mut rig = Rig::without_head(limits);
    for _ in 0..10 {
        let mut building = rig.sequencer.open(&rig.genesis);
        let signed = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
        rig.deliver(&signed);
        assert!(rig.machine.held().0 <= 4);
    }
    rig.head(&rig.genesis.clone());
    assert_eq!(rig.shown().len(), 1);
}

#[test]
fn sessions_are_bounded_in_bytes() {
    let size = transfer(1, 0).encoded().len();
    let limits = Limits { bytes: 3 * size + 6, session_bytes: 2 * size + 4, ..Limits::default() };
    let mut rig = Rig::without_head(limits);
    rig.head(&rig.genesis.clone());
    let (_, signed) = three(&mut rig);

    assert!(matches!(rig.deliver(&signed[0]), Reception::Accepted));
    assert!(matches!(rig.deliver(&signed[1]), Reception::Accepted));
    assert!(matches!(rig.deliver(&signed[2]), Reception::NoRoom));

    assert!(rig.machine.held().1 <= limits.bytes);
    assert_eq!(rig.shown()[0].len(), 2, "what was shown stays");
}
