//! "What if": state as a caller wants it to be.

use std::collections::BTreeMap;

use alloy_evm::precompiles::PrecompilesMap;
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_rpc_types_eth::state::{AccountOverride, StateOverride};
use preconf_state::{AccountDiff, Diff, NeedState, StateReader};
use revm::{
    bytecode::Bytecode,
    context::{ContextTr as _, JournalTr as _},
    precompile::{PrecompileSpecId, Precompiles as ForkPrecompiles},
    primitives::hardfork::SpecId,
};

use super::CallError;
use crate::executor::Machine;

/// Why a wish cannot be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverride {
    /// The two ways to say what is in the storage exclude each other.
    #[error("account {0} has both 'state' and 'stateDiff'")]
    StateAndDiff(Address),
    /// Only precompiles can be moved.
    #[error("account {0} is not a precompile")]
    NotAPrecompile(Address),
    /// A precompile cannot be moved to where something else is wanted.
    #[error("account {0} is already overridden")]
    AlreadyOverridden(Address),
    /// No block can hold so large a value.
    #[error("block override \"{0}\" does not fit a header")]
    TooLarge(&'static str),
    /// The wish means nothing to this method.
    #[error("block override \"{0}\" is not supported for this RPC method")]
    Unsupported(&'static str),
}

/// A state override, read: what changes, and where precompiles go.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateChange {
    pub(crate) diff: Diff,
    pub(crate) precompiles: Precompiles,
}

/// Which precompiles are not where the fork has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precompiles {
    /// Where there is none any more: whatever is overridden is an account like any other.
    gone: Vec<Address>,
    /// From where to where.
    moved: Vec<(Address, Address)>,
}

impl StateChange {
    /// Reads what is wanted of `state`. Precompiles are those of `fork`.
    pub(crate) fn read(
        wanted: &StateOverride,
        fork: SpecId,
        state: &impl StateReader,
    ) -> Result<Self, CallError> {
        let known = ForkPrecompiles::new(PrecompileSpecId::from_spec_id(fork));
        let mut read = Self::default();
        // In order, so that of two mistakes it is always the same one that is named.
        for (address, account) in wanted.iter().collect::<BTreeMap<_, _>>() {
            if let Some(target) = account.move_precompile_to {
                if !known.contains(address) {
                    return Err(InvalidOverride::NotAPrecompile(*address).into());
                }
                if wanted.contains_key(&target) {
                    return Err(InvalidOverride::AlreadyOverridden(target).into());
                }
                read.precompiles.moved.push((*address, target));
            }
            if known.contains(address) {
                read.precompiles.gone.push(*address);
            }
            read.account(*address, account, state)?;
        }
        Ok(read)
    }

    fn account(
        &mut self,
        address: Address,
        wanted: &AccountOverride,
        state: &impl StateReader,
    ) -> Result<(), CallError> {
        let AccountOverride { balance, nonce, code, state: all, state_diff, move_precompile_to: _ } =
            wanted;
        if all.is_some() && state_diff.is_some() {
            return Err(InvalidOverride::StateAndDiff(address).into());
        }
        let account_stays = balance.is_none() && nonce.is_none() && code.is_none();
        if account_stays && all.is_none() && state_diff.is_none() {
            return Ok(());
        }
        let read = state.account(address);
        let mut account = read.map_err(|NeedState(key)| CallError::NeedState(vec![key]))?;
        let account = account.get_or_insert_default();
        account.balance = balance.unwrap_or(account.balance);
        account.nonce = nonce.unwrap_or(account.nonce);
        if let Some(code) = code {
            account.code_hash = keccak256(code);
            // Bytes that only look like a delegation are code that stops at its first byte.
            let code = Bytecode::new_raw_checked(code.clone())
                .unwrap_or_else(|_| Bytecode::new_legacy(code.clone()));
            self.diff.codes.insert(account.code_hash, code);
        }
        let slots = all.iter().chain(state_diff).flatten();
        let change = AccountDiff {
            account: Some(*account),
            wiped: all.is_some(),
            slots: slots.map(|(slot, value)| (word(slot), word(value))).collect(),
        };
        self.diff.accounts.insert(address, change);
        Ok(())
    }
}

impl Precompiles {
    /// The precompiles of a fork after the moves; `None` if nothing moves.
    pub(crate) fn map(&self, fork: SpecId) -> Option<PrecompilesMap> {
        if self.gone.is_empty() {
            return None;
        }
        let known = ForkPrecompiles::new(PrecompileSpecId::from_spec_id(fork));
        let mut map = PrecompilesMap::from_static(known);
        let mut taken = BTreeMap::new();
        for address in &self.gone {
            map.apply_precompile(address, |precompile| {
                taken.insert(*address, precompile);
                None
            });
        }
        for (from, to) in &self.moved {
            let precompile = taken.remove(from).flatten();
            map.apply_precompile(to, |_| precompile);
        }
        Some(map)
    }
}

/// Keeps warm what the fork keeps warm, wherever its precompiles are now, and nothing else: that is
/// decided by the rules and not by where precompiles are found.
pub(crate) fn keep_warm<R: StateReader, I>(machine: &mut Machine<R, I>, fork: SpecId) {
    let known = ForkPrecompiles::new(PrecompileSpecId::from_spec_id(fork));
    machine.ctx_mut().journal_mut().warm_precompiles(known.addresses_set());
}

/// A number of the caller's that has to fit a header.
pub(crate) fn small<T: TryFrom<U256>>(
    field: &'static str,
    value: U256,
) -> Result<T, InvalidOverride> {
    T::try_from(value).map_err(|_| InvalidOverride::TooLarge(field))
}

fn word(bytes: &B256) -> U256 {
    U256::from_be_bytes(bytes.0)
}
