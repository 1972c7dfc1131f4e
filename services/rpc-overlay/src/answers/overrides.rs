//! "What if": state and environment as a caller of `eth_call` wants them to be.

use alloy_primitives::{B256, U256, keccak256, map::U256Map};
use alloy_rpc_types_eth::{
    BlockOverrides,
    state::{AccountOverride, StateOverride},
};
use preconf_evm::NextBlock;
use preconf_state::{AccountDiff, Diff, NeedState, StateReader};
use revm::bytecode::Bytecode;

use crate::failure::Failure;

/// The changes that turn `state` into what the caller wants it to be.
pub(crate) fn state(wanted: &StateOverride, state: &impl StateReader) -> Result<Diff, NeedState> {
    let mut diff = Diff::default();
    for (address, wanted) in wanted {
        let AccountOverride { balance, nonce, code, state: replaced, state_diff, .. } = wanted;
        let mut account = state.account(*address)?.unwrap_or_default();
        account.balance = balance.unwrap_or(account.balance);
        account.nonce = nonce.unwrap_or(account.nonce);
        if let Some(code) = code {
            account.code_hash = keccak256(code);
            let code = Bytecode::new_raw_checked(code.clone())
                .unwrap_or_else(|_| Bytecode::new_legacy(code.clone()));
            diff.codes.insert(account.code_hash, code);
        }
        let slots: U256Map<U256> = replaced
            .iter()
            .chain(state_diff)
            .flatten()
            .map(|(slot, value)| (word(slot), word(value)))
            .collect();
        let change = AccountDiff { account: Some(account), wiped: replaced.is_some(), slots };
        diff.accounts.insert(*address, change);
    }
    Ok(diff)
}

/// Refuses what would be ignored.
pub(crate) fn check(wanted: &StateOverride) -> Result<(), Failure> {
    for (address, account) in wanted {
        if account.state.is_some() && account.state_diff.is_some() {
            return Err(refused(format!("account {address} has both 'state' and 'stateDiff'")));
        }
        if account.move_precompile_to.is_some() {
            return Err(refused(format!("account {address}: precompiles cannot be moved here")));
        }
    }
    Ok(())
}

/// The environment as the caller wants it to be.
pub(crate) fn environment(
    wanted: &BlockOverrides,
    environment: &NextBlock,
) -> Result<NextBlock, Failure> {
    let BlockOverrides {
        number,
        difficulty: _, // Means nothing since the merge, as in geth.
        time,
        gas_limit,
        coinbase,
        random,
        base_fee,
        blob_base_fee,
        beacon_root,
        block_hash,
    } = wanted;
    if blob_base_fee.is_some() || beacon_root.is_some() || block_hash.is_some() {
        return Err(refused(
            "blobBaseFee, beaconRoot and blockHash cannot be overridden here".to_owned(),
        ));
    }
    let small = |name: &str, value: Option<U256>, current: u64| match value {
        Some(value) => {
            u64::try_from(value).map_err(|_| refused(format!("{name} does not fit a header")))
        }
        None => Ok(current),
    };
    Ok(NextBlock {
        number: small("number", *number, environment.number)?,
        base_fee_per_gas: small("baseFeePerGas", *base_fee, environment.base_fee_per_gas)?,
        timestamp: time.unwrap_or(environment.timestamp),
        gas_limit: gas_limit.unwrap_or(environment.gas_limit),
        fee_recipient: coinbase.unwrap_or(environment.fee_recipient),
        prev_randao: random.unwrap_or(environment.prev_randao),
        ..environment.clone()
    })
}

fn word(bytes: &B256) -> U256 {
    U256::from_be_bytes(bytes.0)
}

fn refused(reason: String) -> Failure {
    Failure::InvalidParams(reason)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};
    use preconf_state::{MemoryState, Overlay};

    use super::*;

    const WHO: Address = Address::repeat_byte(7);

    fn overridden(json: serde_json::Value) -> Overlay<MemoryState> {
        let balance = U256::from(10);
        let account = Some(preconf_state::Account { nonce: 3, balance, ..Default::default() });
        let slots = [(1, 11), (2, 22)].map(|(slot, value)| (U256::from(slot), U256::from(value)));
        let account = AccountDiff { account, wiped: false, slots: slots.into_iter().collect() };
        let mut before = Diff::default();
        before.accounts.insert(WHO, account);
        let mut memory = MemoryState::default();
        memory.apply(&before);
        let wanted: StateOverride = serde_json::from_value(json).unwrap();
        check(&wanted).unwrap();
        let diff = state(&wanted, &memory).unwrap();
        let mut overlay = Overlay::new(memory);
        overlay.push_layer(diff.into());
        overlay
    }

    fn slots(overlay: &Overlay<MemoryState>) -> [u64; 2] {
        [1, 2].map(|slot| overlay.slot(WHO, U256::from(slot)).unwrap().to())
    }

    #[test]
    fn what_is_not_overridden_stays() {
        let overlay = overridden(serde_json::json!({ WHO.to_string(): {
            "balance": "0x64", "code": "0x6001",
            "stateDiff": { B256::with_last_byte(1).to_string(): B256::with_last_byte(99) },
        }}));

        let account = overlay.account(WHO).unwrap().unwrap();

        assert_eq!((account.nonce, account.balance), (3, U256::from(100)));
        let code = overlay.code(account.code_hash).unwrap();
        assert_eq!(code.original_bytes(), Bytes::from_static(&[0x60, 0x01]));
        assert_eq!(slots(&overlay), [99, 22]);
    }

    #[test]
    fn a_replaced_storage_has_nothing_else() {
        let overlay = overridden(serde_json::json!({ WHO.to_string(): {
            "state": { B256::with_last_byte(2).to_string(): B256::with_last_byte(5) },
        }}));

        assert_eq!(slots(&overlay), [0, 5]);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for account in [
            serde_json::json!({ "state": {}, "stateDiff": {} }),
            serde_json::json!({ "movePrecompileToAddress": WHO }),
        ] {
            let wanted = serde_json::json!({ WHO.to_string(): account });
            let wanted: StateOverride = serde_json::from_value(wanted).unwrap();
            assert!(matches!(check(&wanted), Err(Failure::InvalidParams(_))));
        }
        let wanted = serde_json::from_value(serde_json::json!({"blobBaseFee": "0x1"})).unwrap();
        assert!(environment(&wanted, &NextBlock::default()).is_err());
    }

    #[test]
    fn the_environment_changes_where_it_is_overridden() {
        let before = NextBlock { number: 5, timestamp: 6, gas_limit: 7, ..Default::default() };
        let wanted = serde_json::json!({"number": "0x9", "baseFeePerGas": "0x1"});

        let after = environment(&serde_json::from_value(wanted).unwrap(), &before).unwrap();

        assert_eq!(after, NextBlock { number: 9, base_fee_per_gas: 1, ..before });
    }
}
