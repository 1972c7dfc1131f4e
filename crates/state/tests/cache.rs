//! The cache: no view ever shows another block's value, and the bound holds.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256, keccak256};
use preconf_state::{
    Account, AccountDiff, Diff, Key, NeedState, StateCache, StateReader, Value, cache::MIN_CAPACITY,
};
use proptest::{collection::vec, prelude::*};
use revm::bytecode::Bytecode;

fn address(n: u64) -> Address {
    Address::left_padding_from(&n.to_be_bytes())
}

fn account(nonce: u64) -> Option<Account> {
    Some(Account { nonce, ..Account::default() })
}

fn hash(n: u64) -> B256 {
    keccak256(n.to_be_bytes())
}

fn cache() -> StateCache {
    StateCache::new(10, hash(10), MIN_CAPACITY)
}

fn diff(changes: impl IntoIterator<Item = (Address, AccountDiff)>) -> Diff {
    Diff { accounts: changes.into_iter().collect(), ..Diff::default() }
}

#[test]
fn a_read_that_was_never_inserted_names_its_key() {
    let cache = cache();
    assert_eq!(cache.account(address(1)), Err(NeedState(Key::Account(address(1)))));
    cache.insert(Key::Account(address(1)), Value::Account(None));
    assert_eq!(cache.account(address(1)), Ok(None));
}

#[test]
fn a_value_of_another_kind_than_its_key_is_ignored() {
    let cache = cache();
    cache.insert(Key::Account(address(1)), Value::Slot(U256::ONE));
    assert!(cache.is_empty());
}

#[test]
fn an_advanced_view_keeps_what_did_not_change_and_the_old_view_stays() {
    let old = cache();
    for n in 1..=2 {
        old.insert(Key::Account(address(n)), Value::Account(account(1)));
        old.insert(Key::Slot(address(n), U256::ONE), Value::Slot(U256::from(5)));
    }
    let slots = [(U256::ONE, U256::from(6))].into_iter().collect();
    let change = AccountDiff { account: account(2), wiped: false, slots };
    let new = old.advance(&diff([(address(1), change)]), 11, hash(11));

    assert_eq!(new.block(), (11, hash(11)));
    assert_eq!(new.account(address(1)), Ok(account(2)));
    assert_eq!(new.slot(address(1), U256::ONE), Ok(U256::from(6)));
    assert_eq!(new.account(address(2)), Ok(account(1)));
    assert_eq!(old.account(address(1)), Ok(account(1)));
    assert_eq!(old.slot(address(1), U256::ONE), Ok(U256::from(5)));
}

#[test]
fn a_fetch_for_an_old_block_that_arrives_late_does_not_reach_the_new_one() {
    let old = cache();
    let change = AccountDiff { account: account(2), ..AccountDiff::default() };
    let new = old.advance(&diff([(address(1), change)]), 11, hash(11));
    old.insert(Key::Account(address(1)), Value::Account(account(1)));
    new.insert(Key::Account(address(1)), Value::Account(account(9)));
    assert_eq!(old.account(address(1)), Ok(account(1)));
    assert_eq!(new.account(address(1)), Ok(account(2)));
}

#[test]
fn a_wiped_account_has_no_old_slots() {
    let old = cache();
    old.insert(Key::Slot(address(1), U256::ONE), Value::Slot(U256::from(5)));
    let change = AccountDiff { account: None, wiped: true, ..AccountDiff::default() };
    let new = old.advance(&diff([(address(1), change)]), 11, hash(11));
    assert_eq!(new.slot(address(1), U256::ONE), Ok(U256::ZERO));
    assert_eq!(new.slot(address(1), U256::from(2)), Ok(U256::ZERO));
}

#[test]
fn two_children_of_one_block_do_not_see_each_other() {
    let parent = cache();
    let child = |nonce, id| {
        let change = AccountDiff { account: account(nonce), ..AccountDiff::default() };
        parent.advance(&diff([(address(1), change)]), 11, hash(id))
    };
    let (left, right) = (child(2, 11), child(3, 111));
    assert_eq!(left.account(address(1)), Ok(account(2)));
    assert_eq!(right.account(address(1)), Ok(account(3)));
    assert_eq!(left.block_hash(11), Ok(hash(11)));
    assert_eq!(right.block_hash(11), Ok(hash(111)));
    assert!(parent.block_hash(11).is_err());
}

#[test]
fn block_hashes_accumulate_from_block_to_block_and_are_bounded() {
    let mut view = cache();
    view.insert(Key::BlockHash(9), Value::BlockHash(hash(9)));
    view.insert(Key::BlockHash(10), Value::BlockHash(B256::ZERO));
    for n in 11..=300 {
        view = view.advance(&Diff::default(), n, hash(n));
    }
    for n in 9..=300 {
        assert_eq!(view.block_hash(n), Ok(hash(n)));
    }
    for n in 301..=2_000 {
        view = view.advance(&Diff::default(), n, hash(n));
    }
    assert!(view.block_hash(300).is_err());
    assert_eq!(view.block_hash(2_000 - 256), Ok(hash(2_000 - 256)));
}

