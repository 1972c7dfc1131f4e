//! What the pool takes, refuses and gives up.

use std::time::Instant;

use alloy_consensus::{TxEip1559, TxEip4844};
use alloy_primitives::U256;

use super::*;
use crate::testing::{
    GWEI, OTHER, SENDER, blob_transfer, rich, sender, transfer, unsigned, with_blobs,
};

fn paying(address: Address, nonce: u64, tip: u128) -> Transaction {
    let transaction =
        TxEip1559 { max_priority_fee_per_gas: tip, max_fee_per_gas: tip, ..transfer(nonce) };
    unsigned(transaction, address)
}

/// A transaction that costs this at most.
fn costing(nonce: u64, cost: u64) -> Transaction {
    let transaction = TxEip1559 {
        gas_limit: 0,
        value: U256::from(cost),
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 10,
        ..transfer(nonce)
    };
    unsigned(transaction, SENDER)
}

fn with_balance(balance: u64) -> Option<Account> {
    Some(Account { balance: U256::from(balance), ..Account::default() })
}

fn refused(pool: &mut Pool, transaction: Transaction, account: Option<Account>) -> Reason {
    let before = pool.len();
    let refusal = pool.insert(transaction, account).unwrap_err();
    assert_eq!(pool.len(), before, "a refused transaction changes nothing");
    refusal.reason
}

fn small(transactions: usize) -> Pool {
    Pool::new(PoolLimits { transactions, ..PoolLimits::default() })
}

/// Everything that waits is known by hash, by sender and in the index, and nothing else is.
fn assert_consistent(pool: &Pool) {
    let waiting = pool.senders.iter().map(|sender| sender.waiting.len()).sum::<usize>();
    assert_eq!(waiting, pool.by_hash.len());
    let senders = pool.numbers.keys().map(|address| pool.sender(address).unwrap());
    let tails: BTreeSet<_> = senders.map(|sender| sender.tail(pool.ordered_at).unwrap()).collect();
    assert_eq!(tails, pool.tails);
    assert_eq!(pool.numbers.len() + pool.unused.len(), pool.senders.len());
}

#[test]
fn a_hundred_thousand_wait_and_the_worst_make_room_for_a_hundred_thousand_more() {
    const FULL: u64 = 100_000;
    let mut pool = Pool::new(PoolLimits::default());
    let poor: Vec<_> = (0..FULL).map(|n| paying(sender(n), 0, 1_000 + u128::from(n))).collect();
    for transaction in &poor {
        pool.insert(transaction.clone(), rich(0)).unwrap();
    }
    assert_eq!(pool.len() as u64, FULL);
    assert_eq!(refused(&mut pool, paying(SENDER, 0, 1_000), rich(0)), Reason::PoolFull);

    for n in 0..FULL {
        let better = paying(sender(FULL + n), 0, GWEI + u128::from(n));
        pool.insert(better, rich(0)).unwrap();
        assert_eq!(pool.len() as u64, FULL);
        // One goes for each that comes, the one that pays least first.
        assert!(pool.get(poor[n as usize].hash()).is_none(), "{n}");
        let next = poor.get(n as usize + 1);
        assert!(next.is_none_or(|next| pool.get(next.hash()).is_some()), "{n}");
    }
    assert_consistent(&pool);
    let mut selection = pool.select(0_u64);
    let best = selection.next(&pool).unwrap();
    assert_eq!(tip_cap(&best), GWEI + u128::from(FULL - 1));
}

/// One that offers this tip, and pays so much for a unit of gas at most.
fn capped(address: Address, tip: u128, fee: u128) -> Transaction {
    let transaction = TxEip1559 {
        max_priority_fee_per_gas: tip * GWEI,
        max_fee_per_gas: fee * GWEI,
        ..transfer(0)
    };
    unsigned(transaction, address)
}

#[test]
fn what_is_left_of_a_tip_beyond_the_base_fee_is_what_counts() {
    let mut pool = small(2);
    let [generous, modest] = [capped(SENDER, 5, 5), capped(OTHER, 2, 20)];
    for transaction in [&generous, &modest] {
        pool.insert(transaction.clone(), rich(0)).unwrap();
    }
    pool.set_fees(Fees::from(4 * GWEI as u64));
    // It offers more than the modest one, and the base fee leaves less of it.
    assert_eq!(refused(&mut pool, capped(sender(1), 5, 5), rich(0)), Reason::PoolFull);
    let better = capped(sender(1), 3, 20);
    pool.insert(better.clone(), rich(0)).unwrap();
    assert!(pool.get(generous.hash()).is_none());

    // The one that does not pay the base fee any more goes first, whatever it offers.
    pool.set_fees(Fees::from(19 * GWEI as u64));
    pool.insert(capped(sender(2), 2, 30), rich(0)).unwrap();
    pool.set_fees(Fees::from(25 * GWEI as u64));
    pool.insert(capped(sender(3), 1, 30), rich(0)).unwrap();
    assert!(pool.get(better.hash()).is_none() && pool.get(modest.hash()).is_none());
    assert_eq!(pool.take_drops().collect::<Vec<_>>(), [(DropCause::Evicted, 3)]);
    assert_consistent(&pool);
}

