//! The overlay against a naive model: two plain maps that are simply overwritten.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, U256, keccak256};
use preconf_state::{
    Account, AccountDiff, Diff, Key, MemoryState, NeedState, Overlay, StateReader,
};
use proptest::{collection::vec, prelude::*};
use revm::{
    Database, DatabaseCommit,
    bytecode::Bytecode,
    state::{Account as Touched, EvmState, EvmStorageSlot, TransactionId},
};

const ADDRESSES: u8 = 5;
const SLOTS: u8 = 4;

#[derive(Clone, Debug)]
enum Change {
    Pay { wei: u64 },
    Write { slot: u8, value: u8 },
    Create { code: u8, slot: u8, value: u8 },
    Destroy,
    EmptyAndTouch,
    Touch,
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Change)>),
    Freeze,
    Push { address: u8, nonce: u64, wiped: bool, slot: u8, value: u8 },
    BeginBlock,
    Fork,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1_u64..1_000).prop_map(|wei| Change::Pay { wei }),
        6 => (0..SLOTS, 0_u8..3).prop_map(|(slot, value)| Change::Write { slot, value }),
        2 => (0_u8..3, 0..SLOTS, 0_u8..3)
            .prop_map(|(code, slot, value)| Change::Create { code, slot, value }),
        1 => Just(Change::Destroy),
        1 => Just(Change::EmptyAndTouch),
        1 => Just(Change::Touch),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((0..ADDRESSES, change()), 1..4).prop_map(Step::Commit),
        3 => Just(Step::Freeze),
        1 => (0..ADDRESSES, 1_u64..9, any::<bool>(), 0..SLOTS, 0_u8..3).prop_map(
            |(address, nonce, wiped, slot, value)| Step::Push {
                address, nonce, wiped, slot, value
            }
        ),
        1 => Just(Step::BeginBlock),
        1 => Just(Step::Fork),
    ]
}

fn address(n: u8) -> Address {
    Address::with_last_byte(n + 1)
}

/// What a plain map says the state is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    accounts: BTreeMap<Address, Account>,
    slots: BTreeMap<(Address, U256), U256>,
}

impl Model {
    fn wipe(&mut self, address: Address) {
        self.slots.retain(|(owner, _), _| *owner != address);
    }

    fn write(&mut self, address: Address, slot: U256, value: U256) {
        if value.is_zero() {
            self.slots.remove(&(address, slot));
        } else {
            self.slots.insert((address, slot), value);
        }
    }

    fn of(state: &MemoryState) -> Self {
        let mut model = Self::default();
        for (address, account, slots) in state.iter() {
            model.accounts.insert(address, account);
            model.slots.extend(slots.map(|(slot, value)| ((address, slot), value)));
        }
        model
    }
}

fn base() -> MemoryState {
    let mut diff = Diff::default();
    for n in 0..3 {
        let account = Account { nonce: 1, balance: U256::from(100 + n), ..Account::default() };
        let slots = (0..SLOTS).map(|slot| (U256::from(slot), U256::from(slot))).collect();
        let change = AccountDiff { account: Some(account), wiped: false, slots };
        diff.accounts.insert(address(n), change);
    }
    let mut state = MemoryState::default();
    state.apply(&diff);
    state
}