#[test]
fn the_capacity_holds_and_what_is_read_often_stays() {
    let cache = cache();
    let favourite = Key::Account(address(u64::MAX));
    cache.insert(favourite, Value::Account(account(1)));
    for n in 0..10 * MIN_CAPACITY as u64 {
        cache.insert(Key::Account(address(n)), Value::Account(None));
        assert_eq!(cache.account(address(u64::MAX)), Ok(account(1)));
        assert!(cache.len() <= MIN_CAPACITY);
    }
    assert!(cache.account(address(0)).is_err());
}

#[test]
fn code_weighs_more_than_an_account() {
    let cache = cache();
    for n in 0..1_000_u32 {
        let mut code = vec![0x5b; 24_576];
        code[..4].copy_from_slice(&n.to_be_bytes());
        let code = Bytecode::new_legacy(code.into());
        cache.insert(Key::Code(code.hash_slow()), Value::Code(code.clone()));
        assert!(cache.code(code.hash_slow()).is_ok());
        assert!(cache.len() <= MIN_CAPACITY);
    }
}

#[test]
fn many_blocks_of_changes_are_folded_and_stay_bounded() {
    let mut view = cache();
    for n in 0..200_u64 {
        let changes = (0..100).map(|m| {
            let change = AccountDiff { account: account(n), ..AccountDiff::default() };
            (address(n * 100 + m), change)
        });
        view = view.advance(&diff(changes), 11 + n, hash(11 + n));
        assert_eq!(view.account(address(n * 100)), Ok(account(n)));
        assert!(view.len() <= MIN_CAPACITY + MIN_CAPACITY / 4);
    }
}

/// The state of one block on one branch, in full.
type Truth = BTreeMap<u64, (Option<Account>, BTreeMap<u64, u64>)>;

#[derive(Clone, Debug)]
enum Step {
    /// A fetch for some view is answered.
    Insert { view: usize, owner: u64, slot: Option<u64> },
    /// A block on top of some view.
    Advance { view: usize, changes: Vec<(u64, u64, bool, u64, u64)> },
    /// Much else is cached, so that things are evicted and folded.
    Flood { view: usize, from: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<usize>(), 0_u64..4, proptest::option::of(0_u64..3))
            .prop_map(|(view, owner, slot)| Step::Insert { view, owner, slot }),
        3 => (any::<usize>(), vec((0_u64..4, 1_u64..9, any::<bool>(), 0_u64..3, 0_u64..5), 0..4))
            .prop_map(|(view, changes)| Step::Advance { view, changes }),
        1 => (any::<usize>(), 1_000_u64..5_000).prop_map(|(view, from)| Step::Flood { view, from }),
    ]
}

fn advance(view: &StateCache, truth: &Truth, block: &Block) -> (StateCache, Truth) {
    let mut truth = truth.clone();
    let mut diff = Diff::default();
    for (owner, nonce, wiped, slot, value) in &block.changes {
        let stored = truth.entry(*owner).or_default();
        if *wiped {
            stored.1.clear();
        }
        stored.0 = account(*nonce);
        stored.1.insert(*slot, *value);
        let slots = [(U256::from(*slot), U256::from(*value))].into_iter().collect();
        let change = AccountDiff { account: account(*nonce), wiped: *wiped, slots };
        diff.merge(&self::diff([(address(*owner), change)]));
    }
    (view.advance(&diff, block.number, hash(block.number)), truth)
}

struct Block {
    number: u64,
    changes: Vec<(u64, u64, bool, u64, u64)>,
}

proptest! {
    #[test]
    fn whatever_a_view_answers_is_true_at_its_block(steps in vec(step(), 1..60)) {
        let mut views = vec![(cache(), Truth::new())];
        for (number, step) in (11..).zip(steps) {
            match step {
                Step::Insert { view, owner, slot } => {
                    let (view, truth) = &views[view % views.len()];
                    let stored = truth.get(&owner).cloned().unwrap_or_default();
                    match slot {
                        None => view.insert(Key::Account(address(owner)), Value::Account(stored.0)),
                        Some(slot) => {
                            let value = stored.1.get(&slot).copied().unwrap_or_default();
                            let key = Key::Slot(address(owner), U256::from(slot));
                            view.insert(key, Value::Slot(U256::from(value)));
                        }
                    }
                }
                Step::Advance { view, changes } => {
                    let (view, truth) = &views[view % views.len()];
                    let next = advance(view, truth, &Block { number, changes });
                    views.push(next);
                }
                Step::Flood { view, from } => {
                    let (view, truth) = &views[view % views.len()];
                    let changes = (from..from + 1_200).map(|n| (n, 1, false, 0, 1)).collect();
                    let next = advance(view, truth, &Block { number, changes });
                    views.push(next);
                }
            }
            for (view, truth) in &views {
                for owner in 0..4 {
                    let stored = truth.get(&owner).cloned().unwrap_or_default();
                    if let Ok(account) = view.account(address(owner)) {
                        prop_assert_eq!(account, stored.0);
                    }
                    for slot in 0..3 {
                        let value = stored.1.get(&slot).copied().unwrap_or_default();
                        if let Ok(read) = view.slot(address(owner), U256::from(slot)) {
                            prop_assert_eq!(read, U256::from(value));
                        }
                    }
                }
            }
        }
    }
}
