//! What becomes of transactions with blobs: they go into a block only together with them.

use alloy_consensus::TxEip4844;
use preconf_primitives::{Retraction, RetractionCause};

use super::*;
use crate::testing::{GWEI, blob_transfer, sidecar, with_blobs};

/// All transactions of the flashblocks that come before the next tick and with it.
fn preconfirmed(machine: &mut Machine) -> Vec<Transaction> {
    let mut cuts = machine.publish();
    machine.tick();
    cuts.extend(machine.publish());
    cuts.into_iter().flat_map(|cut| cut.transactions).collect()
}

/// The block that the build ends with: how many blobs go with it, by transaction.
fn blobs_of_the_block(machine: &mut Machine, build: BuildId) -> Vec<usize> {
    assert!(machine.assembler.finish(build, machine.now));
    let effects = machine.run();
    let [Effect::Complete { block, sidecars, .. }] = effects.as_slice() else {
        panic!("it is complete: {effects:?}")
    };
    let blobs: Vec<_> = sidecars.iter().map(|sidecar| sidecar.blobs().len()).collect();
    assert_eq!(blobs.iter().sum::<usize>() as u64 * 131_072, block.blob_gas_used());
    blobs
}

#[test]
fn the_blobs_of_a_block_are_those_of_its_transactions_in_their_order() {
    let mut machine = Machine::without_contracts(prague());
    let better = TxEip4844 { max_priority_fee_per_gas: 2 * GWEI, ..blob_transfer(0, 1) };
    let second = machine.submit_blobs(&with_blobs(blob_transfer(0, 3), SENDER));
    let first = machine.submit_blobs(&with_blobs(better, OTHER));
    let plain = unsigned(transfer(1), SENDER);
    machine.submit(&plain);
    let build = machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), [first, second, plain]);
    assert_eq!(blobs_of_the_block(&mut machine, build), [1, 3]);
}

#[test]
fn what_does_not_fit_into_the_blob_gas_of_a_block_waits_for_the_next_one() {
    let mut machine = Machine::without_contracts(prague());
    let first = machine.submit_blobs(&with_blobs(blob_transfer(0, 6), SENDER));
    let second = machine.submit_blobs(&with_blobs(blob_transfer(0, 4), OTHER));
    let build = machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), std::slice::from_ref(&first));
    assert_eq!(blobs_of_the_block(&mut machine, build), [6]);

    machine.assembler.canonical(vec![holding(SENDER, first.hash())], machine.now);
    let build = machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), [second]);
    assert_eq!(blobs_of_the_block(&mut machine, build), [4]);
}

#[test]
fn a_promise_whose_blobs_are_not_here_is_taken_back() {
    let mut machine = Machine::without_contracts(prague());
    let promise = unsigned(blob_transfer(0, 1), SENDER);
    machine.assembler.promise(vec![promise.clone()]);
    let build = machine.open(ROOM);
    let cut = machine.publish().remove(0);
    let cause = RetractionCause::NoLongerValid;
    assert_eq!(cut.transactions, []);
    assert_eq!(cut.retractions, [Retraction { transaction: *promise.hash(), cause }]);
    assert_eq!(blobs_of_the_block(&mut machine, build), [0; 0]);
}

#[test]
fn a_promise_whose_blobs_come_again_is_kept() {
    let mut machine = Machine::without_contracts(prague());
    let promise = with_blobs(blob_transfer(0, 1), SENDER);
    machine.assembler.promise(vec![promise.transaction().clone()]);
    let other = unsigned(blob_transfer(0, 2), SENDER);
    machine.assembler.submit(other, rich(0)).unwrap_err();
    machine.submit_blobs(&promise);
    machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), std::slice::from_ref(promise.transaction()));
}

#[test]
fn a_promise_whose_blobs_are_not_here_may_be_canonical_already() {
    let mut machine = Machine::without_contracts(prague());
    let promise = unsigned(blob_transfer(0, 1), SENDER);
    machine.submit(&unsigned(transfer(0), SENDER));
    machine.assembler.promise(vec![unsigned(transfer(0), SENDER), promise.clone()]);
    machine.open(ROOM);
    let effects = machine.run();
    let located = effects.iter().any(|effect| {
        matches!(effect, Effect::Locate { transaction, .. } if transaction == promise.hash())
    });
    assert!(located, "{effects:?}");
}

#[test]
fn the_blobs_of_a_promise_are_kept_until_the_chain_holds_it() {
    let mut machine = Machine::without_contracts(prague());
    let promise = machine.submit_blobs(&with_blobs(blob_transfer(0, 2), SENDER));
    machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), std::slice::from_ref(&promise));
    machine.assembler.drop_build();
    // Something better may come into the pool, in its place or for want of room.
    machine.assembler.pool.remove(&SENDER, 0, DropCause::Blobs);

    for _ in 0..2 {
        let build = machine.open(ROOM);
        assert_eq!(preconfirmed(&mut machine), std::slice::from_ref(&promise));
        assert_eq!(blobs_of_the_block(&mut machine, build), [2]);
    }
    machine.assembler.canonical(vec![holding(SENDER, promise.hash())], machine.now);
    assert!(machine.assembler.pool().sidecar(promise.hash()).is_some());
    // Until its block can no longer be replaced.
    for number in 2..=9 {
        machine.assembler.canonical(vec![empty(number)], machine.now);
    }
    assert!(machine.assembler.pool().sidecar(promise.hash()).is_none());
}

#[test]
fn blobs_that_were_executed_and_not_promised_are_not_kept() {
    let mut machine = Machine::without_contracts(prague());
    let executed = machine.submit_blobs(&with_blobs(blob_transfer(0, 2), SENDER));
    machine.open(ROOM);
    machine.publish();
    machine.assembler.drop_build();
    machine.assembler.pool.remove(&SENDER, 0, DropCause::Blobs);
    machine.open(ROOM);
    assert!(machine.assembler.pool().sidecar(executed.hash()).is_none());
}

#[test]
fn blobs_go_into_a_block_only_if_they_are_proved_as_its_fork_wants() {
    let transaction = unsigned(blob_transfer(0, 1), SENDER);
    for (spec, form, stays) in
        [(prague(), SidecarForm::CellProofs, true), (osaka(), SidecarForm::BlobProofs, false)]
    {
        let mut machine = Machine::without_contracts(spec);
        machine.submit_blobs(&Submission::unproved(transaction.clone(), sidecar(form, 1)));
        let build = machine.open(ROOM);
        assert_eq!(preconfirmed(&mut machine), []);
        assert_eq!(blobs_of_the_block(&mut machine, build), [0; 0]);
        assert_eq!(!machine.assembler.pool().is_empty(), stays, "{form:?}");
    }
    let mut machine = Machine::without_contracts(osaka());
    let form = SidecarForm::CellProofs;
    machine.submit_blobs(&Submission::unproved(transaction.clone(), sidecar(form, 1)));
    let build = machine.open(ROOM);
    assert_eq!(preconfirmed(&mut machine), [transaction]);
    assert_eq!(blobs_of_the_block(&mut machine, build), [1]);
}
