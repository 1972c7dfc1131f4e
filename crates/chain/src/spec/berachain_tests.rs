//! The Berachain section of a genesis, and the rules that follow from it, by table.

use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_primitives::{Address, B256, U256, address, b256};
use serde_json::{Value, json};

use super::*;
use crate::{
    GenesisError, PolTx, ProposerPublicKey,
    testing::{berachain_genesis, prague_genesis, spec_of},
};

const GWEI: u64 = 1_000_000_000;

/// The forks of a public network as its genesis file has them.
fn network(chain_id: u64) -> Value {
    let distributor = "0xD2f19a79b026Fb636A7c300bF5947df113940761";
    let mut genesis = prague_genesis();
    let (prague, osaka, section) = match chain_id {
        80_094 => (
            1_749_056_400,
            1_783_526_400,
            json!({
                "prague1": {
                    "time": 1_756_915_200, "baseFeeChangeDenominator": 48,
                    "minimumBaseFeeWei": GWEI, "polDistributorAddress": distributor
                },
                "prague2": { "time": 1_759_248_000, "minimumBaseFeeWei": 0 },
                "prague3": {
                    "time": 1_762_164_459,
                    "blockedAddresses": ["0x9BAD77F1D527CD2D023d33eB3597A456d0c1Ab4a"],
                    "rescueAddress": "0xD276D30592bE512a418f2448e23f9E7F372b32A2",
                    "bexVaultAddress": "0x4be03f781c497a489e3cb0287833452ca9b9e80b"
                },
                "prague4": { "time": 1_762_963_200 },
                "osaka1": {
                    "time": 1_785_945_600, "minimumBaseFeeWei": GWEI,
                    "minimumBlobBaseFeeWei": GWEI
                }
            }),
        ),
        80_069 => (
            1_746_633_600,
            1_779_897_600,
            json!({
                "prague1": {
                    "time": 1_754_496_000, "baseFeeChangeDenominator": 48,
                    "minimumBaseFeeWei": 10 * GWEI, "polDistributorAddress": distributor
                },
                "prague2": { "time": 1_758_124_800, "minimumBaseFeeWei": 0 },
                "osaka1": {
                    "time": 1_784_736_000, "minimumBaseFeeWei": GWEI,
                    "minimumBlobBaseFeeWei": GWEI
                }
            }),
        ),
        other => panic!("{other} is no public network"),
    };
    genesis["config"]["chainId"] = chain_id.into();
    genesis["config"]["pragueTime"] = prague.into();
    genesis["config"]["osakaTime"] = osaka.into();
    genesis["config"]["berachain"] = section;
    let blobs = json!({ "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 });
    genesis["config"]["blobSchedule"] = json!({ "cancun": blobs, "prague": blobs, "osaka": blobs });
    genesis
}

/// An empty block above a parent with this time and base fee of two gwei.
fn after(spec: &ChainSpec, timestamp: u64) -> u64 {
    spec.next_base_fee(&Header {
        timestamp,
        gas_limit: 36_000_000,
        base_fee_per_gas: Some(2 * GWEI),
        ..Header::default()
    })
}

/// Why a Berachain genesis is refused after a change to its section.
fn refusal(change: impl FnOnce(&mut Value)) -> GenesisError {
    let mut genesis = berachain_genesis();
    change(&mut genesis["config"]["berachain"]);
    spec_of(&genesis).unwrap_err()
}

fn text(error: &GenesisError) -> String {
    use std::error::Error;
    format!("{error}: {}", error.source().map_or_else(String::new, ToString::to_string))
}

#[test]
fn the_parents_time_decides_the_step_and_the_floor_of_the_base_fee() {
    let spec = spec_of(&network(80_094)).unwrap();
    // One eighth, one 48th, and the floor where a small fee would fall below it.
    assert_eq!(after(&spec, 1_756_915_199), 1_750_000_000);
    assert_eq!(after(&spec, 1_756_915_200), 1_958_333_334);
    let floor = |timestamp| {
        spec.next_base_fee(&Header {
            timestamp,
            gas_limit: 36_000_000,
            base_fee_per_gas: Some(7),
            ..Header::default()
        })
    };
    for (timestamp, expected) in [
        (1_756_915_199, 7),
        (1_756_915_200, GWEI),
        (1_759_247_999, GWEI),
        (1_759_248_000, 7),
        (1_785_945_599, 7),
        (1_785_945_600, GWEI),
    ] {
        assert_eq!(floor(timestamp), expected, "{timestamp}");
    }
    let bepolia = spec_of(&network(80_069)).unwrap();
    assert_eq!(after(&bepolia, 1_754_496_000), 10 * GWEI);
    assert_eq!(after(&bepolia, 1_758_124_800), 1_958_333_334);
}

#[test]
fn from_osaka1_the_curve_of_the_blob_base_fee_begins_at_its_floor() {
    let spec = spec_of(&network(80_094)).unwrap();
    let fraction = 3_338_477;
    let (before, from) = (1_785_945_599, 1_785_945_600);
    assert_eq!(spec.blob_base_fee(before, 0), Some(1));
    assert_eq!(spec.blob_base_fee(from, 0), Some(GWEI.into()));
    // e^3, in wei and in gwei.
    assert_eq!(spec.blob_base_fee(before, 3 * fraction), Some(20));
    assert_eq!(spec.blob_base_fee(from, 3 * fraction), Some(20_085_536_923));
}

#[test]
fn every_fork_of_a_public_network_has_three_to_six_blobs_without_a_base_cost() {
    let spec = spec_of(&network(80_069)).unwrap();
    for timestamp in [0, 1_746_633_600, 1_779_897_600, 1_784_736_000] {
        let params = spec.blob_params_at(timestamp).unwrap();
        assert_eq!((params.target_blob_count, params.max_blob_count), (3, 6), "{timestamp}");
        assert_eq!((params.update_fraction, params.blob_base_cost), (3_338_477, 0), "{timestamp}");
        assert_eq!(params.max_blobs_per_tx, 6, "{timestamp}");
    }
    // Under EIP-7918 the excess would not fall at this base fee.
    let mut parent = Header { timestamp: 1_784_736_000, ..spec.genesis_header() };
    parent.excess_blob_gas = Some(20 * 131_072);
    parent.blob_gas_used = Some(0);
    parent.base_fee_per_gas = Some(GWEI);
    assert_eq!(spec.next_excess_blob_gas(&parent, 1_784_736_002), Some(17 * 131_072));
}

#[test]
fn a_schedule_in_the_file_is_followed() {
    let mut genesis = berachain_genesis();
    genesis["config"]["blobSchedule"]["osaka"] =
        json!({ "target": 1, "max": 2, "baseFeeUpdateFraction": 7 });
    let params = spec_of(&genesis).unwrap().blob_params_at(100).unwrap();
    assert_eq!((params.target_blob_count, params.max_blob_count), (1, 2));
    assert_eq!((params.update_fraction, params.blob_base_cost), (7, 0));
}

#[test]
fn a_fork_that_the_schedule_leaves_out_has_ethereums_blobs_without_a_base_cost() {
    let mut genesis = network(80_094);
    genesis["config"].as_object_mut().unwrap().remove("blobSchedule");
    let spec = spec_of(&genesis).unwrap();
    for (timestamp, target, max, fraction) in
        [(0, 3, 6, 3_338_477), (1_749_056_400, 6, 9, 5_007_716), (1_783_526_400, 6, 9, 5_007_716)]
    {
        let params = spec.blob_params_at(timestamp).unwrap();
        assert_eq!((params.target_blob_count, params.max_blob_count), (target, max));
        assert_eq!((params.update_fraction, params.blob_base_cost), (fraction, 0));
    }
}

#[test]
fn osaka_is_that_of_brip_0010() {
    let spec = spec_of(&network(80_094)).unwrap();
    let (before, from) = (1_783_526_399, 1_783_526_400);
    assert_eq!(spec.code_limits_at(before), None);
    let limits = spec.code_limits_at(from).unwrap();
    assert_eq!((limits.code, limits.init_code), (32_768, 65_536));
    assert_eq!(spec.max_block_bytes_at(before), None);
    assert_eq!(spec.max_block_bytes_at(from), Some(8 << 20));
    assert!(!spec.has_cell_proofs_at(from));
    let mut genesis = prague_genesis();
    genesis["config"]["osakaTime"] = json!(0);
    let ethereum = spec_of(&genesis).unwrap();
    assert_eq!(ethereum.code_limits_at(from), None);
    assert_eq!(ethereum.max_block_bytes_at(from), Some(8 << 20));
    assert!(ethereum.has_cell_proofs_at(from));
}

#[test]
fn a_header_has_the_proposers_key_from_prague1_on() {
    let spec = spec_of(&network(80_094)).unwrap();
    for (timestamp, has_key) in [(1_756_915_199, false), (1_756_915_200, true)] {
        let parent = Header { timestamp: timestamp - 2, ..spec.genesis_header() };
        let mut header = Header {
            parent_hash: parent.hash_slow(),
            number: 1,
            timestamp,
            gas_limit: parent.gas_limit,
            base_fee_per_gas: Some(spec.next_base_fee(&parent)),
            withdrawals_root: Some(B256::ZERO),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(B256::ZERO),
            prev_proposer_pubkey: has_key.then_some(ProposerPublicKey::repeat_byte(5)),
            ..Header::default()
        };
        assert_eq!(spec.validate_header(&header, &parent), Ok(()));
        let field = HeaderField::ParentProposerPubkey;
        let (other, expected) = if has_key {
            (None, HeaderError::Missing(field))
        } else {
            (Some(ProposerPublicKey::ZERO), HeaderError::Unexpected(field))
        };
        header.prev_proposer_pubkey = other;
        assert_eq!(spec.validate_header(&header, &parent), Err(expected));
    }
}

#[test]
fn a_genesis_under_prague1_has_48_zero_bytes_as_its_key() {
    let header = spec_of(&berachain_genesis()).unwrap().genesis_header();
    assert_eq!(header.prev_proposer_pubkey, Some(ProposerPublicKey::ZERO));
    let later = spec_of(&network(80_094)).unwrap().genesis_header();
    assert_eq!(later.prev_proposer_pubkey, None);
}

#[test]
fn the_first_transaction_follows_from_the_block_and_needs_a_key() {
    let spec = spec_of(&network(80_094)).unwrap();
    let key = ProposerPublicKey::repeat_byte(9);
    assert_eq!(spec.pol_transaction(5, 1_756_915_199, GWEI, None), Ok(None));
    let from = 1_756_915_200;
    assert_eq!(spec.pol_transaction(5, from, GWEI, None), Err(MissingProposerKey));
    let distributor = address!("0xd2f19a79b026fb636a7c300bf5947df113940761");
    let expected = PolTx::for_block(80_094, distributor, 5, GWEI, &key);
    assert_eq!(spec.pol_transaction(5, from, GWEI, Some(&key)), Ok(Some(expected)));
    let ethereum = spec_of(&prague_genesis()).unwrap();
    assert_eq!(ethereum.pol_transaction(5, from, GWEI, Some(&key)), Ok(None));
}

#[test]
fn a_public_network_is_not_taken_for_ethereum() {
    for chain_id in [80_094, 80_069] {
        let mut genesis = network(chain_id);
        genesis["config"].as_object_mut().unwrap().remove("berachain");
        let error = spec_of(&genesis).unwrap_err();
        assert!(matches!(error, GenesisError::NoBerachain { chain_id: id } if id == chain_id));
    }
    let mainnet = spec_of(&network(80_094)).unwrap();
    assert_eq!(
        mainnet.public_genesis_hash(),
        Some(b256!("0xd57819422128da1c44339fc7956662378c17e2213e669b427ac91cd11dfcfb38"))
    );
    assert_eq!(spec_of(&berachain_genesis()).unwrap().public_genesis_hash(), None);
}

#[test]
fn what_a_section_says_beyond_the_rules_is_ignored_by_name() {
    let mut genesis = berachain_genesis();
    assert!(spec_of(&genesis).unwrap().ignored_keys().is_empty());
    let section = &mut genesis["config"]["berachain"];
    section["comment"] = json!("for operators");
    section["prague5"] = Value::Null;
    section["prague2"]["baseFeeChangeDenominator"] = json!(48);
    section["osaka1"]["minimumPriorityFeeWei"] = json!(0);
    assert_eq!(
        spec_of(&genesis).unwrap().ignored_keys(),
        [
            "berachain.comment",
            "berachain.osaka1.minimumPriorityFeeWei",
            "berachain.prague2.baseFeeChangeDenominator"
        ]
    );
}

#[test]
fn a_fork_that_is_not_known_is_refused_by_name() {
    let error = refusal(|section| section["prague5"] = json!({ "time": 9_999_999_999_u64 }));
    let GenesisError::UnknownFork { name } = error else { panic!("{error}") };
    assert_eq!(name, "berachain.prague5");
}

#[test]
fn an_incomplete_section_is_refused_by_name() {
    for (fork, missing) in [("prague1", "prague1"), ("prague2", "prague2")] {
        let error = refusal(|section| {
            section.as_object_mut().unwrap().remove(fork);
        });
        assert!(text(&error).contains(&format!("missing field `{missing}`")), "{}", text(&error));
    }
    let error = refusal(|section| *section = json!({}));
    assert!(matches!(error, GenesisError::Berachain(_)));
    let error = refusal(|section| section["prague1"]["time"] = json!("0x0"));
    assert!(matches!(error, GenesisError::Berachain(_)));
}

#[test]
fn berachains_forks_come_in_their_order() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str, &str); 6] = [
        (|g| g["config"]["pragueTime"] = json!(1), "berachain.prague1", "pragueTime"),
        (
            |g| g["config"]["berachain"]["prague1"]["time"] = json!(1),
            "berachain.prague2",
            "berachain.prague1",
        ),
        (
            |g| g["config"]["berachain"]["prague4"] = json!({ "time": 0 }),
            "berachain.prague4",
            "berachain.prague3",
        ),
        (
            |g| {
                g["config"]["berachain"]["prague2"]["time"] = json!(3);
                g["config"]["berachain"]["prague3"] = json!({
                    "time": 2, "blockedAddresses": [], "rescueAddress": Address::ZERO,
                    "bexVaultAddress": Address::ZERO,
                });
            },
            "berachain.prague3",
            "berachain.prague2",
        ),
        (|g| g["config"]["osakaTime"] = json!(1), "berachain.osaka1", "osakaTime"),
        (
            |g| {
                g["config"]["berachain"]["prague2"]["time"] = json!(3);
                g["config"]["osakaTime"] = json!(2);
            },
            "osakaTime",
            "berachain.prague2",
        ),
    ];
    for (change, fork, after) in changes {
        let mut genesis = berachain_genesis();
        // The forks before Osaka may then be at any time.
        if fork == "berachain.prague1" {
            genesis["config"]["osakaTime"] = json!(1);
            genesis["config"]["berachain"]["osaka1"]["time"] = json!(1);
        }
        change(&mut genesis);
        let error = spec_of(&genesis).unwrap_err();
        let GenesisError::ForkOrder { fork: got, after: follows } = error else {
            panic!("{fork}: {error}")
        };
        assert_eq!((got, follows), (fork, after));
    }
}

