//! Reading the state after a pending block.

use alloy_primitives::{Address, B256, Bytes, U256};
use preconf_state::{NeedState, StateReader};

/// What an account has.
pub(crate) fn balance(state: &impl StateReader, address: Address) -> Result<U256, NeedState> {
    Ok(state.account(address)?.unwrap_or_default().balance)
}

/// The nonce of an account's next transaction.
pub(crate) fn nonce(state: &impl StateReader, address: Address) -> Result<u64, NeedState> {
    Ok(state.account(address)?.unwrap_or_default().nonce)
}

/// The code of an account, empty if it has none.
pub(crate) fn code(state: &impl StateReader, address: Address) -> Result<Bytes, NeedState> {
    let Some(account) = state.account(address)?.filter(|account| account.has_code()) else {
        return Ok(Bytes::new());
    };
    Ok(state.code(account.code_hash)?.original_bytes())
}

/// A slot of an account's storage, as 32 bytes.
pub(crate) fn slot(
    state: &impl StateReader,
    address: Address,
    slot: U256,
) -> Result<B256, NeedState> {
    state.slot(address, slot).map(B256::from)
}
