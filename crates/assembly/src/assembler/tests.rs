//! What becomes of promises when builds end in every way they can.

mod blobs;

use alloy_consensus::TxEip1559;
use alloy_primitives::U256;
use preconf_primitives::{MAX_INDEX, Retraction, RetractionCause, TransactionRefusalReason};
use preconf_state::{StateCache, Value};

use super::*;
use crate::{
    testing::{
        BENEFICIARY, Machine, OTHER, RECIPIENT, SENDER, empty, holding, osaka, prague, rich,
        transfer, unsigned,
    },
    *,
};

const ROOM: u64 = 30_000_000;
/// Room for some transactions, but not for [`large`].
const LITTLE_ROOM: u64 = 45_000;

fn large() -> Transaction {
    unsigned(TxEip1559 { gas_limit: 50_000, ..transfer(0) }, SENDER)
}

/// A machine that has promised this transaction, which nobody will send again, and builds nothing.
fn having_promised(promise: &Transaction) -> Machine {
    let mut machine = Machine::new();
    machine.submit(promise);
    machine.open(ROOM);
    machine.publish();
    machine.tick();
    assert_eq!(machine.publish().len(), 1);
    machine.assembler.drop_build();
    assert_eq!(machine.assembler.unsettled, std::slice::from_ref(promise));
    machine.assembler.pool.remove(&promise.signer(), 0, DropCause::Invalid);
    machine
}

/// State in which the sender's next nonce is this.
fn state_with_nonce(nonce: u64) -> StateCache {
    let cache = StateCache::new(0, B256::ZERO, 10_000);
    let accounts =
        [(SENDER, rich(nonce)), (OTHER, rich(0)), (RECIPIENT, None), (BENEFICIARY, None)];
    for (address, account) in accounts {
        cache.insert(Key::Account(address), Value::Account(account));
    }
    cache
}

fn no_room(promise: &Transaction) -> Vec<Retraction> {
    vec![Retraction { transaction: *promise.hash(), cause: RetractionCause::NoRoom }]
}

/// What a new build with room for everything keeps.
fn kept_by_the_next_build(machine: &mut Machine) -> Vec<Transaction> {
    machine.open(ROOM);
    let cuts = machine.publish();
    assert!(cuts[0].retractions.is_empty(), "{cuts:?}");
    cuts[0].transactions.clone()
}

fn only<T: std::fmt::Debug>(mut effects: Vec<T>) -> T {
    assert_eq!(effects.len(), 1, "{effects:?}");
    effects.remove(0)
}

#[test]
fn a_retraction_that_was_not_published_is_still_a_promise() {
    let promise = large();
    let mut machine = having_promised(&promise);
    machine.open(LITTLE_ROOM);
    let Effect::Publish { cut, .. } = only(machine.run()) else { panic!("a cut comes first") };
    assert_eq!(cut.retractions, no_room(&promise));
    machine.assembler.drop_build();

    assert_eq!(kept_by_the_next_build(&mut machine), [promise]);
}

#[test]
fn a_published_retraction_is_said_once() {
    let promise = large();
    let mut machine = having_promised(&promise);
    machine.open(LITTLE_ROOM);
    assert_eq!(machine.publish()[0].retractions, no_room(&promise));
    machine.tick();
    assert_eq!(machine.publish()[0].retractions, []);
    machine.assembler.drop_build();

    assert_eq!(kept_by_the_next_build(&mut machine), []);
}

#[test]
fn a_retraction_counts_when_its_flashblock_is_out_though_the_build_has_ended() {
    for is_published in [false, true] {
        let (promise, other) = (large(), unsigned(transfer(0), OTHER));
        let mut machine = having_promised(&promise);
        machine.assembler.unsettled = vec![other.clone(), promise.clone()];
        let build = machine.open(LITTLE_ROOM);
        // The block is asked for when its first flashblock was just cut.
        let Effect::Publish { cut, .. } = only(machine.run()) else { panic!("a cut comes first") };
        assert!(machine.assembler.finish(build, machine.now));
        let Effect::Complete { last, .. } = only(machine.run()) else { panic!("it is complete") };
        assert_eq!((last.index, last.retractions.len()), (1, 0));
        assert_eq!(cut.retractions, no_room(&promise));
        if is_published {
            machine.assembler.published(build, cut.index);
        }

        let expected = if is_published { vec![other] } else { vec![other, promise] };
        assert_eq!(kept_by_the_next_build(&mut machine), expected);
    }
}

