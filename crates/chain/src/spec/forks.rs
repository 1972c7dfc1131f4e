//! Reading the forks and the blob schedule from a genesis' configuration.
//!
//! A chain whose genesis does not name the block of its merge is taken as merged from the start:
//! blocks from before a merge are executed, but never built. A chain that moved the DAO's ether is
//! refused; one that has that fork in its first block has nothing to move.

use alloy_eips::eip7840::BlobParams;
use alloy_genesis::ChainConfig;
use alloy_hardforks::{EthereumChainHardforks, EthereumHardfork, ForkCondition};
use alloy_primitives::U256;

use super::berachain;
use crate::GenesisError;

/// More blobs than this in one block are a mistake in the file, and could overflow.
const MAX_SCHEDULED_BLOBS: u64 = 1 << 20;

struct Fork {
    key: &'static str,
    fork: EthereumHardfork,
    condition: ForkCondition,
    /// Later forks do not need it.
    optional: bool,
}

/// Reads the forks and checks that each comes after those it builds on.
pub(super) fn read(config: &ChainConfig) -> Result<EthereumChainHardforks, GenesisError> {
    if config.dao_fork_support && config.dao_fork_block.is_some_and(|block| block > 0) {
        return Err(GenesisError::UnknownFork { name: "daoForkBlock".to_owned() });
    }
    let forks: Vec<Fork> = block_forks(config).into_iter().chain(time_forks(config)).collect();
    check_order(&forks)?;
    let paris = paris(config)?;
    Ok(EthereumChainHardforks::new(
        forks
            .into_iter()
            .map(|fork| (fork.fork, fork.condition))
            .chain([(EthereumHardfork::Frontier, ForkCondition::Block(0)), paris]),
    ))
}

fn block_forks(config: &ChainConfig) -> Vec<Fork> {
    use EthereumHardfork as F;
    let at = |key, fork, block: Option<u64>, optional| Fork {
        key,
        fork,
        condition: block.map_or(ForkCondition::Never, ForkCondition::Block),
        optional,
    };
    // A configuration without Petersburg has it with Constantinople.
    let petersburg = config.petersburg_block.or(config.constantinople_block);
    vec![
        at("homesteadBlock", F::Homestead, config.homestead_block, false),
        at("eip150Block", F::Tangerine, config.eip150_block, false),
        at("eip158Block", F::SpuriousDragon, config.eip158_block, false),
        at("byzantiumBlock", F::Byzantium, config.byzantium_block, false),
        at("constantinopleBlock", F::Constantinople, config.constantinople_block, false),
        at("petersburgBlock", F::Petersburg, petersburg, false),
        at("istanbulBlock", F::Istanbul, config.istanbul_block, false),
        at("muirGlacierBlock", F::MuirGlacier, config.muir_glacier_block, true),
        at("berlinBlock", F::Berlin, config.berlin_block, false),
        at("londonBlock", F::London, config.london_block, false),
        at("arrowGlacierBlock", F::ArrowGlacier, config.arrow_glacier_block, true),
        at("grayGlacierBlock", F::GrayGlacier, config.gray_glacier_block, true),
    ]
}

fn time_forks(config: &ChainConfig) -> Vec<Fork> {
    use EthereumHardfork as F;
    let at = |key, fork, time: Option<u64>, optional| Fork {
        key,
        fork,
        condition: time.map_or(ForkCondition::Never, ForkCondition::Timestamp),
        optional,
    };
    vec![
        at("shanghaiTime", F::Shanghai, config.shanghai_time, false),
        at("cancunTime", F::Cancun, config.cancun_time, false),
        at("pragueTime", F::Prague, config.prague_time, false),
        at("osakaTime", F::Osaka, config.osaka_time, false),
        at("bpo1Time", F::Bpo1, config.bpo1_time, true),
        at("bpo2Time", F::Bpo2, config.bpo2_time, true),
        at("bpo3Time", F::Bpo3, config.bpo3_time, true),
        at("bpo4Time", F::Bpo4, config.bpo4_time, true),
        at("bpo5Time", F::Bpo5, config.bpo5_time, true),
    ]
}

fn check_order(forks: &[Fork]) -> Result<(), GenesisError> {
    let mut last: Option<&Fork> = None;
    for fork in forks {
        let set = fork.condition != ForkCondition::Never;
        if let Some(last) = last
            && set
            && !may_follow(last.condition, fork.condition)
        {
            return Err(GenesisError::ForkOrder { fork: fork.key, after: last.key });
        }
        if set || !fork.optional {
            last = Some(fork);
        }
    }
    Ok(())
}

/// Whether a fork may come after one: blocks before times, and each in order.
fn may_follow(last: ForkCondition, next: ForkCondition) -> bool {
    match (last, next) {
        (ForkCondition::Block(last), ForkCondition::Block(next))
        | (ForkCondition::Timestamp(last), ForkCondition::Timestamp(next)) => last <= next,
        (ForkCondition::Block(_), ForkCondition::Timestamp(_)) => true,
        (ForkCondition::Never | ForkCondition::TTD { .. } | ForkCondition::Timestamp(_), _)
        | (ForkCondition::Block(_), ForkCondition::TTD { .. } | ForkCondition::Never) => false,
    }
}

fn paris(config: &ChainConfig) -> Result<(EthereumHardfork, ForkCondition), GenesisError> {
    let passed = config.terminal_total_difficulty_passed.then_some(U256::ZERO);
    let total_difficulty =
        config.terminal_total_difficulty.or(passed).ok_or(GenesisError::NotProofOfStake)?;
    let condition = ForkCondition::TTD {
        activation_block_number: config.merge_netsplit_block.unwrap_or_default(),
        fork_block: config.merge_netsplit_block,
        total_difficulty,
    };
    Ok((EthereumHardfork::Paris, condition))
}

/// Reads the blob parameters with the times they begin at.
pub(super) fn read_blob_schedule(
    config: &ChainConfig,
    is_berachain: bool,
) -> Result<Vec<(u64, BlobParams)>, GenesisError> {
    for (fork, time) in [
        ("bpo1", config.bpo1_time),
        ("bpo2", config.bpo2_time),
        ("bpo3", config.bpo3_time),
        ("bpo4", config.bpo4_time),
        ("bpo5", config.bpo5_time),
    ] {
        if time.is_some() && !config.blob_schedule.contains_key(fork) {
            return Err(GenesisError::BlobSchedule { fork });
        }
    }
    let params = config.blob_schedule_blob_params();
    let named = [
        ("cancun", config.cancun_time, params.cancun),
        ("prague", config.prague_time, params.prague),
        ("osaka", config.osaka_time, params.osaka),
    ];
    let schedule: Vec<(&'static str, u64, BlobParams)> = named
        .into_iter()
        .filter_map(|(fork, time, params)| {
            let params = if is_berachain { berachain::blob_params(params) } else { params };
            time.map(|time| (fork, time, params))
        })
        .chain(params.scheduled.into_iter().map(|(time, params)| ("bpo", time, params)))
        .collect();
    if let Some((fork, ..)) = schedule.iter().find(|(_, _, params)| !is_usable(params)) {
        return Err(GenesisError::BlobSchedule { fork });
    }
    Ok(schedule.into_iter().map(|(_, time, params)| (time, params)).collect())
}

fn is_usable(params: &BlobParams) -> bool {
    params.update_fraction > 0
        && params.max_blob_count > 0
        && params.max_blob_count <= MAX_SCHEDULED_BLOBS
        && params.target_blob_count <= params.max_blob_count
}