#[test]
fn osaka1_needs_no_osaka_but_the_forks_before_it() {
    let mut genesis = berachain_genesis();
    genesis["config"]["osakaTime"] = Value::Null;
    assert!(spec_of(&genesis).is_ok());
    genesis["config"]["berachain"]["prague2"]["time"] = json!(1);
    assert!(matches!(
        spec_of(&genesis).unwrap_err(),
        GenesisError::ForkOrder { fork: "berachain.osaka1", after: "berachain.prague2" }
    ));
}

#[test]
fn a_network_that_does_not_begin_in_cancun_is_refused() {
    for (name, value) in [
        ("londonBlock", json!(1)),
        ("mergeNetsplitBlock", json!(1)),
        ("terminalTotalDifficulty", json!(1)),
        ("shanghaiTime", json!(1)),
        ("cancunTime", json!(1)),
    ] {
        let mut genesis = network(80_094);
        genesis["config"][name] = value;
        let error = spec_of(&genesis).unwrap_err();
        let fits = matches!(
            error,
            GenesisError::BerachainStart { field } if field == name
        );
        // Ethereum's order is looked at first.
        assert!(fits || matches!(error, GenesisError::ForkOrder { .. }), "{name}: {error}");
    }
    let mut genesis = berachain_genesis();
    genesis["config"]["bpo1Time"] = json!(1);
    genesis["config"]["blobSchedule"]["bpo1"] =
        json!({ "target": 1, "max": 2, "baseFeeUpdateFraction": 7 });
    let error = spec_of(&genesis).unwrap_err();
    assert!(matches!(error, GenesisError::UnknownFork { name } if name == "bpo1Time"));
}