/// Does to overlay and model what an executor would do: load, alter, hand over.
fn commit(overlay: &mut Overlay<MemoryState>, model: &mut Model, owner: Address, change: &Change) {
    let loaded = overlay.basic(owner).unwrap();
    let mut touched = match loaded {
        Some(info) => Touched::from(info),
        None => Touched::new_not_existing(TransactionId::ZERO),
    };
    touched.mark_touch();
    match *change {
        Change::Pay { wei } => {
            touched.info.balance += U256::from(wei);
            model.accounts.entry(owner).or_default().balance += U256::from(wei);
        }
        Change::Write { slot, value } => {
            if touched.is_empty() {
                return;
            }
            let (slot, value) = (U256::from(slot), U256::from(value));
            let original = overlay.storage(owner, slot).unwrap();
            let change = EvmStorageSlot::new_changed(original, value, TransactionId::ZERO);
            touched.storage.insert(slot, change);
            model.write(owner, slot, value);
        }
        Change::Create { code, slot, value } => {
            touched.mark_created();
            let code = Bytecode::new_legacy(vec![code].into());
            let (slot, value) = (U256::from(slot), U256::from(value));
            touched.info.nonce = 1;
            touched.info.code_hash = code.hash_slow();
            touched.info.code = Some(code);
            let change = EvmStorageSlot::new_changed(U256::ZERO, value, TransactionId::ZERO);
            touched.storage.insert(slot, change);
            model.accounts.insert(owner, Account::from(&touched.info));
            model.wipe(owner);
            model.write(owner, slot, value);
        }
        Change::Destroy => {
            touched.selfdestruct();
            touched.mark_selfdestruct();
            model.accounts.remove(&owner);
            model.wipe(owner);
        }
        Change::EmptyAndTouch => {
            touched.info = Default::default();
            model.accounts.remove(&owner);
            model.wipe(owner);
        }
        Change::Touch => {
            if touched.is_empty() {
                model.accounts.remove(&owner);
                model.wipe(owner);
            }
        }
    }
    overlay.commit(EvmState::from_iter([(owner, touched)]));
}

fn assert_reads(overlay: &Overlay<MemoryState>, model: &Model) {
    for owner in (0..ADDRESSES).map(address) {
        let account = overlay.account(owner).unwrap();
        assert_eq!(account, model.accounts.get(&owner).copied());
        if let Some(account) = account {
            assert_eq!(overlay.code(account.code_hash).unwrap().hash_slow(), account.code_hash);
        }
        for slot in (0..SLOTS).map(U256::from) {
            let expected = model.slots.get(&(owner, slot)).copied().unwrap_or_default();
            assert_eq!(overlay.slot(owner, slot).unwrap(), expected);
        }
    }
}

proptest! {
    #[test]
    fn an_overlay_reads_like_a_map_that_was_overwritten(steps in vec(step(), 1..40)) {
        let base = base();
        let mut overlay = Overlay::new(base.clone());
        let mut model = Model::of(&base);
        let mut published = base.clone();
        let mut block_start = base.clone();
        let mut fork = None;
        for step in steps {
            match step {
                Step::Commit(changes) => for (owner, change) in changes {
                    commit(&mut overlay, &mut model, address(owner), &change);
                },
                Step::Freeze => {
                    published.apply(&overlay.freeze());
                    assert_eq!(Model::of(&published), model);
                    assert!(overlay.head().is_empty());
                }
                Step::Push { address: n, nonce, wiped, slot, value } => {
                    let owner = address(n);
                    let account = Account { nonce, ..Account::default() };
                    let (slot, value) = (U256::from(slot), U256::from(value));
                    let slots = [(slot, value)].into_iter().collect();
                    let change = AccountDiff { account: Some(account), wiped, slots };
                    let layer = Diff {
                        accounts: [(owner, change)].into_iter().collect(),
                        ..Diff::default()
                    };
                    published.apply(&overlay.freeze());
                    published.apply(&layer);
                    overlay.push_layer(Arc::new(layer));
                    if wiped {
                        model.wipe(owner);
                    }
                    model.accounts.insert(owner, account);
                    model.write(owner, slot, value);
                }
                Step::BeginBlock => {
                    published.apply(&overlay.freeze());
                    overlay.begin_block();
                    assert!(overlay.block_diff().is_empty());
                    block_start = published.clone();
                }
                Step::Fork => fork = Some((overlay.clone(), model.clone())),
            }
            assert_reads(&overlay, &model);
        }
        if let Some((overlay, model)) = fork {
            assert_reads(&overlay, &model);
        }
        let mut replayed = base;
        replayed.apply(&overlay.diff());
        assert_eq!(Model::of(&replayed), model);
        block_start.apply(&overlay.block_diff());
        assert_eq!(Model::of(&block_start), model);
    }
}