#[test]
fn a_promise_whose_nonce_is_used_is_kept_if_the_chain_holds_it() {
    // The second one does not fit either, which must not hide that its nonce is used.
    for promise in [unsigned(transfer(0), SENDER), large()] {
        let mut machine = having_promised(&promise);
        machine.cache = state_with_nonce(1);
        let build = machine.open(LITTLE_ROOM);
        let mut effects = machine.run().into_iter();
        let Some(Effect::Locate { transaction, .. }) = effects.next() else { panic!("it asks") };
        assert_eq!(transaction, *promise.hash());
        let Some(Effect::Publish { cut, .. }) = effects.next() else { panic!("it goes on") };
        assert!(cut.retractions.is_empty());

        machine.assembler.located(build, promise.hash(), Located::Canonical);
        machine.assembler.published(build, cut.index);
        machine.tick();
        assert_eq!(machine.publish()[0].retractions, []);
        machine.assembler.drop_build();
        assert_eq!(machine.assembler.unsettled, []);
    }
}

#[test]
fn a_promise_whose_nonce_another_transaction_used_is_taken_back() {
    let promise = unsigned(transfer(0), SENDER);
    let mut machine = having_promised(&promise);
    machine.cache = state_with_nonce(1);
    let build = machine.open(ROOM);
    machine.run();
    machine.assembler.located(build, promise.hash(), Located::Absent);
    machine.assembler.published(build, 0);
    machine.tick();
    let cause = RetractionCause::NoLongerValid;
    let expected = [Retraction { transaction: *promise.hash(), cause }];
    assert_eq!(machine.publish()[0].retractions, expected);
}

#[test]
fn a_promise_that_nobody_can_locate_is_left_to_the_next_build() {
    let promise = unsigned(transfer(0), SENDER);
    let mut machine = having_promised(&promise);
    machine.cache = state_with_nonce(1);
    let build = machine.open(ROOM);
    machine.run();
    machine.assembler.located(build, promise.hash(), Located::Unknown);
    machine.assembler.published(build, 0);
    machine.tick();
    assert_eq!(machine.publish()[0].retractions, []);
    machine.assembler.drop_build();
    assert_eq!(machine.assembler.unsettled, [promise]);
}

#[test]
fn a_block_whose_opening_cannot_be_read_fails_and_keeps_its_promises() {
    let promise = unsigned(transfer(0), SENDER);
    let mut machine = Machine::on(prague());
    machine.assembler.unsettled = vec![promise.clone()];
    let build = machine.open(ROOM);
    let Effect::Need { keys, .. } = only(machine.run()) else { panic!("it needs state") };
    machine.assembler.state_failed(build, &keys, "nobody answers".into());
    let Effect::Failed { failure, .. } = only(machine.run()) else { panic!("it has failed") };
    assert!(matches!(failure, Failure::NotOpened(_)), "{failure:?}");
    assert_eq!(machine.assembler.building(), None);
    assert_eq!(machine.assembler.unsettled, [promise]);
}

#[test]
fn a_promise_whose_state_cannot_be_read_waits_for_the_next_build_and_holds_up_no_other() {
    let promises = [
        unsigned(transfer(0), SENDER),
        unsigned(transfer(0), OTHER),
        unsigned(transfer(1), SENDER),
    ];
    let mut machine = Machine::new();
    machine.assembler.unsettled = promises.to_vec();
    let complete = machine.cache.clone();
    machine.cache = StateCache::new(0, B256::ZERO, 10_000);
    for address in [OTHER, RECIPIENT, BENEFICIARY] {
        let account = complete.account(address).unwrap();
        machine.cache.insert(Key::Account(address), Value::Account(account));
    }
    let build = machine.open(ROOM);
    let Effect::Need { keys, .. } = only(machine.run()) else { panic!("it needs state") };
    assert_eq!(keys, [Key::Account(SENDER)]);
    machine.assembler.state_failed(build, &keys, "nobody answers".into());
    let cuts = machine.publish();
    assert_eq!(cuts[0].transactions, [promises[1].clone()]);
    assert_eq!(cuts[0].retractions, []);
    machine.assembler.drop_build();

    machine.cache = complete;
    let [first, other, second] = promises;
    assert_eq!(kept_by_the_next_build(&mut machine), [other, first, second]);
}

