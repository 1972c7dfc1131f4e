//! What was signed and still is not executed.

use alloy_primitives::{B256, Bytes};
use preconf_pending::{Refusal, StatementReception};
use preconf_primitives::{Position, Sealed};

use crate::{
    rig::Rig,
    support::{hashes, transfer},
};

#[test]
fn an_environment_that_does_not_follow_is_never_shown() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    building.base.base_fee_per_gas += 1;
    let encoded = vec![transfer(1, 0).encoded().clone()];
    let signed = rig.sequencer.unchecked(&mut building, encoded, false);

    rig.deliver(&signed);

    assert!(rig.shown().is_empty());
    let [(position, Refusal::Environment(_))] = rig.refusals.as_slice() else { panic!() };
    assert_eq!(*position, Position::new(building.seq, 0));
}

#[test]
fn a_refused_session_gives_way_to_the_next_one_on_the_same_block() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    building.base.timestamp = rig.genesis.header.timestamp;
    let signed = rig.sequencer.unchecked(&mut building, vec![], false);
    rig.deliver(&signed);

    let one = [transfer(1, 0)];
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &one);
    rig.deliver(&signed);

    assert_eq!(rig.shown(), [hashes(&one)]);
}

#[test]
fn a_transaction_that_cannot_be_executed_ends_its_session_and_what_was_shown_stays() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let one = [transfer(1, 0)];
    let first = rig.sequencer.flashblock(&mut building, &one);
    let encoded = |nonce| transfer(1, nonce).encoded().clone();
    let second = rig.sequencer.unchecked(&mut building, vec![encoded(1), encoded(7)], false);
    let third = rig.sequencer.unchecked(&mut building, vec![encoded(1)], true);
    rig.deliver(&first);
    let updates = rig.snapshots.len();

    rig.deliver(&second);
    rig.deliver(&third);

    let [(position, Refusal::Transaction { transaction, .. })] = rig.refusals.as_slice() else {
        panic!("{:?}", rig.refusals)
    };
    assert_eq!(*position, Position::new(building.seq, 1));
    assert_eq!(transaction, transfer(1, 7).hash());
    assert_eq!(rig.shown(), [hashes(&one)]);
    assert_eq!(rig.snapshots.len(), updates);
}

#[test]
fn bytes_that_are_no_transaction_end_their_session() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let bytes = vec![Bytes::from_static(&[2, 3])];
    let signed = rig.sequencer.unchecked(&mut building, bytes, false);

    rig.deliver(&signed);

    assert!(matches!(rig.refusals.as_slice(), [(_, Refusal::Undecodable(_))]));
    assert!(rig.shown().is_empty());
}

#[test]
fn a_seal_over_another_block_than_was_executed_takes_the_block_away() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut building, &[transfer(1, 0)]);
    rig.deliver(&last);
    let (honest, known) = rig.sequencer.seal(&building);
    let lie = Sealed { state_root: B256::repeat_byte(5), ..honest.statement };
    let lie = rig.sequencer.sealed(lie);

    let reception = rig.sealed(&lie);

    let StatementReception::Diverged(Refusal::Diverged { sealed, computed }) = reception else {
        panic!("{reception:?}")
    };
    assert_eq!(sealed, known.hash);
    assert_ne!(computed, known.hash);
    assert!(rig.shown().is_empty());
}

#[test]
fn a_seal_that_comes_before_the_execution_is_checked_after_it() {
    let mut rig = Rig::without_head(Default::default());
    let mut building = rig.sequencer.open(&rig.genesis);
    let last = rig.sequencer.last(&mut building, &[transfer(1, 0)]);
    rig.deliver(&last);
    let (honest, _) = rig.sequencer.seal(&building);
    let lie = Sealed { block_hash: B256::repeat_byte(5), ..honest.statement };
    let lie = rig.sequencer.sealed(lie);
    assert!(matches!(rig.sealed(&lie), StatementReception::Accepted));

    rig.head(&rig.genesis.clone());

    assert!(matches!(rig.refusals.as_slice(), [(_, Refusal::Diverged { .. })]));
    assert!(rig.shown().is_empty());
}
