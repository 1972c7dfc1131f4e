//! What may wait, and what is tried next.

use preconf_assembly::{Pool, PoolLimits, Selection};
use preconf_chain::Transaction;
use preconf_primitives::TransactionRefusalReason as Reason;

use crate::chain::{BASE_FEE, Transfer, account, signer};

fn pool() -> Pool {
    Pool::new(PoolLimits::default())
}

fn offer(pool: &mut Pool, transfer: Transfer) -> Result<(), Reason> {
    let taken = pool.insert(transfer.sign(), account(100));
    taken.map(|_| ()).map_err(|refusal| refusal.reason)
}

/// Sender and nonce of everything a block would take, if all of it can be executed.
fn order(pool: &Pool) -> Vec<(u8, u64)> {
    let mut selection = pool.select(BASE_FEE);
    drain(pool, &mut selection)
}

fn drain(pool: &Pool, selection: &mut Selection) -> Vec<(u8, u64)> {
    let mut order = Vec::new();
    while let Some(transaction) = selection.next(pool) {
        let (number, nonce) = name(&transaction);
        selection.included(pool, transaction.signer(), nonce);
        order.push((number, nonce));
    }
    order
}

fn name(transaction: &Transaction) -> (u8, u64) {
    use alloy_consensus::Transaction as _;
    let number = (1..=9).find(|number| signer(*number).address() == transaction.signer());
    (number.unwrap(), transaction.envelope().nonce())
}

#[test]
fn a_better_tip_goes_first_but_never_before_its_senders_earlier_nonce() {
    let mut pool = pool();
    offer(&mut pool, Transfer::new(1, 1, 9)).unwrap();
    offer(&mut pool, Transfer::new(2, 0, 5)).unwrap();
    offer(&mut pool, Transfer::new(1, 0, 2)).unwrap();
    offer(&mut pool, Transfer::new(3, 0, 1)).unwrap();
    assert_eq!(order(&pool), [(2, 0), (1, 0), (1, 1), (3, 0)]);
}

