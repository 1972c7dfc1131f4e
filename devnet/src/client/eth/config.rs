//! `eth_config` (EIP-7910): which rules apply, and which will.
//!
//! The fork that counts is the one at the head's time: this client lives on the chain's clock, not
//! on the wall's.

use std::collections::BTreeMap;

use alloy_eip2124::ForkHash;
use alloy_eips::eip7840::BlobParams;
use alloy_eips::{eip2935, eip4788, eip7002, eip7251};
use alloy_evm::eth::spec::EthExecutorSpec as _;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, Bytes, U64, address};
use preconf_chain::ChainSpec;
use preconf_engine::rpc::Params;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::ExecutionClient;
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[Method::new("eth_config", config)];

/// The rules from one fork on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ForkConfig {
    activation_time: u64,
    blob_schedule: Option<Value>,
    chain_id: U64,
    fork_id: Bytes,
    precompiles: BTreeMap<&'static str, Address>,
    system_contracts: BTreeMap<&'static str, Address>,
}

fn config(client: &ExecutionClient, _: &Params) -> Answer {
    let spec = &client.spec;
    let now = client.head().header().timestamp;
    let genesis = spec.genesis_header().timestamp;
    let forks = forks(spec);
    let current = forks.times.iter().copied().filter(|time| *time <= now).max();
    let mut coming = forks.times.iter().copied().filter(|time| *time > now);
    let (next, last) = (coming.next(), forks.times.last().copied().filter(|time| *time > now));
    let at = |time| fork_config(spec, &forks, time);
    answer(&json!({
        "current": at(current.unwrap_or(genesis)),
        "next": next.map(at),
        "last": last.map(at),
    }))
}

fn fork_config(spec: &ChainSpec, forks: &Forks, time: u64) -> ForkConfig {
    ForkConfig {
        activation_time: time,
        blob_schedule: spec.blob_params_at(time).map(|params| blob_schedule(&params)),
        chain_id: U64::from(spec.chain_id()),
        fork_id: Bytes::copy_from_slice(&forks.id_at(spec, time).0),
        precompiles: precompiles(spec, time),
        system_contracts: system_contracts(spec, time),
    }
}

fn blob_schedule(params: &BlobParams) -> Value {
    json!({
        "target": params.target_blob_count,
        "max": params.max_blob_count,
        "baseFeeUpdateFraction": params.update_fraction as u64,
    })
}

/// When forks begin: by number, and since the merge by time; in order, each once, without those of
/// the genesis.
#[derive(Debug)]
struct Forks {
    numbers: Vec<u64>,
    times: Vec<u64>,
}

impl Forks {
    /// The checksum of what a chain was up to a time (EIP-6122).
    fn id_at(&self, spec: &ChainSpec, time: u64) -> ForkHash {
        let times = self.times.iter().filter(|fork| **fork <= time);
        let forks = self.numbers.iter().chain(times);
        forks.fold(ForkHash::from(spec.genesis_hash()), |id, fork| id + *fork)
    }
}

/// The forks that the genesis schedules, under whatever name.
fn forks(spec: &ChainSpec) -> Forks {
    let config = serde_json::to_value(&spec.genesis().config).unwrap_or_default();
    let mut forks = Forks { numbers: Vec::new(), times: Vec::new() };
    collect(&config, &mut forks);
    for (list, first) in [
        (&mut forks.numbers, spec.genesis_header().number),
        (&mut forks.times, spec.genesis_header().timestamp),
    ] {
        list.retain(|fork| *fork > first);
        list.sort_unstable();
        list.dedup();
    }
    forks
}

/// Forks are named `…Block` or `…Time`; those of a section of their own have a `time` each.
fn collect(config: &Value, forks: &mut Forks) {
    let Value::Object(fields) = config else { return };
    for (name, value) in fields {
        match value.as_u64() {
            Some(fork) if name.ends_with("Block") => forks.numbers.push(fork),
            Some(fork) if name.ends_with("Time") || name == "time" => forks.times.push(fork),
            Some(_) => (),
            None => collect(value, forks),
        }
    }
}

fn precompiles(spec: &ChainSpec, time: u64) -> BTreeMap<&'static str, Address> {
    let mut names = vec![
        ("ECREC", 1),
        ("SHA256", 2),
        ("RIPEMD160", 3),
        ("ID", 4),
        ("MODEXP", 5),
        ("BN254_ADD", 6),
        ("BN254_MUL", 7),
        ("BN254_PAIRING", 8),
        ("BLAKE2F", 9),
    ];
    if spec.is_cancun_active_at_timestamp(time) {
        names.push(("KZG_POINT_EVALUATION", 0x0a));
    }
    if spec.is_prague_active_at_timestamp(time) {
        names.extend([
            ("BLS12_G1ADD", 0x0b),
            ("BLS12_G1MSM", 0x0c),
            ("BLS12_G2ADD", 0x0d),
            ("BLS12_G2MSM", 0x0e),
            ("BLS12_PAIRING_CHECK", 0x0f),
            ("BLS12_MAP_FP_TO_G1", 0x10),
            ("BLS12_MAP_FP2_TO_G2", 0x11),
        ]);
    }
    if spec.is_osaka_active_at_timestamp(time) {
        names.push(("P256VERIFY", 0x100));
    }
    let place = |number: u64| Address::left_padding_from(&number.to_be_bytes());
    names.into_iter().map(|(name, number)| (name, place(number))).collect()
}

/// Ethereum's contract for deposits, where the chain has no other.
const DEPOSIT_CONTRACT: Address = address!("0x00000000219ab540356cbb839cbe05303d7705fa");

fn system_contracts(spec: &ChainSpec, time: u64) -> BTreeMap<&'static str, Address> {
    let mut contracts = BTreeMap::new();
    if spec.is_cancun_active_at_timestamp(time) {
        contracts.insert("BEACON_ROOTS_ADDRESS", eip4788::BEACON_ROOTS_ADDRESS);
    }
    if spec.is_prague_active_at_timestamp(time) {
        let deposits = spec.deposit_contract_address();
        contracts.extend([
            ("HISTORY_STORAGE_ADDRESS", eip2935::HISTORY_STORAGE_ADDRESS),
            ("DEPOSIT_CONTRACT_ADDRESS", deposits.unwrap_or(DEPOSIT_CONTRACT)),
            ("WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS", eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS),
            (
                "CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS",
                eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
            ),
        ]);
    }
    contracts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forks_of_a_section_count_and_those_of_the_genesis_do_not() {
        let config = json!({
            "chainId": 5, "homesteadBlock": 0, "londonBlock": 9, "osakaTime": 70,
            "terminalTotalDifficulty": 3, "berachain": { "prague1": { "time": 50, "x": 1 } },
        });
        let mut forks = Forks { numbers: Vec::new(), times: Vec::new() };
        collect(&config, &mut forks);
        forks.times.sort_unstable();
        assert_eq!((forks.numbers, forks.times), (vec![0, 9], vec![50, 70]));
    }
}