#[test]
fn a_transaction_whose_state_cannot_be_read_waits_for_the_next_block() {
    let transaction = unsigned(transfer(0), SENDER);
    let mut machine = Machine::new();
    let complete = machine.cache.clone();
    machine.cache = StateCache::new(0, B256::ZERO, 10_000);
    machine.submit(&transaction);
    let build = machine.open(ROOM);
    let mut effects = machine.run();
    let Some(Effect::Need { keys, .. }) = effects.pop() else { panic!("it needs state") };
    machine.assembler.state_failed(build, &keys, "nobody answers".into());
    machine.assembler.published(build, 0);
    machine.tick();
    assert!(machine.publish()[0].transactions.is_empty());
    machine.assembler.drop_build();

    machine.cache = complete;
    machine.open(ROOM);
    machine.publish();
    machine.tick();
    assert_eq!(machine.publish()[0].transactions, [transaction]);
}

#[test]
fn heartbeats_end_before_the_index_that_ends_the_session() {
    let mut machine = Machine::new();
    let build = machine.open(ROOM);
    let mut published = machine.publish().len() as u64;
    for _ in 0..MAX_INDEX + 5 {
        machine.tick();
        published += machine.publish().len() as u64;
    }
    assert_eq!(published, MAX_INDEX);
    assert!(machine.assembler.finish(build, machine.now));
    let Effect::Complete { last, .. } = only(machine.run()) else { panic!("it is complete") };
    assert_eq!(last.index, MAX_INDEX);
}

#[test]
fn it_rests_while_a_flashblock_is_on_its_way_though_the_next_one_is_due() {
    let mut machine = Machine::new();
    let build = machine.open(ROOM);
    let Effect::Publish { cut, .. } = only(machine.run()) else { panic!("a cut comes first") };
    machine.tick();
    assert!(machine.run().is_empty());
    machine.assembler.published(build, cut.index);
    assert_eq!(machine.publish().len(), 1);
}

#[test]
fn what_the_chain_holds_is_no_longer_owed() {
    let promise = unsigned(transfer(0), SENDER);
    let mut machine = having_promised(&promise);
    machine.assembler.canonical(vec![holding(SENDER, promise.hash())], machine.now);
    assert_eq!(machine.assembler.unsettled, []);
}

#[test]
fn a_promise_that_is_heard_when_it_is_in_the_block_is_no_second_one() {
    let mut machine = Machine::new();
    let sent = unsigned(transfer(0), SENDER);
    machine.submit(&sent);
    machine.open(ROOM);
    machine.publish();
    // It is executed, and not cut yet.
    assert!(machine.run().is_empty());
    machine.assembler.promise(vec![sent.clone()]);
    machine.tick();
    let cuts = machine.publish();
    assert_eq!(cuts[0].transactions, [sent]);
    assert!(cuts.iter().all(|cut| cut.retractions.is_empty()));
}

#[test]
fn what_a_replaced_block_held_is_promised_again_and_before_what_came_later() {
    let [first, second] = [0, 1].map(|nonce| unsigned(transfer(nonce), SENDER));
    let mut machine = having_promised(&first);
    machine.assembler.canonical(vec![empty(0), holding(SENDER, first.hash())], machine.now);
    machine.assembler.promise(vec![second.clone()]);
    // The head goes back to the block before, as for another round.
    machine.assembler.canonical(vec![empty(0)], machine.now);
    assert_eq!(kept_by_the_next_build(&mut machine), [first.clone(), second.clone()]);

    // And what was built for a block that was canonical for a moment.
    let build = machine.assembler.building().unwrap();
    assert!(machine.assembler.finish(build, machine.now));
    machine.run();
    let used = vec![(SENDER, 0, *first.hash()), (SENDER, 1, *second.hash())];
    machine.assembler.canonical(vec![CanonicalBlock { used, ..empty(1) }], machine.now);
    assert_eq!(machine.assembler.unsettled, []);
    machine.assembler.canonical(vec![empty(1)], machine.now);
    assert_eq!(kept_by_the_next_build(&mut machine), [first, second]);
}

#[test]
fn a_nonce_that_a_replaced_block_had_used_can_be_used_again() {
    let mut machine = Machine::new();
    let [first, second] = [0, 1].map(|nonce| unsigned(transfer(nonce), SENDER));
    machine.submit(&second);
    machine.assembler.canonical(vec![holding(SENDER, first.hash())], machine.now);
    let refused = machine.assembler.submit(Submission::from(first.clone()), rich(0)).unwrap_err();
    assert_eq!(refused.reason, TransactionRefusalReason::NonceTooLow);
    machine.assembler.canonical(vec![empty(1)], machine.now);
    machine.submit(&first);
    assert_eq!(machine.assembler.pool().next_nonce(&SENDER), Some(2));
}

