//! The networks of the tests: which forks are active when.

use std::collections::BTreeMap;

use alloy_genesis::GenesisAccount;
use alloy_primitives::Address;
use preconf_chain::Header;
use serde_json::{Map, Value, json};

/// What the tests call a fork, and its entry in a genesis' `config`. Paris has none: every network
/// here is in it.
const FORKS: [(&str, Option<&str>); 3] =
    [("Paris", None), ("Shanghai", Some("shanghaiTime")), ("Cancun", Some("cancunTime"))];

/// Networks whose tests in this suite are not to be used, and why.
const DRAFTS: [&str; 3] = ["Prague", "CancunToPragueAtTime15k", "Osaka"];

/// When a transition between two forks takes place.
const TRANSITION: &str = "AtTime15k";
const TRANSITION_TIME: u64 = 15_000;

/// Networks from before the merge begin so.
const BEFORE_MERGE: [&str; 13] = [
    "Frontier",
    "Homestead",
    "EIP150",
    "EIP158",
    "Byzantium",
    "Constantinople",
    "Istanbul",
    "MuirGlacier",
    "Berlin",
    "London",
    "ArrowGlacier",
    "GrayGlacier",
    "DAO",
];

/// The forks of a network with the times of their activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    times: Vec<(&'static str, u64)>,
}

impl Network {
    /// The network with this name, or why there is none.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        if DRAFTS.contains(&name) {
            return Err("tests of drafts of that fork, which was changed afterwards".to_owned());
        }
        if BEFORE_MERGE.iter().any(|fork| name.starts_with(fork)) {
            return Err("blocks from before the merge are not built as flashblocks".to_owned());
        }
        let found = match name.strip_suffix(TRANSITION) {
            None => Self::up_to(name, 0),
            Some(transition) => transition.split_once("To").and_then(|(from, to)| {
                let (from, to) = (Self::up_to(from, 0)?, Self::up_to(to, TRANSITION_TIME)?);
                let known = from.times.len();
                let later = to.times.into_iter().skip(known);
                Some(Self { times: from.times.into_iter().chain(later).collect() })
            }),
        };
        found.ok_or_else(|| "the network is not known".to_owned())
    }

    /// All forks up to this one.
    fn up_to(name: &str, time: u64) -> Option<Self> {
        let last = FORKS.iter().position(|(fork, _)| *fork == name)?;
        let entries = FORKS[..=last].iter().filter_map(|(_, entry)| *entry);
        Some(Self { times: entries.map(|entry| (entry, time)).collect() })
    }

    /// The genesis file of a chain that begins with this header and these accounts.
    pub(super) fn genesis(
        &self,
        header: &Header,
        accounts: &BTreeMap<Address, GenesisAccount>,
    ) -> String {
        let mut config: Map<String, Value> = [
            "homesteadBlock",
            "eip150Block",
            "eip155Block",
            "eip158Block",
            "byzantiumBlock",
            "constantinopleBlock",
            "petersburgBlock",
            "istanbulBlock",
            "berlinBlock",
            "londonBlock",
            "mergeNetsplitBlock",
            "terminalTotalDifficulty",
        ]
        .into_iter()
        .map(|entry| (entry.to_owned(), 0.into()))
        .collect();
        config.insert("chainId".to_owned(), 1.into());
        config.insert("terminalTotalDifficultyPassed".to_owned(), true.into());
        config.extend(self.times.iter().map(|(entry, time)| ((*entry).to_owned(), (*time).into())));
        let cancun = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
        config.insert("blobSchedule".to_owned(), json!({ "cancun": cancun }));
        let hex = |number: u64| format!("{number:#x}");
        let mut genesis = json!({
            "config": config,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_has_the_earlier_forks_from_the_start() {
        let times = |name: &str| Network::named(name).unwrap().times;
        assert_eq!(times("Paris"), []);
        assert_eq!(times("Cancun"), [("shanghaiTime", 0), ("cancunTime", 0)]);
        assert_eq!(times("ParisToShanghaiAtTime15k"), [("shanghaiTime", 15_000)]);
        let expected = [("shanghaiTime", 0), ("cancunTime", 15_000)];
        assert_eq!(times("ShanghaiToCancunAtTime15k"), expected);
    }

    #[test]
    fn what_cannot_be_run_has_a_reason() {
        for name in ["Prague", "London", "ArrowGlacierToParisAtDiffC0000", "Amsterdam", "To"] {
            assert!(Network::named(name).is_err(), "{name}");
        }
    }
}
