//! Reading a genesis file, and the first block it describes.
//!
//! Decides which genesis files are understood. A file that names a fork this crate does not know is
//! refused: to run on under older rules would leave the chain at that fork without a word.
//!
//! Never guesses a chain id, and never reads the file itself.

use std::collections::BTreeMap;

use alloy_consensus::constants::KECCAK_EMPTY;
use alloy_eips::{
    eip1559::INITIAL_BASE_FEE,
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
    eip7002::{WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE},
    eip7251::{CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_CODE},
    eip7685::EMPTY_REQUESTS_HASH,
};
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B64, B256, Bytes, U64, U256};
use alloy_trie::EMPTY_ROOT_HASH;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    BerachainConfig, Header, ProposerPublicKey, TrieAccountParts, spec::ignored_keys, state_root,
};

/// The times of forks that are understood, in `config`.
const KNOWN_TIMES: [&str; 9] = [
    "shanghaiTime",
    "cancunTime",
    "pragueTime",
    "osakaTime",
    "bpo1Time",
    "bpo2Time",
    "bpo3Time",
    "bpo4Time",
    "bpo5Time",
];

/// Why a genesis file is not understood.
#[derive(Debug, Error)]
pub enum GenesisError {
    /// It is not the JSON of a genesis.
    #[error("parsing the genesis")]
    Json(#[source] serde_json::Error),
    /// It does not say which chain it is.
    #[error("the genesis has no config.chainId")]
    NoChainId,
    /// Berachain's section is incomplete.
    #[error("reading config.berachain of the genesis")]
    Berachain(#[source] serde_json::Error),
    /// It is a Berachain network without the section that says so.
    #[error("the genesis of chain {chain_id} has no config.berachain section")]
    NoBerachain {
        /// Which network.
        chain_id: u64,
    },
    /// Berachain's section has a zero that no chain could live with.
    #[error("config.berachain.{field} of the genesis is zero")]
    BerachainZero {
        /// Its path in the section.
        field: &'static str,
    },
    /// It begins as no Berachain network does.
    #[error("config.{field} of the genesis is not 0, as on every Berachain network")]
    BerachainStart {
        /// Its key in `config`.
        field: &'static str,
    },
    /// It schedules a fork that is not known.
    #[error("the genesis schedules config.{name}, a fork that is not supported")]
    UnknownFork {
        /// Its key in `config`.
        name: String,
    },
    /// The fork environment has a variable that is not known, or not a number.
    #[error("the fork environment has a variable {name} that is not understood")]
    ForkVariable {
        /// Its name.
        name: String,
    },
    /// The chain would mine.
    #[error("the genesis has no config.terminalTotalDifficulty: only proof of stake is supported")]
    NotProofOfStake,
    /// A fork comes before the one it builds on.
    #[error("the genesis schedules config.{fork} without, or before, config.{after}")]
    ForkOrder {
        /// The later fork.
        fork: &'static str,
        /// The earlier one.
        after: &'static str,
    },
    /// The blob parameters of a fork are missing, or no block can follow them.
    #[error("the genesis has no usable config.blobSchedule.{fork}")]
    BlobSchedule {
        /// The fork.
        fork: &'static str,
    },
    /// A number does not fit into a header.
    #[error("the genesis has a {field} that no header can hold")]
    OutOfRange {
        /// Its key.
        field: &'static str,
    },
}

/// What must be seen in the text itself, before defaults hide it.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    config: BTreeMap<String, Option<IgnoredAny>>,
    #[serde(default, rename = "gasUsed")]
    gas_used: Option<U64>,
}

/// The part of the text that only Berachain has.
#[derive(Deserialize)]
struct BerachainOutline {
    config: BerachainSection,
}

#[derive(Deserialize)]
struct BerachainSection {
    berachain: Map<String, Value>,
}

/// A genesis, and what the usual type leaves out: Berachain's section, and the gas that the first
/// block says it used.
pub(crate) struct GenesisFile {
    pub(crate) genesis: Genesis,
    pub(crate) berachain: Option<BerachainConfig>,
    /// Where the section says what means nothing here.
    pub(crate) ignored_keys: Vec<String>,
    gas_used: u64,
}

/// Parses the text of a genesis file.
pub(crate) fn parse(text: &str) -> Result<GenesisFile, GenesisError> {
    let outline: Outline = serde_json::from_str(text).map_err(GenesisError::Json)?;
    let set = |name: &str| outline.config.get(name).is_some_and(Option::is_some);
    if !set("chainId") {
        return Err(GenesisError::NoChainId);
    }
    let unknown = outline.config.iter().find(|(name, value)| {
        value.is_some() && name.ends_with("Time") && !KNOWN_TIMES.contains(&name.as_str())
    });
    if let Some((name, _)) = unknown {
        return Err(GenesisError::UnknownFork { name: name.clone() });
    }
    let genesis = serde_json::from_str(text).map_err(GenesisError::Json)?;
    let (mut berachain, mut ignored) = (None, Vec::new());
    if set("berachain") {
        let outline: BerachainOutline =
            serde_json::from_str(text).map_err(GenesisError::Berachain)?;
        let section = outline.config.berachain;
        ignored = ignored_keys(&section)?;
        let section = serde_json::from_value(Value::Object(section));
        berachain = Some(section.map_err(GenesisError::Berachain)?);
    }
    let gas_used = outline.gas_used.map_or(0, |gas| gas.to());
    Ok(GenesisFile { genesis, berachain, ignored_keys: ignored, gas_used })
}

/// The header of the first block, under the forks that are active in it. Its extra data may be
/// longer than in any other block.
pub(crate) fn first_header(
    file: &GenesisFile,
    forks: &impl EthereumHardforks,
) -> Result<Header, GenesisError> {
    let GenesisFile { genesis, berachain, gas_used, .. } = file;
    let number = genesis.number.unwrap_or_default();
    let timestamp = genesis.timestamp;
    let base_fee = match genesis.base_fee_per_gas {
        None => INITIAL_BASE_FEE,
        Some(fee) => {
            fee.try_into().map_err(|_| GenesisError::OutOfRange { field: "baseFeePerGas" })?
        }
    };
    let prague1 = berachain.as_ref().is_some_and(|section| section.prague1.time <= timestamp);
    let cancun = forks.is_cancun_active_at_timestamp(timestamp);
    Ok(Header {
        parent_hash: genesis.parent_hash.unwrap_or_default(),
        beneficiary: genesis.coinbase,
        state_root: alloc_root(&genesis.alloc),
        difficulty: genesis.difficulty,
        number,
        gas_limit: genesis.gas_limit,
        gas_used: *gas_used,
        timestamp,
        extra_data: genesis.extra_data.clone(),
        mix_hash: genesis.mix_hash,
        nonce: B64::from(genesis.nonce),
        base_fee_per_gas: forks.is_london_active_at_block(number).then_some(base_fee),
        withdrawals_root: forks
            .is_shanghai_active_at_timestamp(timestamp)
            .then_some(EMPTY_ROOT_HASH),
        blob_gas_used: cancun.then(|| genesis.blob_gas_used.unwrap_or_default()),
        excess_blob_gas: cancun.then(|| genesis.excess_blob_gas.unwrap_or_default()),
        parent_beacon_block_root: cancun.then_some(B256::ZERO),
        requests_hash: forks
            .is_prague_active_at_timestamp(timestamp)
            .then_some(EMPTY_REQUESTS_HASH),
        prev_proposer_pubkey: prague1.then_some(ProposerPublicKey::ZERO),
        ..Header::default()
    })
}

fn alloc_root(alloc: &BTreeMap<Address, GenesisAccount>) -> B256 {
    state_root(alloc.iter().map(|(address, account)| {
        let storage =
            account.storage_slots().map(|(slot, value)| (U256::from_be_bytes(*slot), value));
        let parts = TrieAccountParts {
            nonce: account.nonce.unwrap_or_default(),
            balance: account.balance,
            code_hash: account.code_hash().unwrap_or(KECCAK_EMPTY),
            storage,
        };
        (*address, parts)
    }))
}

/// The contracts that the system calls, with their code at run time, for genesis files of chains
/// that start after Prague: EIP-2935, EIP-4788, EIP-7002 and EIP-7251.
pub fn system_contracts() -> Vec<(Address, Bytes)> {
    vec![
        (HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE.clone()),
        (BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE.clone()),
        (WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE.clone()),
        (CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, consolidation_code()),
    ]
}

/// The constant has two zero bytes behind the code that the public networks deployed. They would
/// never run, but they change the code's hash, and so a genesis'.
fn consolidation_code() -> Bytes {
    let padded = &CONSOLIDATION_REQUEST_PREDEPLOY_CODE;
    let end = padded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    padded.slice(..end)
}
