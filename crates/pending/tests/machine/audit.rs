//! What became canonical, compared with what was promised.

use preconf_pending::{Audit, HeadRelation};
use preconf_primitives::{Retraction, RetractionCause};

use crate::{
    rig::Rig,
    support::{ONCE, hashes, transaction, transfer},
};

#[test]
fn an_audit_finds_what_is_missing_and_what_is_altered() {
    let mut rig = Rig::new();
    let [missing, altered] = [transfer(1, 0), transaction(2, 0, ONCE)];
    let kept = transfer(3, 0);
    let mut building = rig.sequencer.open(&rig.genesis);
    let promised = [kept.clone(), missing.clone(), altered.clone()];
    let signed = rig.sequencer.flashblock(&mut building, &promised);
    rig.deliver(&signed);
    // Somebody else was first at the contract, behind what is kept.
    let canonical = [kept, transaction(4, 0, ONCE), altered.clone()];
    let foreign = rig.sequencer.foreign(&rig.genesis, &canonical);
    assert_eq!(rig.head(&foreign).relation, HeadRelation::Foreign);
    assert!(rig.retracted.is_empty(), "nothing is known yet");

    let audit = rig.content(&foreign).unwrap();

    assert_eq!(audit, Audit { kept: 1, altered: 1, missing: 1, ..Audit::default() });
    let told = [
        Retraction { transaction: *missing.hash(), cause: RetractionCause::BlockReplaced },
        Retraction { transaction: *altered.hash(), cause: RetractionCause::OutcomeChanged },
    ];
    assert_eq!(rig.retracted, told);
    assert_eq!(rig.content(&foreign), None, "it is settled");
}

#[test]
fn a_transaction_that_follows_in_the_next_block_has_moved() {
    let mut rig = Rig::new();
    let one = [transfer(1, 0)];
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &one);
    rig.deliver(&signed);
    let foreign = rig.sequencer.foreign(&rig.genesis, &[]);
    rig.head(&foreign);
    let mut next = rig.sequencer.open(&foreign);
    let signed = rig.sequencer.flashblock(&mut next, &one);
    rig.deliver(&signed);

    let audit = rig.content(&foreign).unwrap();

    assert_eq!(audit, Audit { moved: 1, ..Audit::default() });
    assert!(rig.retracted.is_empty());
    assert_eq!(rig.shown(), [hashes(&one)]);
}

#[test]
fn what_a_dropped_child_promised_is_settled_by_the_next_session_there() {
    let mut rig = Rig::new();
    let [a, b, c] = [transfer(1, 0), transfer(2, 0), transfer(3, 0)];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[std::slice::from_ref(&a)]);
    rig.whole_block(&first, &[&[b.clone(), c.clone()]]);
    let foreign = rig.sequencer.foreign(&rig.genesis, std::slice::from_ref(&a));
    rig.head(&foreign);
    rig.content(&foreign);
    assert!(rig.retracted.is_empty(), "they may still come");

    let mut next = rig.sequencer.open(&foreign);
    for transactions in [&[b][..], &[]] {
        let signed = rig.sequencer.flashblock(&mut next, transactions);
        rig.deliver(&signed);
    }

    let absent = Retraction { transaction: *c.hash(), cause: RetractionCause::BlockReplaced };
    assert_eq!(rig.retracted, [absent]);
}

#[test]
fn what_a_dropped_child_promised_is_settled_by_the_next_canonical_block() {
    let mut rig = Rig::new();
    let [a, b] = [transfer(1, 0), transfer(2, 0)];
    let (_, first) = rig.whole_block(&rig.genesis.clone(), &[std::slice::from_ref(&a)]);
    rig.whole_block(&first, &[std::slice::from_ref(&b)]);
    let foreign = rig.sequencer.foreign(&rig.genesis, &[a]);
    rig.head(&foreign);
    rig.content(&foreign);
    let next = rig.sequencer.foreign(&foreign, &[b]);

    rig.head(&next);

    let audit = rig.content(&next).unwrap();
    assert_eq!(audit, Audit { kept: 1, ..Audit::default() });
    assert!(rig.retracted.is_empty());
}

#[test]
fn a_block_that_cannot_be_had_is_counted_as_unknown() {
    let mut rig = Rig::new();
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &[transfer(1, 0)]);
    rig.deliver(&signed);
    let foreign = rig.sequencer.foreign(&rig.genesis, &[]);
    rig.head(&foreign);

    let audit = rig.machine.content(foreign.hash, None).unwrap();

    assert_eq!(audit, Audit { unknown: 1, ..Audit::default() });
}

#[test]
fn a_head_that_comes_before_the_end_of_the_session_is_compared_by_its_content() {
    let mut rig = Rig::new();
    let one = [transfer(1, 0)];
    let mut building = rig.sequencer.open(&rig.genesis);
    let signed = rig.sequencer.flashblock(&mut building, &one);
    rig.deliver(&signed);
    rig.sequencer.last(&mut building, &[transfer(1, 1)]);
    let known = rig.sequencer.finish(&building);

    rig.head(&known);
    let audit = rig.content(&known).unwrap();

    assert_eq!(audit, Audit { kept: 1, ..Audit::default() });
    assert!(rig.shown().is_empty());
}

#[test]
fn a_block_without_promises_is_not_looked_at() {
    let mut rig = Rig::new();
    let foreign = rig.sequencer.foreign(&rig.genesis, &[transfer(1, 0)]);
    let report = rig.head(&foreign);
    assert_eq!(report.relation, HeadRelation::Unpromised);
    assert!(rig.fetches.is_empty());
    assert_eq!(rig.head(&foreign).relation, HeadRelation::Known);
}

#[test]
fn what_a_replaced_canonical_block_had_kept_is_taken_back() {
    let mut rig = Rig::new();
    let [kept, gone] = [transfer(1, 0), transfer(2, 0)];
    let genesis = rig.genesis.clone();
    let (_, first) = rig.whole_block(&genesis, &[&[kept.clone(), gone.clone()]]);
    let report = rig.head(&first);
    assert_eq!((report.relation, report.audit.kept), (HeadRelation::Ours, 2));

    let foreign = rig.sequencer.foreign(&genesis, std::slice::from_ref(&kept));
    rig.head(&foreign);
    let audit = rig.content(&foreign).unwrap();

    assert_eq!(audit, Audit { kept: 1, missing: 1, ..Audit::default() });
    let cause = RetractionCause::BlockReplaced;
    assert_eq!(rig.retracted, [Retraction { transaction: *gone.hash(), cause }]);
}

#[test]
fn a_block_of_ours_that_the_head_skipped_is_compared_before_the_foreign_one_upon_it() {
    let mut rig = Rig::new();
    let [first, second] = [transfer(1, 0), transfer(2, 0)];
    let genesis = rig.genesis.clone();
    let (_, ours) = rig.whole_block(&genesis, &[std::slice::from_ref(&first)]);
    let mut next = rig.sequencer.open(&ours);
    let signed = rig.sequencer.flashblock(&mut next, std::slice::from_ref(&second));
    rig.deliver(&signed);
    // Nobody says that our block has become canonical.
    rig.states.insert(&ours);
    let foreign = rig.sequencer.foreign(&ours, &[]);
    rig.head(&foreign);
    let audit = rig.content(&foreign).unwrap();

    assert_eq!(audit, Audit { missing: 1, ..Audit::default() });
    let cause = RetractionCause::BlockReplaced;
    assert_eq!(rig.retracted, [Retraction { transaction: *second.hash(), cause }]);
}