#[test]
fn what_has_waited_too_long_is_forgotten() {
    let lifetime = Duration::from_secs(1_600);
    let mut pool = Pool::new(PoolLimits { lifetime, ..PoolLimits::default() });
    let mut now = Instant::now();
    pool.expire(now, |_| false);
    let old = pool.insert(paying(SENDER, 0, 10), rich(0)).unwrap();
    now += lifetime / 2;
    pool.expire(now, |_| false);
    let young = [paying(SENDER, 1, 10), paying(OTHER, 0, 10)];
    let young = young.map(|transaction| pool.insert(transaction, rich(0)).unwrap());
    now += lifetime - Duration::from_secs(1);
    pool.expire(now, |_| false);
    assert!(pool.get(&old).is_some());
    now += lifetime / 16;
    pool.expire(now, |_| false);
    assert!(pool.get(&old).is_none());
    assert!(young.iter().all(|hash| pool.get(hash).is_some()));
    assert_eq!(pool.take_drops().collect::<Vec<_>>(), [(DropCause::Expired, 1)]);
    assert_consistent(&pool);
}

#[test]
fn what_can_not_be_paid_after_a_block_is_forgotten() {
    let mut pool = Pool::new(PoolLimits::default());
    let costs = [(0, 20), (1, 20), (2, 30), (3, 40), (4, 20)];
    let [_, kept, also, unpaid, behind] =
        costs.map(|(nonce, cost)| pool.insert(costing(nonce, cost), with_balance(130)).unwrap());
    // It pays for each of the first ones, and perhaps for both: that is seen when they are executed.
    let head = Account { nonce: 1, ..with_balance(39).unwrap() };
    pool.recheck(&SENDER, head, Begun::default());
    let waits = [kept, also, unpaid, behind].map(|hash| pool.get(&hash).is_some());
    assert_eq!(waits, [true, true, false, false]);
    let drops: Vec<_> = pool.take_drops().collect();
    assert_eq!(drops, [(DropCause::NonceUsed, 1), (DropCause::Unpaid, 2)]);
    // The next block has used it; what it left pays for nothing.
    let account = Some(Account { nonce: 2, ..with_balance(9).unwrap() });
    pool.recheck(&SENDER, head, Begun { account, owed: 0 });
    assert!(pool.get(&kept).is_some() && pool.get(&also).is_none());
    assert_eq!(pool.take_drops().collect::<Vec<_>>(), [(DropCause::Unpaid, 1)]);
    assert_consistent(&pool);
}

#[test]
fn what_follows_a_nonce_that_the_block_used_without_its_sender_is_offered_in_it_and_later() {
    for older in [None, Some(paying(SENDER, 0, 10))] {
        let mut pool = Pool::default();
        if let Some(older) = older {
            pool.insert(older, rich(0)).unwrap();
        }
        let mut selection = pool.select(0_u64);
        let next = paying(SENDER, 1, 10);
        let begun = Begun { account: rich(1), owed: 0 };
        pool.insert_after(next.clone().into(), rich(0), begun, |_| false).unwrap();
        selection.arrived(&pool, SENDER, 1);
        assert_eq!(selection.next(&pool).as_ref(), Some(&next));
        assert_eq!(selection.next(&pool), None);
        // The chain uses it in a way that no block shows.
        assert_eq!(pool.doubted().collect::<Vec<_>>(), [SENDER]);
        pool.recheck(&SENDER, rich(1).unwrap(), Begun::default());
        assert_eq!(pool.select(0_u64).next(&pool), Some(next));
        assert_eq!(pool.doubted().count(), 0);
    }
}

#[test]
fn what_a_block_in_the_making_holds_makes_room_without_being_lost() {
    for is_held in [false, true] {
        let mut pool = small(1);
        let worse = pool.insert(paying(SENDER, 0, 10), rich(0)).unwrap();
        let better = paying(OTHER, 0, 20);
        pool.insert_after(better.into(), rich(0), Begun::default(), |_| is_held).unwrap();
        assert!(pool.get(&worse).is_none());
        assert_eq!(pool.take_drops().count(), usize::from(!is_held));
    }
}

