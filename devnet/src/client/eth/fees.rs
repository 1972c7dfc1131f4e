//! What gas costs, and has cost.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{U64, U256};
use alloy_rpc_types_eth::{FeeHistory, TxGasAndReward};
use preconf_chain::Header;
use preconf_engine::RpcError;
use preconf_engine::rpc::Params;

use super::at;
use crate::client::ExecutionClient;
use crate::client::chain::ChainBlock;
use crate::client::methods::{Answer, Method, answer};

/// The most blocks of one fee history.
const MAX_HISTORY: u64 = 1_024;

/// The most percentiles in one.
const MAX_PERCENTILES: usize = 100;

/// How many blocks a suggestion rests on, and which of their tips it is.
const SUGGESTION: (u64, usize) = (20, 60);

/// The suggestion while there are no tips to go by, and the most that is suggested; in wei.
const DEFAULT_TIP: u128 = 1_000_000_000;
const HIGHEST_TIP: u128 = 500_000_000_000;

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_gasPrice", |client, _| {
        let base_fee = client.spec.next_base_fee(client.head().header());
        answer(&U256::from(u128::from(base_fee) + suggested_tip(client)))
    }),
    Method::new("eth_maxPriorityFeePerGas", |client, _| answer(&U256::from(suggested_tip(client)))),
    Method::new("eth_blobBaseFee", |client, _| {
        answer(&U256::from(blob_base_fee(client, client.head().header())))
    }),
    Method::new("eth_feeHistory", fee_history),
];

fn suggested_tip(client: &ExecutionClient) -> u128 {
    let (blocks, percentile) = SUGGESTION;
    let newest = client.head().number();
    let mut tips: Vec<u128> = (newest.saturating_sub(blocks - 1)..=newest)
        .filter_map(|number| client.block_by_number(number))
        .flat_map(|block| rewards(&block))
        .map(|transaction| transaction.reward)
        .collect();
    tips.sort_unstable();
    let last = tips.len().saturating_sub(1);
    tips.get(last * percentile / 100).copied().unwrap_or(DEFAULT_TIP).min(HIGHEST_TIP)
}

fn fee_history(client: &ExecutionClient, params: &Params) -> Answer {
    let count = params.required::<U64>(0, "block count")?.to::<u64>().min(MAX_HISTORY);
    let newest = at::find(client, params.required::<BlockNumberOrTag>(1, "newest block")?.into())?;
    let newest = newest.ok_or_else(|| RpcError::invalid_params("the newest block is not known"))?;
    let percentiles: Option<Vec<f64>> = params.optional(2, "reward percentiles")?;
    check_percentiles(percentiles.as_deref().unwrap_or_default())?;
    answer(&history(client, count, &newest, percentiles.as_deref()))
}

fn history(
    client: &ExecutionClient,
    count: u64,
    newest: &ChainBlock,
    percentiles: Option<&[f64]>,
) -> FeeHistory {
    let oldest = (newest.number() + 1).saturating_sub(count);
    // Blocks that are no longer kept are left out.
    let blocks = (oldest..=newest.number()).rev();
    let mut blocks: Vec<Arc<ChainBlock>> =
        blocks.map_while(|number| client.block_by_number(number)).collect();
    blocks.reverse();
    let Some(first) = blocks.first() else {
        return FeeHistory { oldest_block: newest.number(), ..FeeHistory::default() };
    };
    let mut history = FeeHistory {
        oldest_block: first.number(),
        reward: percentiles.map(|_| Vec::new()),
        ..FeeHistory::default()
    };
    for block in &blocks {
        let header = block.header();
        history.base_fee_per_gas.push(header.base_fee_per_gas.unwrap_or_default().into());
        history.base_fee_per_blob_gas.push(blob_base_fee(client, header));
        history.gas_used_ratio.push(ratio(header.gas_used, header.gas_limit));
        let most = client.spec.blob_params_at(header.timestamp);
        let most = most.map_or(0, |params| params.max_blob_gas_per_block());
        history.blob_gas_used_ratio.push(ratio(header.blob_gas_used.unwrap_or_default(), most));
        if let (Some(rows), Some(percentiles)) = (&mut history.reward, percentiles) {
            rows.push(at_percentiles(block, percentiles));
        }
    }
    let last = newest.header();
    history.base_fee_per_gas.push(client.spec.next_base_fee(last).into());
    let excess = client.spec.next_excess_blob_gas(last, last.timestamp);
    let next = excess.and_then(|excess| client.spec.blob_base_fee(last.timestamp, excess));
    history.base_fee_per_blob_gas.push(next.unwrap_or_default());
    history
}

fn check_percentiles(percentiles: &[f64]) -> Result<(), RpcError> {
    let ordered = percentiles.is_sorted();
    let possible = percentiles.iter().all(|percentile| (0.0..=100.0).contains(percentile));
    if ordered && possible && percentiles.len() <= MAX_PERCENTILES {
        return Ok(());
    }
    let reason = format!("at most {MAX_PERCENTILES} percentiles from 0 to 100, in order");
    Err(RpcError::invalid_params(reason))
}

fn blob_base_fee(client: &ExecutionClient, header: &Header) -> u128 {
    let excess = header.excess_blob_gas.unwrap_or_default();
    client.spec.blob_base_fee(header.timestamp, excess).unwrap_or_default()
}

fn ratio(used: u64, most: u64) -> f64 {
    if most == 0 { 0.0 } else { used as f64 / most as f64 }
}

/// The gas of each transaction and the tip it paid for it.
fn rewards(block: &ChainBlock) -> Vec<TxGasAndReward> {
    let base_fee = block.header().base_fee_per_gas.unwrap_or_default();
    let mut before = 0;
    let transactions = block.transactions.iter().zip(&block.receipts);
    transactions
        .map(|(transaction, receipt)| {
            let gas_used = receipt.cumulative_gas_used - before;
            before = receipt.cumulative_gas_used;
            let reward = transaction.envelope().effective_tip_per_gas(base_fee);
            TxGasAndReward { gas_used, reward: reward.unwrap_or_default() }
        })
        .collect()
}

/// The tips at these percentiles of the gas that the block used.
fn at_percentiles(block: &ChainBlock, percentiles: &[f64]) -> Vec<u128> {
    let mut rewards = rewards(block);
    rewards.sort_unstable();
    let total = block.header().gas_used as f64;
    let at = |percentile: &f64| {
        let threshold = (total * percentile / 100.0) as u64;
        let mut gas = 0;
        let reached = rewards.iter().find(|transaction| {
            gas += transaction.gas_used;
            gas >= threshold
        });
        reached.or(rewards.last()).map_or(0, |transaction| transaction.reward)
    };
    percentiles.iter().map(at).collect()
}