#[test]
fn who_follows_publishes_nothing_and_takes_in_nothing_but_promises() {
    let mut machine = Machine::new();
    let build = machine.follow(ROOM);
    machine.submit(&unsigned(transfer(0), OTHER));
    let promise = unsigned(transfer(0), SENDER);
    machine.assembler.promise(vec![promise.clone(), promise.clone()]);
    machine.tick();
    machine.assembler.promise(vec![promise.clone()]);
    assert!(machine.run().is_empty());

    assert!(machine.assembler.finish(build, machine.now));
    let Effect::Complete { last, .. } = only(machine.run()) else { panic!("it is complete") };
    assert_eq!((last.index, last.transactions), (0, vec![promise]));
}

#[test]
fn who_takes_the_lead_begins_with_what_was_promised() {
    let mut machine = Machine::new();
    let build = machine.follow(ROOM);
    let (first, second) = (unsigned(transfer(0), SENDER), unsigned(transfer(1), SENDER));
    let waiting = unsigned(transfer(0), OTHER);
    machine.submit(&waiting);
    machine.assembler.promise(vec![first.clone()]);
    machine.assembler.promise(vec![second.clone()]);
    assert!(machine.run().is_empty());

    assert!(machine.assembler.lead(build, machine.now));
    assert_eq!(machine.publish()[0].transactions, [first, second]);
    machine.tick();
    assert_eq!(machine.publish()[0].transactions, [waiting]);
}

#[test]
fn what_the_leader_took_back_is_not_promised_by_its_successor() {
    let mut machine = Machine::new();
    let (kept, withdrawn) = (unsigned(transfer(0), OTHER), large());
    machine.assembler.promise(vec![withdrawn.clone(), kept.clone()]);
    machine.assembler.withdraw(&[*withdrawn.hash()].into_iter().collect());
    let build = machine.follow(ROOM);
    machine.assembler.promise(vec![withdrawn.clone()]);
    machine.assembler.withdraw(&[*withdrawn.hash()].into_iter().collect());
    assert!(machine.run().is_empty());

    assert!(machine.assembler.lead(build, machine.now));
    let cut = machine.publish().remove(0);
    assert_eq!((cut.transactions, cut.retractions), (vec![kept], vec![]));
}

#[test]
fn a_block_that_is_as_long_as_its_fork_allows_takes_no_more() {
    let mut machine = Machine::without_contracts(osaka());
    let long = |nonce| TxEip1559 {
        input: vec![0; 120_000].into(),
        gas_limit: 1_300_000,
        ..transfer(nonce)
    };
    for nonce in 0..40 {
        machine.submit(&unsigned(long(nonce), SENDER));
        machine.submit(&unsigned(long(nonce), OTHER));
    }
    let build = machine.open(500_000_000);
    machine.publish();
    assert!(machine.assembler.finish(build, machine.now));
    let Effect::Complete { block, .. } = only(machine.run()) else { panic!("it is complete") };
    assert_eq!(block.transactions().len(), 69);
    let bytes: usize = block.transactions().iter().map(|sent| sent.encoded().len()).sum();
    let room = (8 << 20) - bytes;
    assert!(room < 120_200, "{room} bytes are left");
}

/// One that pays more than [`transfer`]s do.
fn bumped(nonce: u64) -> Transaction {
    let TxEip1559 { max_fee_per_gas, max_priority_fee_per_gas, .. } = transfer(nonce);
    let (max_fee_per_gas, max_priority_fee_per_gas) =
        (2 * max_fee_per_gas, 2 * max_priority_fee_per_gas);
    let bumped = TxEip1559 { max_fee_per_gas, max_priority_fee_per_gas, ..transfer(nonce) };
    unsigned(bumped, SENDER)
}

#[test]
fn no_other_transaction_takes_the_place_of_one_that_is_preconfirmed() {
    let mut machine = Machine::new();
    let sent = unsigned(transfer(0), SENDER);
    machine.submit(&sent);
    let build = machine.open(ROOM);
    machine.publish();
    let refused = |machine: &mut Machine| {
        let refusal = machine.assembler.submit(bumped(0), rich(0)).unwrap_err();
        assert_eq!(refusal.reason, TransactionRefusalReason::NonceTooLow);
    };
    refused(&mut machine);
    // Nor when its block was asked for, and nobody knows yet whether it will be canonical.
    machine.assembler.finish(build, machine.now);
    refused(&mut machine);
    assert!(machine.assembler.pool().get(sent.hash()).is_some());
    // Nor when another block is, and before the next one has come to it.
    machine.assembler.canonical(vec![holding(OTHER, &B256::ZERO)], machine.now);
    refused(&mut machine);
    machine.open(ROOM);
    refused(&mut machine);
}

