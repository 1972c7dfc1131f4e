//! What follows from the parent: base fee, excess blob gas, gas limit.

use std::cmp::Ordering;

use alloy_eips::{
    eip1559::{GAS_LIMIT_BOUND_DIVISOR, INITIAL_BASE_FEE},
    eip4844::DATA_GAS_PER_BLOB,
    eip7840::BlobParams,
};
use alloy_hardforks::EthereumHardforks;

use super::ChainSpec;
use crate::Header;

/// How many times its target a block may use, on every chain.
pub const BASE_FEE_ELASTICITY: u64 = 2;

/// Ethereum's: the base fee moves by at most one eighth.
const BASE_FEE_DENOMINATOR: u64 = 8;

/// No chain has a lower gas limit.
pub(super) const MIN_GAS_LIMIT: u64 = 5_000;

/// The base fee after a block (EIP-1559), but not below `floor`.
///
/// With a denominator, an elasticity or a target of zero the fee does not move.
pub fn base_fee(
    parent_gas_used: u64,
    parent_gas_limit: u64,
    parent_base_fee: u64,
    denominator: u64,
    elasticity: u64,
    floor: u64,
) -> u64 {
    let target = parent_gas_limit.checked_div(elasticity).unwrap_or_default();
    let change = |gas: u64| {
        let divisor = u128::from(target) * u128::from(denominator);
        let change = (u128::from(parent_base_fee) * u128::from(gas)).checked_div(divisor)?;
        Some(u64::try_from(change).unwrap_or(u64::MAX))
    };
    let moved = match parent_gas_used.cmp(&target) {
        Ordering::Equal => None,
        Ordering::Greater => change(parent_gas_used - target)
            .map(|change| parent_base_fee.saturating_add(change.max(1))),
        Ordering::Less => {
            change(target - parent_gas_used).map(|change| parent_base_fee.saturating_sub(change))
        }
    };
    moved.unwrap_or(parent_base_fee).max(floor)
}

impl ChainSpec {
    /// The base fee of the block after this one, which the rules of the parent's time decide: the
    /// first block of a fork still has the fee of the fork before.
    pub fn next_base_fee(&self, parent: &Header) -> u64 {
        let Some(parent_base_fee) = parent.base_fee_per_gas else { return INITIAL_BASE_FEE };
        let berachain = self.berachain().and_then(|own| own.base_fee_rules(parent.timestamp));
        let (denominator, floor) = berachain.unwrap_or((BASE_FEE_DENOMINATOR, 0));
        base_fee(
            parent.gas_used,
            parent.gas_limit,
            parent_base_fee,
            denominator,
            BASE_FEE_ELASTICITY,
            floor,
        )
    }

    /// The excess blob gas of the block after this one, at this time; none before Cancun.
    pub fn next_excess_blob_gas(&self, parent: &Header, timestamp: u64) -> Option<u64> {
        let params = self.blob_params_at(timestamp)?;
        Some(excess_blob_gas(
            &params,
            parent.excess_blob_gas.unwrap_or_default(),
            parent.blob_gas_used.unwrap_or_default(),
            parent.base_fee_per_gas.unwrap_or_default(),
        ))
    }

    /// What each unit of blob gas costs in a block at this time; none before Cancun.
    pub fn blob_base_fee(&self, timestamp: u64, excess_blob_gas: u64) -> Option<u128> {
        Some(self.blob_params_at(timestamp)?.calc_blob_fee(excess_blob_gas))
    }

    /// The gas limit after a block, on the way to a target: it moves by less than 1/1024 of the
    /// parent's.
    pub fn next_gas_limit(parent_gas_limit: u64, target: u64) -> u64 {
        let step = (parent_gas_limit / GAS_LIMIT_BOUND_DIVISOR).saturating_sub(1);
        let lowest = parent_gas_limit.saturating_sub(step);
        let highest = parent_gas_limit.saturating_add(step);
        target.max(MIN_GAS_LIMIT).clamp(lowest, highest)
    }

    /// The gas limit that a child's is compared with: at London it doubled, so that the target
    /// stayed what the limit had been.
    pub(super) fn effective_parent_gas_limit(&self, parent: &Header) -> u64 {
        let begins = self.is_london_active_at_block(parent.number.saturating_add(1))
            && !self.is_london_active_at_block(parent.number);
        if begins { parent.gas_limit.saturating_mul(BASE_FEE_ELASTICITY) } else { parent.gas_limit }
    }
}

/// EIP-4844, and where a blob has a base cost EIP-7918: while blobs are cheaper than the gas they
/// cost to carry, the excess falls no more.
fn excess_blob_gas(params: &BlobParams, excess: u64, used: u64, base_fee: u64) -> u64 {
    let target = params.target_blob_gas_per_block();
    let total = excess.saturating_add(used);
    if total < target {
        return 0;
    }
    let reserve = u128::from(params.blob_base_cost) * u128::from(base_fee);
    let price = u128::from(DATA_GAS_PER_BLOB).saturating_mul(params.calc_blob_fee(excess));
    if reserve <= price {
        return total - target;
    }
    let above = u128::from(params.max_blob_count - params.target_blob_count);
    let scaled = u128::from(used) * above / u128::from(params.max_blob_count);
    excess.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX))
}