#[test]
fn a_transaction_that_a_canonical_block_holds_is_not_counted_as_dropped() {
    let mut pool = Pool::default();
    let [first, second] =
        [0, 1].map(|nonce| pool.insert(paying(SENDER, nonce, 10), rich(0)).unwrap());
    pool.settled(&SENDER, 0, &first);
    assert_eq!(pool.take_drops().count(), 0);
    pool.settled(&SENDER, 1, &first);
    assert!(pool.get(&second).is_none());
    assert_eq!(pool.take_drops().collect::<Vec<_>>(), [(DropCause::NonceUsed, 1)]);
}

#[test]
fn what_cannot_be_executed_goes_before_what_pays_less() {
    let mut pool = small(2);
    let ahead = paying(SENDER, 5, 1_000);
    pool.insert(ahead.clone(), rich(0)).unwrap();
    pool.insert(paying(OTHER, 0, 10), rich(0)).unwrap();
    pool.insert(paying(sender(1), 0, 5), rich(0)).unwrap();
    assert!(pool.get(ahead.hash()).is_none());
    assert_consistent(&pool);
}

#[test]
fn a_transaction_is_worth_no_more_than_those_it_waits_for() {
    let mut pool = small(3);
    pool.insert(paying(SENDER, 0, 10), rich(0)).unwrap();
    let last = paying(SENDER, 1, 1_000);
    pool.insert(last.clone(), rich(0)).unwrap();
    pool.insert(paying(OTHER, 0, 50), rich(0)).unwrap();
    pool.insert(paying(sender(1), 0, 20), rich(0)).unwrap();
    assert!(pool.get(last.hash()).is_none());
    assert_eq!(refused(&mut pool, paying(SENDER, 1, 1_000), rich(0)), Reason::PoolFull);
    assert_consistent(&pool);
}

#[test]
fn of_equals_the_first_to_come_stays_and_the_newcomer_is_refused() {
    let mut pool = small(2);
    let first = paying(OTHER, 0, 10);
    pool.insert(first.clone(), rich(0)).unwrap();
    pool.insert(paying(SENDER, 0, 10), rich(0)).unwrap();
    assert_eq!(refused(&mut pool, paying(sender(1), 0, 10), rich(0)), Reason::PoolFull);
    pool.insert(paying(sender(1), 0, 11), rich(0)).unwrap();
    assert!(pool.get(first.hash()).is_some());
}

#[test]
fn a_full_pool_takes_a_replacement_without_giving_anything_up() {
    let mut pool = small(2);
    pool.insert(paying(SENDER, 0, 10), rich(0)).unwrap();
    pool.insert(paying(OTHER, 0, 5), rich(0)).unwrap();
    assert_eq!(refused(&mut pool, paying(SENDER, 0, 10), rich(0)), Reason::AlreadyKnown);
    pool.insert(paying(SENDER, 0, 11), rich(0)).unwrap();
    assert_eq!(pool.len(), 2);
    assert_consistent(&pool);
}

#[test]
fn what_a_sender_may_spend_is_counted_over_its_whole_chain() {
    let mut pool = Pool::new(PoolLimits::default());
    pool.insert(costing(0, 40), with_balance(100)).unwrap();
    pool.insert(costing(1, 40), with_balance(100)).unwrap();
    assert_eq!(refused(&mut pool, costing(2, 21), with_balance(100)), Reason::InsufficientFunds);
    pool.insert(costing(2, 20), with_balance(100)).unwrap();
    // More has come in meanwhile.
    pool.insert(costing(3, 21), with_balance(121)).unwrap();
    // Half of it is spent.
    pool.mined(&SENDER, 1);
    let spent = Some(Account { nonce: 2, ..with_balance(41).unwrap() });
    assert_eq!(refused(&mut pool, costing(4, 1), spent), Reason::InsufficientFunds);
    assert_consistent(&pool);
}

#[test]
fn a_replacement_counts_instead_of_what_it_replaces() {
    let bumped = |nonce, cost| {
        let transaction = TxEip1559 {
            gas_limit: 0,
            value: U256::from(cost),
            max_fee_per_gas: 20,
            max_priority_fee_per_gas: 20,
            ..transfer(nonce)
        };
        unsigned(transaction, SENDER)
    };
    let mut pool = Pool::new(PoolLimits::default());
    pool.insert(costing(0, 60), with_balance(100)).unwrap();
    pool.insert(costing(1, 40), with_balance(100)).unwrap();
    assert_eq!(refused(&mut pool, bumped(0, 61), with_balance(100)), Reason::InsufficientFunds);
    pool.insert(bumped(0, 60), with_balance(100)).unwrap();
    pool.insert(bumped(1, 40), with_balance(100)).unwrap();
    assert_eq!(pool.len(), 2);
    assert_consistent(&pool);
}

