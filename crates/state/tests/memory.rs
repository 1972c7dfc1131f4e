//! The complete state in memory.

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use preconf_state::{Account, AccountDiff, Diff, MemoryState, StateReader};

fn address(n: u8) -> Address {
    Address::with_last_byte(n)
}

fn from_genesis() -> MemoryState {
    let code = Bytes::from_static(&[0x60, 0x00]);
    let storage =
        [(B256::with_last_byte(1), B256::with_last_byte(7)), (B256::with_last_byte(2), B256::ZERO)];
    let rich = GenesisAccount::default().with_balance(U256::from(5)).with_nonce(Some(3));
    let contract =
        GenesisAccount::default().with_code(Some(code)).with_storage(Some(storage.into()));
    MemoryState::from_genesis([(&address(1), &rich), (&address(2), &contract)])
}

#[test]
fn a_genesis_file_becomes_accounts_code_and_non_zero_slots() {
    let state = from_genesis();
    let rich = state.account(address(1)).unwrap().unwrap();
    assert_eq!((rich.nonce, rich.balance, rich.has_code()), (3, U256::from(5), false));
    let contract = state.account(address(2)).unwrap().unwrap();
    assert_eq!(contract.code_hash, keccak256([0x60, 0x00]));
    assert_eq!(state.code(contract.code_hash).unwrap().original_byte_slice(), [0x60, 0x00]);
    assert_eq!(state.slot(address(2), U256::ONE), Ok(U256::from(7)));
    assert_eq!(state.account(address(3)), Ok(None));
    let slots: Vec<_> = state.iter().map(|(owner, _, slots)| (owner, slots.count())).collect();
    assert_eq!(slots, [(address(1), 0), (address(2), 1)]);
}

#[test]
fn code_that_only_looks_like_a_delegation_is_kept_as_it_is() {
    let code = Bytes::from_static(&[0xef, 0x01, 0x00, 0x01]);
    let account = GenesisAccount::default().with_code(Some(code.clone()));
    let state = MemoryState::from_genesis([(&address(1), &account)]);
    assert_eq!(state.code(keccak256(&code)).unwrap().original_bytes(), code);
}

#[test]
fn a_diff_is_applied_to_a_clone_without_touching_the_original() {
    let before = from_genesis();
    let mut after = before.clone();
    let account = Some(Account { nonce: 1, ..Account::default() });
    let write = |slot: u64, value: u64| [(U256::from(slot), U256::from(value))].into_iter();
    let accounts = [
        (address(1), AccountDiff { account: None, wiped: true, ..AccountDiff::default() }),
        (address(2), AccountDiff { account, wiped: false, slots: write(1, 0).collect() }),
        (address(3), AccountDiff { account, wiped: true, slots: write(4, 4).collect() }),
    ];
    after.apply(&Diff { accounts: accounts.into_iter().collect(), ..Diff::default() });

    let owners: Vec<_> =
        after.iter().map(|(owner, _, slots)| (owner, slots.collect::<Vec<_>>())).collect();
    assert_eq!(owners, [(address(2), vec![]), (address(3), vec![(U256::from(4), U256::from(4))])]);
    assert_eq!(before, from_genesis());
}