#[test]
fn another_may_take_the_place_of_a_promise_when_its_retraction_is_out() {
    let mut machine = having_promised(&large());
    let is_taken = |machine: &mut Machine| machine.assembler.submit(bumped(0), rich(0)).is_ok();
    assert!(!is_taken(&mut machine));
    let build = machine.open(LITTLE_ROOM);
    assert!(!is_taken(&mut machine));
    let Effect::Publish { cut, .. } = only(machine.run()) else { panic!("a cut comes first") };
    assert_eq!(cut.retractions.len(), 1);
    assert!(!is_taken(&mut machine));
    machine.assembler.published(build, cut.index);
    assert!(is_taken(&mut machine));
}

#[test]
fn an_answer_about_a_block_that_was_replaced_by_one_of_its_number_says_nothing() {
    let mut machine = Machine::new();
    let [first, second] = [0, 1].map(|nonce| unsigned(transfer(nonce), SENDER));
    machine.submit(&second);
    let replaced =
        CanonicalBlock { hash: B256::with_last_byte(0xa0), ..holding(SENDER, first.hash()) };
    machine.assembler.canonical(vec![replaced], machine.now);
    let Effect::Recheck { hash, .. } = only(machine.run()) else { panic!("no question") };
    machine.assembler.canonical(vec![empty(1)], machine.now);
    machine.assembler.recheck(hash, vec![(SENDER, rich(1))]);
    machine.submit(&first);
    assert_eq!(machine.assembler.pool().next_nonce(&SENDER), Some(2));
}

#[test]
fn what_is_not_paid_for_yet_waits_and_is_looked_at_after_the_block() {
    let value = rich(0).unwrap().balance / U256::from(2);
    let pays = unsigned(TxEip1559 { value, ..transfer(0) }, SENDER);
    let high = TxEip1559 { max_priority_fee_per_gas: 2_000_000_000, ..transfer(0) };
    let paid = unsigned(high, RECIPIENT);
    let mut machine = Machine::new();
    machine.submit(&pays);
    machine.open(ROOM);
    machine.publish();
    machine.assembler.submit(paid.clone(), None).unwrap();
    // Nothing of that was cut, and the next build tries what pays more first.
    machine.open(ROOM);
    machine.publish();
    machine.tick();
    assert_eq!(machine.publish()[0].transactions, std::slice::from_ref(&pays));
    assert!(machine.assembler.pool().get(paid.hash()).is_some());

    for (account, waits) in [(rich(0), true), (None, false)] {
        machine.assembler.drop_build();
        machine.open(ROOM);
        machine.run();
        machine.assembler.drop_build();
        machine.assembler.canonical(vec![holding(SENDER, pays.hash())], machine.now);
        let Some(Effect::Recheck { hash, senders, .. }) = machine.run().pop() else {
            panic!("no question")
        };
        assert_eq!(senders, [RECIPIENT]);
        machine.assembler.recheck(hash, vec![(RECIPIENT, account)]);
        assert_eq!(machine.assembler.pool().get(paid.hash()).is_some(), waits);
    }
}

#[test]
fn what_expires_with_a_canonical_block_counts_as_lost_only_if_no_block_holds_it() {
    let mut machine = Machine::new();
    let [held, parked] = [unsigned(transfer(0), SENDER), unsigned(transfer(5), OTHER)];
    machine.submit(&held);
    machine.submit(&parked);
    machine.open(ROOM);
    machine.publish();
    machine.now += PoolLimits::default().lifetime;
    machine.assembler.canonical(vec![empty(0)], machine.now);
    assert!(machine.assembler.pool().is_empty());
    assert_eq!(machine.assembler.take_drops().collect::<Vec<_>>(), [(DropCause::Expired, 1)]);
}

#[test]
fn what_follows_a_promise_that_does_not_wait_in_the_pool_is_built_after_it() {
    let mut machine = Machine::new();
    machine.assembler.promise(vec![unsigned(transfer(0), SENDER)]);
    machine.open(ROOM);
    assert_eq!(machine.publish()[0].transactions.len(), 1);
    let next = unsigned(transfer(1), SENDER);
    machine.submit(&next);
    assert_eq!(machine.assembler.pool().next_nonce(&SENDER), Some(2));
    machine.run();
    machine.tick();
    assert_eq!(machine.publish()[0].transactions, [next]);
}

