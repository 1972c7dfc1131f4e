//! The fork environment that goes with some genesis files: `HIVE_*` variables, as test suites of
//! execution clients publish them beside a chain.
//!
//! Decides which variable is which entry of a genesis' `config`. A variable that is not known is
//! refused: it may name a fork.
//!
//! Never reads a file or the environment of the process.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::GenesisError;

/// Variables that are one number in `config`.
const NUMBERS: [(&str, &str); 26] = [
    ("HIVE_CHAIN_ID", "chainId"),
    ("HIVE_FORK_HOMESTEAD", "homesteadBlock"),
    ("HIVE_FORK_DAO_BLOCK", "daoForkBlock"),
    ("HIVE_FORK_TANGERINE", "eip150Block"),
    ("HIVE_FORK_SPURIOUS", "eip155Block"),
    ("HIVE_FORK_SPURIOUS", "eip158Block"),
    ("HIVE_FORK_BYZANTIUM", "byzantiumBlock"),
    ("HIVE_FORK_CONSTANTINOPLE", "constantinopleBlock"),
    ("HIVE_FORK_PETERSBURG", "petersburgBlock"),
    ("HIVE_FORK_ISTANBUL", "istanbulBlock"),
    ("HIVE_FORK_MUIR_GLACIER", "muirGlacierBlock"),
    ("HIVE_FORK_BERLIN", "berlinBlock"),
    ("HIVE_FORK_LONDON", "londonBlock"),
    ("HIVE_FORK_ARROW_GLACIER", "arrowGlacierBlock"),
    ("HIVE_FORK_GRAY_GLACIER", "grayGlacierBlock"),
    ("HIVE_MERGE_BLOCK_ID", "mergeNetsplitBlock"),
    ("HIVE_TERMINAL_TOTAL_DIFFICULTY", "terminalTotalDifficulty"),
    ("HIVE_SHANGHAI_TIMESTAMP", "shanghaiTime"),
    ("HIVE_CANCUN_TIMESTAMP", "cancunTime"),
    ("HIVE_PRAGUE_TIMESTAMP", "pragueTime"),
    ("HIVE_OSAKA_TIMESTAMP", "osakaTime"),
    ("HIVE_BPO1_TIMESTAMP", "bpo1Time"),
    ("HIVE_BPO2_TIMESTAMP", "bpo2Time"),
    ("HIVE_BPO3_TIMESTAMP", "bpo3Time"),
    ("HIVE_BPO4_TIMESTAMP", "bpo4Time"),
    ("HIVE_BPO5_TIMESTAMP", "bpo5Time"),
];

/// The ends of variables that are an entry of a fork's blob schedule.
const BLOBS: [(&str, &str); 3] = [
    ("_BLOB_TARGET", "target"),
    ("_BLOB_MAX", "max"),
    ("_BLOB_BASE_FEE_UPDATE_FRACTION", "baseFeeUpdateFraction"),
];

/// The forks that may have a blob schedule.
const BLOB_FORKS: [&str; 8] = ["cancun", "prague", "osaka", "bpo1", "bpo2", "bpo3", "bpo4", "bpo5"];

/// The genesis with the forks that the environment names instead of its own.
///
/// Both are the text of files: the genesis as geth writes it, the environment a JSON object of
/// variables and their values as strings.
///
/// # Errors
///
/// If one of them is not such a file, or the environment has a variable that is not known or not a
/// number.
pub fn apply_forkenv(genesis: &str, forkenv: &str) -> Result<String, GenesisError> {
    let mut genesis: Map<String, Value> =
        serde_json::from_str(genesis).map_err(GenesisError::Json)?;
    let variables: BTreeMap<String, String> =
        serde_json::from_str(forkenv).map_err(GenesisError::Json)?;
    let config = genesis.entry("config").or_insert_with(|| json!({}));
    let Some(config) = config.as_object_mut() else { return Err(GenesisError::NoChainId) };
    for (name, value) in &variables {
        apply(config, name, value)
            .ok_or_else(|| GenesisError::ForkVariable { name: name.clone() })?;
    }
    Ok(Value::Object(genesis).to_string())
}

/// Sets what one variable says; `None` if it is not understood.
fn apply(config: &mut Map<String, Value>, name: &str, value: &str) -> Option<()> {
    // Networks are not the business of a chain's rules.
    if name == "HIVE_NETWORK_ID" {
        return Some(());
    }
    if name == "HIVE_DEPOSIT_CONTRACT_ADDRESS" {
        config.insert("depositContractAddress".to_owned(), value.into());
        return Some(());
    }
    let number: u64 = value.parse().ok()?;
    let entries: Vec<&str> =
        NUMBERS.iter().filter(|(variable, _)| *variable == name).map(|(_, entry)| *entry).collect();
    for entry in &entries {
        config.insert((*entry).to_owned(), number.into());
    }
    if entries.contains(&"daoForkBlock") {
        config.insert("daoForkSupport".to_owned(), true.into());
    }
    if !entries.is_empty() {
        return Some(());
    }
    let (fork, entry) = BLOBS
        .iter()
        .find_map(|(end, entry)| Some((name.strip_prefix("HIVE_")?.strip_suffix(end)?, *entry)))?;
    let fork = fork.to_lowercase();
    if !BLOB_FORKS.contains(&fork.as_str()) {
        return None;
    }
    let schedule = config.entry("blobSchedule").or_insert_with(|| json!({}));
    let schedule = schedule.as_object_mut()?.entry(fork).or_insert_with(|| json!({}));
    schedule.as_object_mut()?.insert(entry.to_owned(), number.into());
    Some(())
}

#[cfg(test)]
mod tests {
    use alloy_hardforks::{EthereumHardfork, EthereumHardforks};

    use super::*;
    use crate::ChainSpec;

    const GENESIS: &str = include_str!("../testdata/chain_genesis.json");

    #[test]
    fn a_genesis_without_forks_and_their_environment_are_the_whole_genesis() {
        let whole = ChainSpec::from_genesis_json(GENESIS).unwrap();
        let mut bare: Value = serde_json::from_str(GENESIS).unwrap();
        bare["config"] = json!({});
        let environment = include_str!("../testdata/chain_forkenv.json");
        let applied = apply_forkenv(&bare.to_string(), environment).unwrap();
        let spec = ChainSpec::from_genesis_json(&applied).unwrap();
        assert_eq!(spec.genesis_hash(), whole.genesis_hash());
        for fork in EthereumHardfork::VARIANTS {
            let expected = whole.ethereum_fork_activation(*fork);
            assert_eq!(spec.ethereum_fork_activation(*fork), expected, "{fork}");
        }
        for time in [0, 420, 450, 480, 510, 540] {
            assert_eq!(spec.blob_params_at(time), whole.blob_params_at(time), "{time}");
        }
    }

    #[test]
    fn a_variable_that_is_not_known_or_no_number_is_refused() {
        for environment in [
            r#"{"HIVE_AMSTERDAM_TIMESTAMP": "600"}"#,
            r#"{"HIVE_AMSTERDAM_BLOB_MAX": "6"}"#,
            r#"{"HIVE_CHAIN_ID": "many"}"#,
            r#"{"PATH": "1"}"#,
        ] {
            let refused = apply_forkenv(GENESIS, environment).unwrap_err();
            assert!(matches!(refused, GenesisError::ForkVariable { .. }), "{environment}");
        }
    }
}
