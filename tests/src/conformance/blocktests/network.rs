//! The networks of the tests: which forks are active when.
//!
//! A name is one fork, active from the start, or two with the moment of the transition between
//! them: `CancunToPragueAtTime15k`, `BerlinToLondonAt5`. A name that is none of these is not known;
//! one that is known but cannot be run has a reason.

use std::collections::BTreeMap;

use alloy_eips::eip7840::BlobParams;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, U64, address};
use preconf_chain::Header;
use serde_json::{Map, Value, json};

use super::fixture::Configuration;

/// What the tests call a fork, and its entries in a genesis' `config`. The forks before Paris are
/// at blocks, those after it at times.
const FORKS: [(&str, &[&str]); 22] = [
    ("Frontier", &[]),
    ("Homestead", &["homesteadBlock"]),
    ("EIP150", &["eip150Block"]),
    ("EIP158", &["eip155Block", "eip158Block"]),
    ("Byzantium", &["byzantiumBlock"]),
    ("ConstantinopleFix", &["constantinopleBlock", "petersburgBlock"]),
    ("Istanbul", &["istanbulBlock"]),
    ("MuirGlacier", &["muirGlacierBlock"]),
    ("Berlin", &["berlinBlock"]),
    ("London", &["londonBlock"]),
    ("ArrowGlacier", &["arrowGlacierBlock"]),
    ("GrayGlacier", &["grayGlacierBlock"]),
    ("Paris", &["mergeNetsplitBlock", "terminalTotalDifficulty"]),
    ("Shanghai", &["shanghaiTime"]),
    ("Cancun", &["cancunTime"]),
    ("Prague", &["pragueTime"]),
    ("Osaka", &["osakaTime"]),
    ("BPO1", &["bpo1Time"]),
    ("BPO2", &["bpo2Time"]),
    ("BPO3", &["bpo3Time"]),
    ("BPO4", &["bpo4Time"]),
    ("BPO5", &["bpo5Time"]),
];

/// Where in [`FORKS`] the merge is.
const PARIS: usize = 12;
/// The first fork that a snapshot of ethereum/tests has drafts of.
const PRAGUE: usize = 15;

/// Networks that cannot be run, and why.
const NOT_RUN: [(&str, &str); 4] = [
    ("Constantinople", "it is without Petersburg, as no public chain was for a block"),
    (
        "ByzantiumToConstantinopleAt5",
        "it is without Petersburg, as no public chain was for a block",
    ),
    ("HomesteadToDaoAt5", "the DAO's ether is not moved here"),
    ("ArrowGlacierToParisAtDiffC0000", "it names the difficulty of the merge, not its block"),
];

/// When the second fork of a transition is, where forks are at blocks and where they are at times.
const AT_BLOCK: (&str, u64) = ("At5", 5);
const AT_TIME: (&str, u64) = ("AtTime15k", 15_000);

/// Beyond every block of a test.
const NEVER: u64 = u64::MAX;

/// Where Ethereum's validators deposit, in the tests too.
const DEPOSIT_CONTRACT: Address = address!("0x00000000219ab540356cbb839cbe05303d7705fa");

/// The forks of a network with the blocks or times of their activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The last of them, in [`FORKS`].
    last: usize,
    entries: Vec<(&'static str, u64)>,
}

/// Why there is no network with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoNetwork {
    /// Nobody has said what the name means.
    Unknown,
    /// Why it is not run.
    NotRun(&'static str),
}

impl Network {
    /// The network with this name.
    pub(super) fn named(name: &str) -> Result<Self, NoNetwork> {
        if let Some((_, reason)) = NOT_RUN.iter().find(|(known, _)| *known == name) {
            return Err(NoNetwork::NotRun(reason));
        }
        Self::parse(name).ok_or(NoNetwork::Unknown)
    }

    fn parse(name: &str) -> Option<Self> {
        if let Some(last) = position(name) {
            return Some(Self::new(last, last, 0));
        }
        for ((suffix, at), is_at_time) in [(AT_BLOCK, false), (AT_TIME, true)] {
            let Some(forks) = name.strip_suffix(suffix) else { continue };
            let (from, to) = forks.split_once("To")?;
            let (from, to) = (position(from)?, position(to)?);
            let fits = from < to && to != PARIS && (to > PARIS) == is_at_time;
            // Nothing comes between: a test begins before the merge or after it.
            let merged = (from >= PARIS) == is_at_time;
            return (fits && merged).then(|| Self::new(from, to, at));
        }
        None
    }

