//! State that is not in memory: asked for together, and only as long as it is needed.

use preconf_pending::Step;

use crate::{
    rig::Rig,
    support::{COUNTER, ONCE, PARENT, hashes, transaction, transfer},
};

#[test]
fn what_a_flashblock_needs_is_asked_for_together() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let transactions = [
        transfer(1, 0),
        transaction(2, 0, COUNTER),
        transaction(3, 0, ONCE),
        transaction(4, 0, PARENT),
        transaction(5, 0, COUNTER),
    ];
    let signed = rig.sequencer.flashblock(&mut building, &transactions);

    rig.deliver(&signed);

    assert_eq!(rig.shown(), [hashes(&transactions)]);
    // Once for the accounts that can be named, once for the slots that all contracts together read.
    assert_eq!(rig.asked, 2);
}

#[test]
fn a_later_flashblock_asks_only_for_what_is_new() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[transaction(1, 0, COUNTER)]);
    rig.deliver(&signed);
    let asked = rig.asked;

    let signed = rig.sequencer.flashblock(&mut building, &[transaction(1, 1, COUNTER)]);
    rig.deliver(&signed);
    assert_eq!(rig.asked, asked);

    let signed = rig.sequencer.flashblock(&mut building, &[transaction(2, 0, COUNTER)]);
    rig.deliver(&signed);
    assert_eq!(rig.asked, asked + 1, "the sender is new");
}

#[test]
fn what_a_later_flashblock_needs_is_asked_for_together_too() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.deliver(&signed);
    let asked = rig.asked;

    let strangers =
        [transaction(2, 0, COUNTER), transaction(3, 0, ONCE), transaction(4, 0, PARENT)];
    let signed = rig.sequencer.flashblock(&mut building, &strangers);
    rig.deliver(&signed);
    // Once for the accounts that can be named, once for the slots.
    assert_eq!(rig.asked, asked + 2);
}

#[test]
fn nothing_is_executed_while_state_is_awaited() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.machine.flashblock(rig.received(&signed), rig.now);
    assert!(matches!(rig.machine.work(), Step::Waiting));
    let need = rig.machine.need().unwrap().clone();

    assert!(matches!(rig.machine.work(), Step::Waiting));
    assert_eq!(rig.machine.need().unwrap().id, need.id, "it is one and the same need");
    rig.machine.state_arrived(need.id + 1);
    assert!(matches!(rig.machine.work(), Step::Waiting));

    rig.states.fill(&need.cache, &need.keys);
    rig.machine.state_arrived(need.id);
    assert!(matches!(rig.machine.work(), Step::Opened(_)));
}

#[test]
fn a_newer_session_on_the_same_block_does_not_wait_for_the_old_ones_state() {
    let mut rig = Rig::new();
    let mut old = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut old, &[transfer(1, 0)]);
    rig.machine.flashblock(rig.received(&signed), rig.now);
    assert!(matches!(rig.machine.work(), Step::Waiting));
    let stale = rig.machine.need().unwrap().id;

    let mut new = rig.sequencer.open(&rig.genesis);
    let two = [transfer(2, 0)];
    let signed = rig.sequencer.flashblock(&mut new, &two);
    rig.machine.flashblock(rig.received(&signed), rig.now);
    assert!(matches!(rig.machine.work(), Step::Waiting));

    let need = rig.machine.need().unwrap();
    assert_eq!(need.seq, new.seq);
    assert_ne!(need.id, stale);
    rig.machine.state_arrived(stale);
    assert!(rig.machine.need().is_some());
    rig.run();
    assert_eq!(rig.shown(), [hashes(&two)]);
}

#[test]
fn a_head_that_drops_a_session_ends_its_need() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.machine.flashblock(rig.received(&signed), rig.now);
    assert!(matches!(rig.machine.work(), Step::Waiting));
    let foreign = rig.sequencer.foreign(&rig.genesis, &[]);

    rig.head(&foreign);

    assert!(rig.machine.need().is_none());
}