#[test]
fn a_genesis_is_read_as_public_networks_write_it() {
    let mut genesis = network(80_069);
    let plain = spec_of(&genesis).unwrap().genesis_header();
    genesis["config"]["daoForkBlock"] = json!(0);
    genesis["config"]["daoForkSupport"] = json!(true);
    genesis["config"]["ethash"] = json!({});
    genesis["config"]["muirGlacierBlock"] = json!(0);
    genesis["config"]["mergeNetsplitBlock"] = json!(0);
    genesis["config"]["terminalTotalDifficultyPassed"] = json!(true);
    genesis["mixhash"] = json!(B256::ZERO);
    genesis["nonce"] = json!("0x0");
    genesis["timestamp"] = json!("100");
    genesis["extraData"] = json!("");
    assert_eq!(spec_of(&genesis).unwrap().genesis_header(), plain);
    genesis["extraData"] = json!(format!("0x{}", "00".repeat(117)));
    assert_eq!(spec_of(&genesis).unwrap().genesis_header().extra_data.len(), 117);
}

#[test]
fn zeros_that_no_chain_could_live_with_are_refused() {
    for (fork, name, zero) in [
        ("prague1", "baseFeeChangeDenominator", json!(0)),
        ("prague1", "polDistributorAddress", json!(Address::ZERO)),
        ("osaka1", "minimumBaseFeeWei", json!(0)),
        ("osaka1", "minimumBlobBaseFeeWei", json!(0)),
    ] {
        let error = refusal(|section| section[fork][name] = zero);
        let GenesisError::BerachainZero { field } = error else { panic!("{name}: {error}") };
        assert_eq!(field, format!("{fork}.{name}"));
    }
}

#[test]
fn deposits_are_made_where_every_network_has_its_contract() {
    let mut genesis = berachain_genesis();
    genesis["config"].as_object_mut().unwrap().remove("depositContractAddress");
    let deposit = address!("0x4242424242424242424242424242424242424242");
    assert_eq!(spec_of(&genesis).unwrap().deposit_contract_address(), Some(deposit));
    genesis["config"].as_object_mut().unwrap().remove("berachain");
    assert_eq!(spec_of(&genesis).unwrap().deposit_contract_address(), None);
}

#[test]
fn a_section_does_not_change_the_state_of_the_first_block() {
    let (plain, own) = (prague_genesis(), berachain_genesis());
    let (plain, own) = (spec_of(&plain).unwrap(), spec_of(&own).unwrap());
    assert_eq!(plain.genesis_header().state_root, own.genesis_header().state_root);
    assert_ne!(plain.genesis_hash(), own.genesis_hash());
    assert_eq!(own.genesis_header().difficulty, U256::ZERO);
}