    fn new(from: usize, to: usize, at: u64) -> Self {
        let entries = FORKS.iter().enumerate().take(to + 1).flat_map(|(index, (_, entries))| {
            let at = if index <= from { 0 } else { at };
            entries.iter().map(move |entry| (*entry, at))
        });
        Self { last: to, entries: entries.collect() }
    }

    /// All names, for people.
    pub(super) fn names() -> String {
        let forks = FORKS.iter().map(|(name, _)| (*name).to_owned());
        let transitions = FORKS.windows(2).filter_map(|pair| {
            let [(from, _), (to, _)] = pair else { return None };
            let names = [AT_BLOCK, AT_TIME].map(|(at, _)| format!("{from}To{to}{at}"));
            names.into_iter().find(|name| Self::parse(name).is_some())
        });
        let not_run = NOT_RUN.iter().map(|(name, _)| (*name).to_owned());
        forks.chain(transitions).chain(not_run).collect::<Vec<_>>().join(", ")
    }

    /// Whether its blocks are mined.
    pub(super) const fn is_mined(&self) -> bool {
        self.last < PARIS
    }

    /// Whether a test of it is a draft, from before its last fork was final: those that are final
    /// say in their configuration which blobs each fork has (EIP-7840).
    pub(super) fn is_draft(&self, configuration: Option<&Configuration>) -> bool {
        let schedule = configuration.and_then(|known| known.blob_schedule.as_ref());
        let (name, _) = FORKS[self.last];
        self.last >= PRAGUE && !schedule.is_some_and(|schedule| schedule.contains_key(name))
    }

    /// The genesis file of a chain that begins with this header and these accounts.
    pub(super) fn genesis(
        &self,
        header: &Header,
        accounts: &BTreeMap<Address, GenesisAccount>,
        configuration: Option<&Configuration>,
    ) -> String {
        let hex = |number: u64| format!("{number:#x}");
        let mut genesis = json!({
            "config": self.config(configuration),
            "alloc": accounts,
            "nonce": header.nonce,
            "timestamp": hex(header.timestamp),
            "extraData": header.extra_data,
            "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used),
            "difficulty": header.difficulty,
            "mixHash": header.mix_hash,
            "coinbase": header.beneficiary,
        });
        for (entry, number) in [
            ("baseFeePerGas", header.base_fee_per_gas),
            ("blobGasUsed", header.blob_gas_used),
            ("excessBlobGas", header.excess_blob_gas),
        ] {
            if let Some(number) = number {
                genesis[entry] = hex(number).into();
            }
        }
        genesis.to_string()
    }

    fn config(&self, configuration: Option<&Configuration>) -> Map<String, Value> {
        let entries = self.entries.iter();
        let mut config: Map<String, Value> =
            entries.map(|(entry, at)| ((*entry).to_owned(), (*at).into())).collect();
        if self.is_mined() {
            for entry in FORKS[PARIS].1 {
                config.insert((*entry).to_owned(), NEVER.into());
            }
        }
        let chain_id = configuration.and_then(|known| known.chain_id).unwrap_or(U64::ONE);
        config.insert("chainId".to_owned(), chain_id.to::<u64>().into());
        config.insert("depositContractAddress".to_owned(), json!(DEPOSIT_CONTRACT));
        config.insert("blobSchedule".to_owned(), blob_schedule(configuration));
        config
    }
}

fn position(fork: &str) -> Option<usize> {
    let fork = if fork == "Merge" { "Paris" } else { fork };
    FORKS.iter().position(|(name, _)| *name == fork)
}

