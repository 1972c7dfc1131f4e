//! What a transaction costs before it does anything, and the most that it may cost.
//!
//! Decides whether a gas limit is one that the fork takes (EIP-7825), and covers the least: the base,
//! the calldata and its floor (EIP-2028, EIP-7623), the initcode (EIP-3860), the access list and the
//! authorizations (EIP-7702). The numbers are those of the executor; there is no table here.

use alloy_consensus::Transaction as _;
use alloy_evm::{FromRecoveredTx, spec_by_timestamp_and_block_number};
use preconf_chain::{ChainSpec, Transaction};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason as Reason};
use revm::{
    context::{TxEnv, result::InvalidTransaction},
    handler::validation::validate_initial_tx_gas,
    primitives::{eip7825::TX_GAS_LIMIT_CAP, hardfork::SpecId},
};

/// Refuses a transaction whose gas limit is above what one may have in the block with this number and
/// time, or does not cover what every such transaction costs there.
///
/// # Errors
/// [`Reason::GasLimitTooHigh`] or [`Reason::IntrinsicGasTooLow`], with what it has and what it may
/// have or needs.
pub fn check_gas_limit(
    spec: &ChainSpec,
    number: u64,
    timestamp: u64,
    transaction: &Transaction,
) -> Result<(), TransactionRefusal> {
    let fork = spec_by_timestamp_and_block_number(spec, timestamp, number);
    let gas = transaction.envelope().gas_limit();
    if gas > TX_GAS_LIMIT_CAP && fork.is_enabled_in(SpecId::OSAKA) {
        let detail = format!("gas {gas}, a transaction may have {TX_GAS_LIMIT_CAP}");
        return Err(TransactionRefusal::new(Reason::GasLimitTooHigh, detail));
    }
    let tx = TxEnv::from_recovered_tx(transaction.envelope(), transaction.signer());
    let (have, want) = match validate_initial_tx_gas(&tx, fork, false, false, u64::MAX, None) {
        Ok(_) => return Ok(()),
        Err(InvalidTransaction::CallGasCostMoreThanGasLimit { gas_limit, initial_gas }) => {
            (gas_limit, initial_gas)
        }
        Err(InvalidTransaction::GasFloorMoreThanGasLimit { gas_limit, gas_floor }) => {
            (gas_limit, gas_floor)
        }
        Err(other) => {
            return Err(TransactionRefusal::new(Reason::IntrinsicGasTooLow, other.to_string()));
        }
    };
    let detail = format!("gas {have}, minimum needed {want}");
    Err(TransactionRefusal::new(Reason::IntrinsicGasTooLow, detail))
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{TxEip1559, TxEip7702};
    use alloy_eips::eip7702::{Authorization, SignedAuthorization};
    use alloy_primitives::{Address, Bytes, TxKind, U256};

    use super::*;
    use crate::testing::{SENDER, osaka, prague, shanghai, transfer, unsigned};

    /// What a transaction of this shape needs at least, found by trying.
    fn needed(spec: &ChainSpec, with_gas: impl Fn(u64) -> Transaction) -> u64 {
        let takes = |gas| check_gas_limit(spec, 1, 1, &with_gas(gas)).is_ok();
        let (mut refused, mut taken) = (0, 10_000_000);
        assert!(takes(taken) && !takes(refused));
        while taken - refused > 1 {
            let middle = refused.midpoint(taken);
            if takes(middle) { taken = middle } else { refused = middle }
        }
        taken
    }

    fn call(input: Bytes) -> impl Fn(u64) -> Transaction {
        move |gas_limit| {
            unsigned(TxEip1559 { gas_limit, input: input.clone(), ..transfer(0) }, SENDER)
        }
    }

    #[test]
    fn calldata_and_its_floor_are_paid() {
        let zeros = Bytes::from(vec![0; 100]);
        let ones = Bytes::from(vec![1; 100]);
        assert_eq!(needed(&shanghai(), call(Bytes::new())), 21_000);
        assert_eq!(needed(&shanghai(), call(zeros.clone())), 21_000 + 100 * 4);
        assert_eq!(needed(&shanghai(), call(ones.clone())), 21_000 + 100 * 16);
        assert_eq!(needed(&prague(), call(zeros)), 21_000 + 100 * 10);
        assert_eq!(needed(&prague(), call(ones)), 21_000 + 100 * 40);
    }

    #[test]
    fn a_creation_pays_for_each_word_of_its_initcode() {
        let create = |gas_limit| {
            let input = Bytes::from(vec![0; 33]);
            let (to, value) = (TxKind::Create, U256::ZERO);
            unsigned(TxEip1559 { gas_limit, input, to, value, ..transfer(0) }, SENDER)
        };
        assert_eq!(needed(&shanghai(), create), 53_000 + 33 * 4 + 2 * 2);
    }

    #[test]
    fn each_authorization_is_paid() {
        let authorized = |gas_limit| {
            let authorization =
                Authorization { chain_id: U256::from(1337), address: Address::ZERO, nonce: 0 };
            let signed = SignedAuthorization::new_unchecked(authorization, 0, U256::ONE, U256::ONE);
            let TxEip1559 { chain_id, nonce, max_fee_per_gas, max_priority_fee_per_gas, .. } =
                transfer(0);
            let transaction = TxEip7702 {
                chain_id,
                nonce,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                gas_limit,
                authorization_list: vec![signed; 3],
                ..TxEip7702::default()
            };
            unsigned(transaction, SENDER)
        };
        assert_eq!(needed(&prague(), authorized), 21_000 + 3 * 25_000);
    }

    #[test]
    fn since_osaka_a_transaction_may_have_so_much_gas_and_no_more() {
        let check = |spec: &ChainSpec, gas| check_gas_limit(spec, 1, 1, &call(Bytes::new())(gas));
        assert_eq!(check(&osaka(), TX_GAS_LIMIT_CAP), Ok(()));
        let refusal = check(&osaka(), TX_GAS_LIMIT_CAP + 1).unwrap_err();
        assert_eq!(refusal.reason, Reason::GasLimitTooHigh);
        assert_eq!(check(&prague(), TX_GAS_LIMIT_CAP + 1), Ok(()));
    }

    #[test]
    fn the_refusal_says_what_is_needed() {
        let refusal = check_gas_limit(&prague(), 1, 1, &call(Bytes::new())(20_999)).unwrap_err();
        assert_eq!(refusal.reason, Reason::IntrinsicGasTooLow);
        assert_eq!(refusal.detail, "gas 20999, minimum needed 21000");
    }
}
