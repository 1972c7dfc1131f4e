//! Whether Berachain's section and the configuration around it can be followed.
//!
//! A genesis that the chain's own client takes is taken here too, with one exception: a fork in
//! the section that is not known is refused by its name. To run on under older rules would leave
//! the chain at that fork without a word. Any other key that means nothing here is ignored, and
//! named to whoever wants to warn of it.

use alloy_genesis::ChainConfig;
use alloy_primitives::U256;
use serde_json::{Map, Value};

use super::{BerachainConfig, PUBLIC_NETWORKS};
use crate::GenesisError;

/// The forks of the section, each with its keys.
const KEYS: [(&str, &[&str]); 5] = [
    (
        "prague1",
        &["time", "baseFeeChangeDenominator", "minimumBaseFeeWei", "polDistributorAddress"],
    ),
    ("prague2", &["time", "minimumBaseFeeWei"]),
    ("prague3", &["time", "blockedAddresses", "rescueAddress", "bexVaultAddress"]),
    ("prague4", &["time"]),
    ("osaka1", &["time", "minimumBaseFeeWei", "minimumBlobBaseFeeWei"]),
];

/// The paths of the section's keys that mean nothing here.
///
/// # Errors
///
/// If one of them schedules a fork.
pub(crate) fn ignored_keys(section: &Map<String, Value>) -> Result<Vec<String>, GenesisError> {
    let mut ignored = Vec::new();
    for (name, value) in section.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("berachain.{name}");
        let Some((_, keys)) = KEYS.iter().find(|(fork, _)| fork == name) else {
            if value.get("time").is_some() {
                return Err(GenesisError::UnknownFork { name: path });
            }
            ignored.push(path);
            continue;
        };
        let inner = value.as_object().into_iter().flat_map(Map::keys);
        let inner = inner.filter(|key| !keys.contains(&key.as_str()));
        ignored.extend(inner.map(|key| format!("{path}.{key}")));
    }
    Ok(ignored)
}

/// Checks the section against the rest of the configuration.
pub(in crate::spec) fn check(
    section: Option<&BerachainConfig>,
    config: &ChainConfig,
) -> Result<(), GenesisError> {
    let Some(section) = section else {
        let chain_id = config.chain_id;
        let public = PUBLIC_NETWORKS.iter().any(|(id, _)| *id == chain_id);
        return if public { Err(GenesisError::NoBerachain { chain_id }) } else { Ok(()) };
    };
    check_start(config)?;
    check_order(section, config)?;
    check_zeros(section)
}

/// Every Berachain network begins in Cancun, and has no forks of blob parameters only.
fn check_start(config: &ChainConfig) -> Result<(), GenesisError> {
    let late = |block: Option<u64>| block.is_some_and(|block| block != 0);
    let without_merge = config.terminal_total_difficulty != Some(U256::ZERO);
    for (field, wrong) in [
        ("homesteadBlock", late(config.homestead_block)),
        ("daoForkBlock", late(config.dao_fork_block)),
        ("eip150Block", late(config.eip150_block)),
        ("eip155Block", late(config.eip155_block)),
        ("eip158Block", late(config.eip158_block)),
        ("byzantiumBlock", late(config.byzantium_block)),
        ("constantinopleBlock", late(config.constantinople_block)),
        ("petersburgBlock", late(config.petersburg_block)),
        ("istanbulBlock", late(config.istanbul_block)),
        ("muirGlacierBlock", late(config.muir_glacier_block)),
        ("berlinBlock", late(config.berlin_block)),
        ("londonBlock", late(config.london_block)),
        ("arrowGlacierBlock", late(config.arrow_glacier_block)),
        ("grayGlacierBlock", late(config.gray_glacier_block)),
        ("mergeNetsplitBlock", late(config.merge_netsplit_block)),
        ("terminalTotalDifficulty", without_merge),
        ("shanghaiTime", late(config.shanghai_time)),
        ("cancunTime", config.cancun_time != Some(0)),
    ] {
        if wrong {
            return Err(GenesisError::BerachainStart { field });
        }
    }
    for (name, time) in [
        ("bpo1Time", config.bpo1_time),
        ("bpo2Time", config.bpo2_time),
        ("bpo3Time", config.bpo3_time),
        ("bpo4Time", config.bpo4_time),
        ("bpo5Time", config.bpo5_time),
    ] {
        if time.is_some() {
            return Err(GenesisError::UnknownFork { name: name.to_owned() });
        }
    }
    Ok(())
}

/// Each fork must not be before the one it follows, nor be set without it. Prague3 and what comes
/// after it may be left out, but Prague4 ends Prague3.
fn check_order(section: &BerachainConfig, config: &ChainConfig) -> Result<(), GenesisError> {
    let BerachainConfig { prague1, prague2, prague3, prague4, osaka1 } = section;
    let prague3 = prague3.as_ref().map(|fork| fork.time);
    let prague4 = prague4.as_ref().map(|fork| fork.time);
    let mut order = vec![
        ("pragueTime", config.prague_time),
        ("berachain.prague1", Some(prague1.time)),
        ("berachain.prague2", Some(prague2.time)),
    ];
    if prague3.is_some() || prague4.is_some() {
        order.push(("berachain.prague3", prague3));
    }
    let later = [
        ("berachain.prague4", prague4),
        ("osakaTime", config.osaka_time),
        ("berachain.osaka1", osaka1.as_ref().map(|fork| fork.time)),
    ];
    order.extend(later.into_iter().filter(|(_, time)| time.is_some()));
    for pair in order.windows(2) {
        if let [(after, earlier), (fork, Some(later))] = *pair
            && earlier.is_none_or(|earlier| earlier > later)
        {
            return Err(GenesisError::ForkOrder { fork, after });
        }
    }
    Ok(())
}

fn check_zeros(section: &BerachainConfig) -> Result<(), GenesisError> {
    let BerachainConfig { prague1, osaka1, .. } = section;
    let fees = osaka1
        .as_ref()
        .map_or((1, 1), |fork| (fork.minimum_base_fee_wei, fork.minimum_blob_base_fee_wei));
    for (field, zero) in [
        ("prague1.baseFeeChangeDenominator", prague1.base_fee_change_denominator == 0),
        ("prague1.polDistributorAddress", prague1.pol_distributor_address.is_zero()),
        ("osaka1.minimumBaseFeeWei", fees.0 == 0),
        ("osaka1.minimumBlobBaseFeeWei", fees.1 == 0),
    ] {
        if zero {
            return Err(GenesisError::BerachainZero { field });
        }
    }
    Ok(())
}