#[test]
fn what_was_only_read_or_written_without_effect_is_not_a_change() {
    let mut overlay = Overlay::new(base());
    let owner = address(0);
    let info = overlay.basic(owner).unwrap().unwrap();
    let read = Touched::from(info.clone());
    let mut rewritten = Touched::from(info).with_touched_mark();
    let slot = EvmStorageSlot::new_changed(U256::ONE, U256::ONE, TransactionId::ZERO);
    rewritten.storage.insert(U256::ONE, slot);
    let touched_in_vain = Touched::new_not_existing(TransactionId::ZERO).with_touched_mark();

    overlay.commit(EvmState::from_iter([(owner, read)]));
    overlay.commit(EvmState::from_iter([(owner, rewritten), (address(4), touched_in_vain)]));

    assert!(overlay.freeze().is_empty());
}

#[test]
fn code_is_recorded_when_an_account_gains_it_and_not_when_it_merely_runs() {
    let mut overlay = Overlay::new(base());
    let code = Bytecode::new_legacy(vec![0x5b].into());
    let mut created = Touched::new_not_existing(TransactionId::ZERO).with_touched_mark();
    created.mark_created();
    created.info.code_hash = code.hash_slow();
    created.info.code = Some(code.clone());
    overlay.commit(EvmState::from_iter([(address(4), created)]));
    assert_eq!(overlay.freeze().codes.get(&code.hash_slow()), Some(&code));

    let mut info = overlay.basic(address(4)).unwrap().unwrap();
    info.code = Some(code);
    let mut paid = Touched::from(info).with_touched_mark();
    paid.info.balance = U256::ONE;
    overlay.commit(EvmState::from_iter([(address(4), paid)]));
    let diff = overlay.freeze();
    assert_eq!(diff.accounts.len(), 1);
    assert!(diff.codes.is_empty());
}

/// Knows nothing.
#[derive(Debug)]
struct Nothing;

impl StateReader for Nothing {
    fn account(&self, address: Address) -> Result<Option<Account>, NeedState> {
        Err(NeedState(Key::Account(address)))
    }

    fn slot(&self, address: Address, slot: U256) -> Result<U256, NeedState> {
        Err(NeedState(Key::Slot(address, slot)))
    }

    fn code(&self, hash: B256) -> Result<Bytecode, NeedState> {
        Err(NeedState(Key::Code(hash)))
    }

    fn block_hash(&self, number: u64) -> Result<B256, NeedState> {
        Err(NeedState(Key::BlockHash(number)))
    }
}

#[test]
fn every_failed_read_of_an_executor_is_remembered_once_until_it_is_taken() {
    let mut overlay = Overlay::new(Nothing);
    let hash = keccak256("code");
    let owner = address(0);
    assert!(overlay.basic(owner).is_err());
    assert!(overlay.basic(owner).is_err());
    assert!(overlay.storage(owner, U256::ONE).is_err());
    assert!(overlay.code_by_hash(hash).is_err());
    assert!(Database::block_hash(&mut overlay, 7).is_err());

    let mut keys =
        [Key::Account(owner), Key::Slot(owner, U256::ONE), Key::Code(hash), Key::BlockHash(7)];
    keys.sort();
    assert_eq!(overlay.take_missing(), keys);
    assert_eq!(overlay.take_missing(), []);
}

#[test]
fn a_wiped_account_answers_for_slots_it_does_not_mention() {
    let mut overlay = Overlay::new(Nothing);
    let change = AccountDiff { wiped: true, ..AccountDiff::default() };
    let layer = Diff { accounts: [(address(0), change)].into_iter().collect(), ..Diff::default() };
    overlay.push_layer(Arc::new(layer));
    assert_eq!(overlay.slot(address(0), U256::ONE), Ok(U256::ZERO));
    assert_eq!(overlay.account(address(0)), Ok(None));
}

#[test]
fn the_hash_of_a_pending_block_is_answered_without_the_reader() {
    let mut overlay = Overlay::new(Nothing);
    overlay.set_block_hash(9, B256::with_last_byte(9));
    assert_eq!(StateReader::block_hash(&overlay, 9), Ok(B256::with_last_byte(9)));
    assert_eq!(StateReader::block_hash(&overlay, 8), Err(NeedState(Key::BlockHash(8))));
}