#[test]
fn what_the_open_block_has_moved_can_be_spent_once() {
    let all = rich(0).unwrap().balance / U256::from(2);
    let moved = TxEip1559 { value: all, ..transfer(0) };
    let mut machine = Machine::new();
    machine.assembler.promise(vec![unsigned(moved, SENDER)]);
    machine.open(ROOM);
    machine.publish();
    // Half of it is gone, though the head does not know it.
    let again = TxEip1559 { value: all, ..transfer(1) };
    let refusal = machine.assembler.submit(unsigned(again, SENDER), rich(0)).unwrap_err();
    assert_eq!(refusal.reason, TransactionRefusalReason::InsufficientFunds);
    // Who has got it has nothing at the head.
    let onwards = unsigned(transfer(0), RECIPIENT);
    machine.assembler.submit(onwards.clone(), None).unwrap();
    machine.run();
    machine.tick();
    assert_eq!(machine.publish()[0].transactions, [onwards]);
}

#[test]
fn who_has_paid_in_a_block_and_has_more_waiting_is_looked_at_again() {
    let mut machine = Machine::new();
    let sent = [0, 1].map(|nonce| unsigned(transfer(nonce), SENDER));
    sent.iter().for_each(|transaction| machine.submit(transaction));
    machine.assembler.canonical(vec![holding(SENDER, sent[0].hash())], machine.now);
    let Effect::Recheck { number, hash, senders } = only(machine.run()) else {
        panic!("no question")
    };
    assert_eq!((number, hash, senders.as_slice()), (1, empty(1).hash, &[SENDER][..]));
    let poor = Some(Account { nonce: 1, ..Account::default() });
    machine.assembler.recheck(B256::ZERO, vec![(SENDER, poor)]);
    assert_eq!(machine.assembler.pool().len(), 1);
    machine.assembler.recheck(hash, vec![(SENDER, poor)]);
    assert!(machine.assembler.pool().is_empty());
    assert_eq!(machine.assembler.take_drops().collect::<Vec<_>>(), [(DropCause::Unpaid, 1)]);
}

#[test]
fn who_is_looked_at_again_is_still_promised_what_no_block_holds() {
    let mut machine = Machine::new();
    let promises = [0, 1].map(|nonce| unsigned(transfer(nonce), SENDER));
    machine.assembler.promise(promises.to_vec());
    machine.submit(&unsigned(transfer(2), SENDER));
    machine.assembler.canonical(vec![holding(SENDER, promises[0].hash())], machine.now);
    let Effect::Recheck { hash, .. } = only(machine.run()) else { panic!("no question") };
    machine.assembler.recheck(hash, vec![(SENDER, rich(1))]);
    assert_eq!(machine.assembler.pool().next_nonce(&SENDER), Some(3));
}

#[test]
fn a_block_that_is_as_long_as_its_fork_allows_is_complete() {
    const LONG: usize = 1_500_000;
    let with_input = |nonce, bytes: usize| {
        let (gas_limit, input) = (21_000 + 10 * bytes as u64, vec![0; bytes].into());
        unsigned(TxEip1559 { gas_limit, input, ..transfer(nonce) }, SENDER)
    };
    let spec = osaka();
    // Without its header; each transaction has its length before it.
    let mut left = spec.max_block_bytes_at(2).unwrap() - 1_024;
    let mut machine = Machine::without_contracts(spec);
    let build = machine.open(1_000_000_000);
    for nonce in 0..6 {
        let beside = with_input(nonce, LONG).encoded().len() - LONG + 5;
        let sent = with_input(nonce, LONG.min(left - beside));
        left -= sent.encoded().len() + 5;
        machine.submit(&sent);
    }
    assert!(left < 100, "{left} bytes are left");
    let completion = (0..100).find_map(|_| {
        machine.tick();
        machine.run().into_iter().find_map(|effect| match effect {
            Effect::Publish { cut, .. } => {
                machine.assembler.published(build, cut.index);
                None
            }
            Effect::Complete { completion, .. } => Some(completion),
            Effect::Need { .. }
            | Effect::Locate { .. }
            | Effect::Recheck { .. }
            | Effect::Failed { .. } => panic!("unexpected {effect:?}"),
        })
    });
    assert_eq!(completion, Some(Completion::Exhausted(Exhausted::ByteLimit)));
}
