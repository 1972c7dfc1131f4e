//! A block from before the merge, executed in one go: only what importing an old chain needs.
//!
//! Such blocks are never built here, so nothing of this is in the way of those that are. Proof of
//! work is not checked, and neither are ommers, apart from what they are paid.

use std::sync::Arc;

use alloy_consensus::proofs::calculate_ommers_root;
use alloy_evm::block::calc;
use alloy_hardforks::EthereumHardforks;
use preconf_chain::{Block, ChainSpec, Header};
use preconf_state::{NeedState, Overlay, StateReader};
use revm::database_interface::DatabaseCommitExt;

use crate::{
    BlockError, NextBlock, Outcome,
    validation::{compare, execute_transactions},
};

/// Executes a mined block on the state after `parent`, pays its miner and those of its ommers, and
/// compares what its header says with what comes out: all but the state root, and, before
/// Byzantium, the receipts root, for which the receipts would have to hold state roots.
///
/// # Errors
/// [`BlockError::NeedState`] if state is not in memory, anything else if the block is invalid.
pub fn execute_mined<R: StateReader>(
    spec: &Arc<ChainSpec>,
    parent: &Header,
    block: &Block,
    overlay: Overlay<R>,
) -> Result<Outcome<R>, BlockError> {
    let Block { header, body } = block;
    spec.validate_header(header, parent).map_err(BlockError::Header)?;
    compare("ommers hash", &header.ommers_hash, &calculate_ommers_root(&body.ommers))?;
    for ommer in &body.ommers {
        check_generation(header, ommer)?;
    }
    let next = NextBlock::from_header(header, Vec::new());
    let mut outcome = execute_transactions(spec, next, &body.transactions, overlay, |_| None)?;
    let rewards = calc::base_block_reward(spec, header.number).into_iter().flat_map(|reward| {
        body.ommers.iter().flat_map(move |ommer| {
            let of_ommer = calc::ommer_reward(reward, header.number, ommer.number);
            [(ommer.beneficiary, of_ommer), (header.beneficiary, reward / 32)]
        })
    });
    for payment in rewards {
        let paid = outcome.overlay.increment_balances([payment]);
        paid.map_err(|NeedState(key)| BlockError::NeedState(vec![key]))?;
    }
    let computed = outcome.header(header.state_root);
    compare("gas used", &header.gas_used, &computed.gas_used)?;
    compare("logs bloom", &header.logs_bloom, &computed.logs_bloom)?;
    compare("transactions root", &header.transactions_root, &computed.transactions_root)?;
    if spec.is_byzantium_active_at_block(header.number) {
        compare("receipts root", &header.receipts_root, &computed.receipts_root)?;
    }
    Ok(outcome)
}

/// What an ommer is paid depends on how many generations above it the block is: one to six.
fn check_generation(header: &Header, ommer: &Header) -> Result<(), BlockError> {
    match header.number.checked_sub(ommer.number) {
        Some(1..=6) => Ok(()),
        Some(_) | None => Err(BlockError::Mismatch {
            field: "ommer's number",
            claimed: ommer.number.to_string(),
            computed: format!("one to six below {}", header.number),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ommer_is_one_to_six_generations_below_its_block() {
        let at = |number| Header { number, ..Header::default() };
        for (ommer, fits) in [(0, false), (93, false), (94, true), (99, true), (100, false)] {
            assert_eq!(check_generation(&at(100), &at(ommer)).is_ok(), fits, "{ommer}");
        }
        assert!(check_generation(&at(1), &at(2)).is_err());
    }
}