/// What the test says of the blobs of each fork, and Ethereum's of those that it does not name.
fn blob_schedule(configuration: Option<&Configuration>) -> Value {
    let entry = |target: u64, max: u64, fraction: u128| json!({ "target": target, "max": max, "baseFeeUpdateFraction": fraction });
    let mut schedule: Map<String, Value> = [
        ("cancun", BlobParams::cancun()),
        ("prague", BlobParams::prague()),
        ("osaka", BlobParams::osaka()),
        ("bpo1", BlobParams::bpo1()),
        ("bpo2", BlobParams::bpo2()),
    ]
    .into_iter()
    .map(|(fork, blobs)| {
        let BlobParams { target_blob_count, max_blob_count, update_fraction, .. } = blobs;
        (fork.to_owned(), entry(target_blob_count, max_blob_count, update_fraction))
    })
    .collect();
    let named = configuration.and_then(|known| known.blob_schedule.as_ref());
    for (fork, blobs) in named.into_iter().flatten() {
        let fraction = blobs.base_fee_update_fraction.to();
        let blobs = entry(blobs.target.to(), blobs.max.to(), fraction);
        schedule.insert(fork.to_lowercase(), blobs);
    }
    schedule.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(name: &str) -> Vec<(&'static str, u64)> {
        let all = Network::named(name).unwrap().entries.into_iter();
        all.skip_while(|(entry, _)| *entry != "londonBlock").skip(1).collect()
    }

    #[test]
    fn a_transition_has_the_earlier_forks_from_the_start() {
        let after_paris = |name: &str| -> Vec<_> {
            entries(name).into_iter().filter(|(entry, _)| entry.ends_with("Time")).collect()
        };
        assert_eq!(after_paris("Paris"), []);
        assert_eq!(after_paris("Cancun"), [("shanghaiTime", 0), ("cancunTime", 0)]);
        assert_eq!(after_paris("ParisToShanghaiAtTime15k"), [("shanghaiTime", 15_000)]);
        let expected = [("shanghaiTime", 0), ("cancunTime", 15_000)];
        assert_eq!(after_paris("ShanghaiToCancunAtTime15k"), expected);
        assert_eq!(entries("BerlinToLondonAt5"), []);
        let london = Network::named("BerlinToLondonAt5").unwrap().entries;
        assert_eq!(london.last(), Some(&("londonBlock", 5)));
        assert_eq!(london[london.len() - 2], ("berlinBlock", 0));
        let last = |name| Network::named(name).unwrap().entries.last().copied();
        assert_eq!(last("CancunToPragueAtTime15k"), Some(("pragueTime", 15_000)));
        assert_eq!(last("OsakaToBPO1AtTime15k"), Some(("bpo1Time", 15_000)));
        assert_eq!(last("BPO3ToBPO4AtTime15k"), Some(("bpo4Time", 15_000)));
    }

    #[test]
    fn a_name_is_known_if_it_can_be_run_or_has_a_reason() {
        for name in Network::names().split(", ") {
            assert_ne!(Network::named(name), Err(NoNetwork::Unknown), "{name}");
        }
        for name in
            ["Amsterdam", "To", "CancunToPragueAt5", "PragueToCancunAtTime15k", "LondonToParisAt5"]
        {
            assert_eq!(Network::named(name), Err(NoNetwork::Unknown), "{name}");
        }
        let dao = Network::named("HomesteadToDaoAt5");
        assert!(matches!(dao, Err(NoNetwork::NotRun(_))));
    }

    #[test]
    fn a_test_of_prague_without_a_blob_schedule_is_a_draft() {
        let with = |fork: &str| -> Configuration {
            let blobs =
                json!({ "target": "0x06", "max": "0x09", "baseFeeUpdateFraction": "0x4c6964" });
            serde_json::from_value(json!({ "blobSchedule": { fork: blobs } })).unwrap()
        };
        let prague = Network::named("Prague").unwrap();
        assert!(prague.is_draft(None));
        assert!(prague.is_draft(Some(&with("Cancun"))));
        assert!(!prague.is_draft(Some(&with("Prague"))));
        assert!(!Network::named("Cancun").unwrap().is_draft(None));
    }

    #[test]
    fn the_schedule_of_a_test_wins_over_that_of_its_fork() {
        let blobs = json!({ "target": "0x01", "max": "0x02", "baseFeeUpdateFraction": "0x07" });
        let configuration = json!({ "chainid": "0x05", "blobSchedule": { "BPO1": blobs } });
        let configuration = serde_json::from_value(configuration).unwrap();
        let network = Network::named("OsakaToBPO1AtTime15k").unwrap();
        let config = network.config(Some(&configuration));
        assert_eq!(config["chainId"], 5);
        assert_eq!(config["blobSchedule"]["bpo1"]["target"], 1);
        assert_eq!(config["blobSchedule"]["prague"]["max"], 9);
    }
}