#[test]
fn of_equal_tips_the_earlier_goes_first() {
    let mut pool = pool();
    for sender in [4, 2, 3] {
        offer(&mut pool, Transfer::new(sender, 0, 1)).unwrap();
    }
    assert_eq!(order(&pool), [(4, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_nonce_gap_parks_what_is_behind_it() {
    let mut pool = pool();
    offer(&mut pool, Transfer::new(1, 1, 1)).unwrap();
    assert_eq!(order(&pool), []);
    assert_eq!(pool.next_nonce(&signer(1).address()), None);
    offer(&mut pool, Transfer::new(1, 0, 1)).unwrap();
    assert_eq!(order(&pool), [(1, 0), (1, 1)]);
    assert_eq!(pool.next_nonce(&signer(1).address()), Some(2));
}

#[test]
fn a_transaction_that_arrives_joins_the_running_selection() {
    let mut pool = pool();
    let mut selection = pool.select(BASE_FEE);
    assert!(selection.next(&pool).is_none());
    offer(&mut pool, Transfer::new(1, 0, 1)).unwrap();
    selection.arrived(&pool, signer(1).address(), 0);
    offer(&mut pool, Transfer::new(1, 1, 1)).unwrap();
    selection.arrived(&pool, signer(1).address(), 1);
    assert_eq!(drain(&pool, &mut selection), [(1, 0), (1, 1)]);
}

#[test]
fn a_replacement_must_raise_both_fees_by_ten_percent() {
    let mut pool = pool();
    let held = Transfer { fee_gwei: 100, ..Transfer::new(1, 0, 10) };
    offer(&mut pool, held).unwrap();
    for (tip_gwei, fee_gwei) in [(11, 109), (10, 110), (10, 200)] {
        let refused = offer(&mut pool, Transfer { tip_gwei, fee_gwei, ..held });
        assert_eq!(refused, Err(Reason::ReplacementUnderpriced), "{tip_gwei} {fee_gwei}");
    }
    let better = Transfer { tip_gwei: 11, fee_gwei: 110, ..held };
    offer(&mut pool, better).unwrap();
    assert_eq!(pool.len(), 1);
    assert!(pool.get(held.sign().hash()).is_none());
    assert!(pool.get(better.sign().hash()).is_some());
}

#[test]
fn a_replaced_candidate_is_not_selected() {
    let mut pool = pool();
    let held = Transfer { fee_gwei: 100, ..Transfer::new(1, 0, 10) };
    offer(&mut pool, held).unwrap();
    let mut selection = pool.select(BASE_FEE);
    let better = Transfer { tip_gwei: 20, fee_gwei: 200, ..held };
    offer(&mut pool, better).unwrap();
    selection.arrived(&pool, signer(1).address(), 0);
    assert_eq!(selection.next(&pool).unwrap().hash(), better.sign().hash());
    assert!(selection.next(&pool).is_none());
}

#[test]
fn what_cannot_be_executed_is_refused_with_its_reason() {
    let mut pool = pool();
    offer(&mut pool, Transfer::new(1, 0, 1)).unwrap();
    assert_eq!(offer(&mut pool, Transfer::new(1, 0, 1)), Err(Reason::AlreadyKnown));
    assert_eq!(offer(&mut pool, Transfer::new(2, 65, 1)), Err(Reason::NonceGapTooLarge));
    let poor = pool.insert(Transfer::new(3, 0, 1).sign(), None).unwrap_err();
    assert_eq!(poor.reason, Reason::InsufficientFunds);
    pool.mined(&signer(1).address(), 0);
    offer(&mut pool, Transfer::new(1, 2, 1)).unwrap();
    let stale = pool.insert(
        Transfer::new(4, 0, 1).sign(),
        account(1).map(|mut account| {
            account.nonce = 1;
            account
        }),
    );
    assert_eq!(stale.unwrap_err().reason, Reason::NonceTooLow);
}

#[test]
fn who_does_not_pay_the_base_fee_waits() {
    let mut pool = pool();
    let cheap = Transfer { fee_gwei: 0, ..Transfer::new(1, 0, 0) };
    offer(&mut pool, cheap).unwrap();
    assert_eq!(order(&pool), []);
    assert_eq!(drain(&pool, &mut pool.select(0_u64)), [(1, 0)]);
}

#[test]
fn a_canonical_nonce_ends_what_used_it_and_opens_what_follows() {
    let mut pool = pool();
    for nonce in 0..3 {
        offer(&mut pool, Transfer::new(1, nonce, 1)).unwrap();
    }
    pool.mined(&signer(1).address(), 1);
    assert_eq!(pool.len(), 1);
    assert_eq!(order(&pool), [(1, 2)]);
}

#[test]
fn a_full_pool_keeps_the_better_ones() {
    let mut pool = Pool::new(PoolLimits { transactions: 2, ..PoolLimits::default() });
    offer(&mut pool, Transfer::new(1, 0, 1)).unwrap();
    offer(&mut pool, Transfer::new(2, 0, 5)).unwrap();
    assert_eq!(offer(&mut pool, Transfer::new(3, 0, 1)), Err(Reason::PoolFull));
    offer(&mut pool, Transfer::new(3, 0, 2)).unwrap();
    assert_eq!(order(&pool), [(2, 0), (3, 0)]);
}

#[test]
fn one_sender_cannot_fill_the_pool() {
    let mut pool = Pool::new(PoolLimits { per_sender: 2, ..PoolLimits::default() });
    offer(&mut pool, Transfer::new(1, 0, 1)).unwrap();
    offer(&mut pool, Transfer::new(1, 1, 1)).unwrap();
    assert_eq!(offer(&mut pool, Transfer::new(1, 2, 1)), Err(Reason::PoolFull));
    offer(&mut pool, Transfer::new(2, 0, 1)).unwrap();
}