#[test]
fn what_is_parked_gives_way_to_what_closes_the_gap() {
    let mut pool = Pool::new(PoolLimits::default());
    let parked = [costing(1, 50), costing(2, 90)];
    for transaction in &parked {
        pool.insert(transaction.clone(), with_balance(100)).unwrap();
    }
    pool.insert(costing(0, 40), with_balance(100)).unwrap();
    assert_eq!(pool.next_nonce(&SENDER), Some(2));
    assert!(pool.get(parked[1].hash()).is_none());
    assert_consistent(&pool);
}

#[test]
fn a_cost_beyond_all_numbers_is_refused() {
    let transaction = TxEip1559 { value: U256::MAX, ..transfer(0) };
    let mut pool = Pool::new(PoolLimits::default());
    let account = Some(Account { balance: U256::MAX - U256::ONE, ..Account::default() });
    let reason = refused(&mut pool, unsigned(transaction, SENDER), account);
    assert_eq!(reason, Reason::InsufficientFunds);
}

#[test]
fn candidates_come_by_effective_tip_and_in_nonce_order() {
    let mut pool = Pool::new(PoolLimits::default());
    for transaction in
        [paying(SENDER, 1, 9 * GWEI), paying(OTHER, 0, 5 * GWEI), paying(SENDER, 0, 3 * GWEI)]
    {
        pool.insert(transaction, rich(0)).unwrap();
    }
    let mut selection = pool.select(GWEI as u64);
    let mut order = Vec::new();
    while let Some(next) = selection.next(&pool) {
        order.push((next.signer(), next.envelope().nonce()));
        selection.included(&pool, next.signer(), next.envelope().nonce());
    }
    assert_eq!(order, [(OTHER, 0), (SENDER, 0), (SENDER, 1)]);
}

/// A transaction with so many blobs, and all its fees multiplied.
fn with_fees(nonce: u64, blobs: usize, [fee, tip, blob_fee]: [u128; 3]) -> TxEip4844 {
    TxEip4844 {
        max_fee_per_gas: fee * GWEI,
        max_priority_fee_per_gas: tip * GWEI,
        max_fee_per_blob_gas: blob_fee * GWEI,
        ..blob_transfer(nonce, blobs)
    }
}

/// What a blob takes with its commitment and its proof.
const BLOB_BYTES: usize = 131_072 + 2 * 48;

#[test]
fn a_transaction_with_blobs_waits_with_them_and_loses_them_when_it_no_longer_waits() {
    let mut pool = Pool::default();
    let bare = unsigned(blob_transfer(0, 1), SENDER);
    assert_eq!(refused(&mut pool, bare, rich(0)), Reason::UnsupportedType);
    let hashes = [0, 1, 2]
        .map(|nonce| pool.insert(with_blobs(blob_transfer(nonce, 2), SENDER), rich(0)).unwrap());
    assert_eq!(pool.sidecars.bytes(), 6 * BLOB_BYTES);
    pool.mined(&SENDER, 0);
    pool.remove(&SENDER, 2, DropCause::Invalid);
    let waits = hashes.map(|hash| pool.sidecar(&hash).is_some());
    assert_eq!(waits, [false, true, false]);
    assert_eq!(pool.sidecars.bytes(), 2 * BLOB_BYTES);
    assert_consistent(&pool);
}

#[test]
fn a_transaction_with_blobs_is_replaced_by_another_one_that_pays_twice_of_everything() {
    let mut pool = Pool::default();
    let old = pool.insert(with_blobs(with_fees(0, 1, [10, 1, 1]), SENDER), rich(0)).unwrap();
    for fees in [[19, 2, 2], [20, 1, 2], [20, 2, 1]] {
        let refusal = pool.insert(with_blobs(with_fees(0, 1, fees), SENDER), rich(0)).unwrap_err();
        assert_eq!(refusal.reason, Reason::ReplacementUnderpriced, "{fees:?}");
    }
    let plain = paying(SENDER, 0, 1_000 * GWEI);
    assert_eq!(refused(&mut pool, plain, rich(0)), Reason::ReplacementUnderpriced);
    let new = pool.insert(with_blobs(with_fees(0, 3, [20, 2, 2]), SENDER), rich(0)).unwrap();
    assert!(pool.sidecar(&old).is_none() && pool.sidecar(&new).is_some());
    assert_eq!((pool.len(), pool.sidecars.bytes()), (1, 3 * BLOB_BYTES));

    pool.insert(paying(SENDER, 1, GWEI), rich(0)).unwrap();
    let refusal = pool.insert(with_blobs(with_fees(1, 1, [20, 9, 9]), SENDER), rich(0));
    assert_eq!(refusal.unwrap_err().reason, Reason::ReplacementUnderpriced);
    assert_consistent(&pool);
}

#[test]
fn the_worst_blobs_make_room_for_better_ones_and_nothing_else_does() {
    let limits = PoolLimits { sidecar_bytes: 4 * BLOB_BYTES, ..PoolLimits::default() };
    let mut pool = Pool::new(limits);
    let plain = pool.insert(paying(sender(9), 0, 1), rich(0)).unwrap();
    let offer = |pool: &mut Pool, number, tip, blobs| {
        pool.insert(with_blobs(with_fees(0, blobs, [10, tip, 1]), sender(number)), rich(0))
    };
    let worst = offer(&mut pool, 1, 1, 2).unwrap();
    let middle = offer(&mut pool, 2, 3, 2).unwrap();
    for (tip, blobs) in [(1, 1), (2, 3), (9, 5)] {
        let refusal = offer(&mut pool, 3, tip, blobs).unwrap_err();
        assert_eq!(refusal.reason, Reason::PoolFull, "tip {tip}, {blobs} blobs");
        assert_eq!((pool.len(), pool.sidecars.bytes()), (3, 4 * BLOB_BYTES));
    }
    let better = offer(&mut pool, 3, 2, 1).unwrap();
    assert!(pool.get(&worst).is_none() && pool.sidecar(&worst).is_none());
    let best = offer(&mut pool, 4, 4, 4).unwrap();
    for (hash, waits) in [(plain, true), (middle, false), (better, false), (best, true)] {
        assert_eq!(pool.get(&hash).is_some(), waits);
    }
    assert_eq!(pool.sidecars.bytes(), 4 * BLOB_BYTES);
    assert_consistent(&pool);
}

#[test]
fn one_sender_has_so_many_transactions_with_blobs_and_no_more() {
    let mut pool = Pool::new(PoolLimits { blobs_per_sender: 2, ..PoolLimits::default() });
    pool.insert(with_blobs(with_fees(0, 1, [10, 1, 1]), SENDER), rich(0)).unwrap();
    pool.insert(with_blobs(with_fees(1, 1, [10, 1, 1]), SENDER), rich(0)).unwrap();
    let third = with_blobs(with_fees(2, 1, [10, 1, 1]), SENDER);
    let refusal = pool.insert(third, rich(0)).unwrap_err();
    assert_eq!(refusal.reason, Reason::PoolFull);
    pool.insert(with_blobs(with_fees(1, 1, [20, 2, 2]), SENDER), rich(0)).unwrap();
    pool.insert(paying(SENDER, 2, GWEI), rich(0)).unwrap();
    pool.mined(&SENDER, 0);
    pool.insert(with_blobs(with_fees(3, 1, [10, 1, 1]), SENDER), rich(1)).unwrap();
}

#[test]
fn who_does_not_pay_what_blobs_cost_waits() {
    let mut pool = Pool::default();
    pool.insert(with_blobs(with_fees(0, 1, [10, 1, 2]), SENDER), rich(0)).unwrap();
    pool.insert(paying(OTHER, 0, 5 * GWEI), rich(0)).unwrap();
    let offered = |blob| {
        let mut selection = pool.select(Fees { base: 1, blob });
        std::iter::from_fn(|| selection.next(&pool)).count()
    };
    assert_eq!(offered(Some(2 * GWEI)), 2);
    assert_eq!(offered(Some(2 * GWEI + 1)), 1);
    assert_eq!(offered(None), 1);
}

#[test]
fn blobs_are_paid_as_well() {
    let mut pool = Pool::default();
    let transaction = TxEip4844 { gas_limit: 0, ..with_fees(0, 2, [1, 1, 1]) };
    let cost = 2 * 131_072 * GWEI as u64 + 1;
    let offered = with_blobs(transaction, SENDER);
    let refusal = pool.insert(offered.clone(), with_balance(cost - 1)).unwrap_err();
    assert_eq!(refusal.reason, Reason::InsufficientFunds);
    let poor = with_balance(cost - 1).unwrap();
    let refusal = check_sender(offered.transaction(), Some(&poor)).unwrap_err();
    assert_eq!(refusal.reason, Reason::InsufficientFunds);
    pool.insert(offered, with_balance(cost)).unwrap();
}
