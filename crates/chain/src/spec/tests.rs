use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_hardforks::{EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, B256, U256, address, b256};
use serde_json::{Value, json};

use super::*;
use crate::{
    GenesisError, ProposerPublicKey, system_contracts,
    testing::{chain, chain_spec, field, prague_genesis, spec_of},
};

/// A header that may follow the genesis of [`prague_genesis`], and that genesis' header.
fn child() -> (ChainSpec, Header, Header) {
    let spec = spec_of(&prague_genesis()).unwrap();
    let parent = spec.genesis_header();
    let header = Header {
        parent_hash: parent.hash_slow(),
        number: 1,
        timestamp: parent.timestamp + 2,
        gas_limit: parent.gas_limit,
        base_fee_per_gas: Some(spec.next_base_fee(&parent)),
        withdrawals_root: Some(B256::ZERO),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(B256::ZERO),
        ..Header::default()
    };
    (spec, parent, header)
}

/// Why the child is refused after a change.
fn refusal(change: impl FnOnce(&mut Header)) -> HeaderError {
    let (spec, parent, mut header) = child();
    assert_eq!(spec.validate_header(&header, &parent), Ok(()));
    change(&mut header);
    spec.validate_header(&header, &parent).unwrap_err()
}

/// Why a genesis is refused after `config.name` was set.
fn genesis_refusal(name: &str, value: Value) -> GenesisError {
    let mut genesis = prague_genesis();
    genesis["config"][name] = value;
    spec_of(&genesis).unwrap_err()
}

#[test]
fn the_frozen_base_fees_are_those_of_upstream() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../testdata/base_fee.json")).unwrap();
    assert_eq!(vectors.len(), 7);
    for vector in vectors {
        let number = |name| field::<u64>(&vector, name);
        let next = base_fee(
            number("parent_gas_used"),
            number("parent_gas_limit"),
            number("parent_base_fee"),
            number("denominator"),
            number("elasticity"),
            number("floor"),
        );
        assert_eq!(next, number("next_base_fee"), "{}", vector["name"]);
    }
}

#[test]
fn a_base_fee_at_the_edges_of_its_numbers_neither_panics_nor_wraps() {
    assert_eq!(base_fee(u64::MAX, u64::MAX, u64::MAX, 8, 2, 0), u64::MAX);
    assert_eq!(base_fee(0, u64::MAX, u64::MAX, 1, 2, 5), 5);
    assert_eq!(base_fee(1, 0, 7, 8, 2, 0), 7);
    assert_eq!(base_fee(1, 100, 7, 0, 2, 0), 7);
    assert_eq!(base_fee(1, 100, 7, 8, 0, 9), 9);
}

#[test]
fn every_header_of_the_public_chain_follows_its_parent() {
    let spec = chain_spec();
    let mut parent = spec.genesis_header();
    for block in chain() {
        assert_eq!(spec.validate_header(&block.header, &parent), Ok(()), "{}", parent.number + 1);
        parent = block.header;
    }
    assert_eq!(parent.number, 54);
}

#[test]
fn the_public_chains_genesis_has_the_hash_that_its_first_block_names() {
    let spec = chain_spec();
    assert_eq!(chain()[0].header.parent_hash, spec.genesis_hash());
    assert_eq!(spec.genesis_header().hash_slow(), spec.genesis_hash());
    assert_eq!(spec.chain_id(), 3_503_995_874_084_926);
}

#[test]
fn a_genesis_with_code_and_storage_under_cancun_has_its_published_hash() {
    let case: Value =
        serde_json::from_str(include_str!("../../testdata/genesis_cancun.json")).unwrap();
    let spec = spec_of(&case["genesis"]).unwrap();
    assert_eq!(spec.genesis_header().state_root, field::<B256>(&case, "stateRoot"));
    assert_eq!(spec.genesis_hash(), field::<B256>(&case, "hash"));
}

/// The development chain of reth: its 20 accounts are those of the phrase "test test test test test
/// test test test test test test junk".
#[test]
fn the_genesis_of_a_well_known_development_chain_has_its_published_hash() {
    let accounts = [
        "f39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        "70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
        "90f79bf6eb2c4f870365e785982e1f101e93b906",
        "15d34aaf54267db7d7c367839aaf71a00a2c6a65",
        "9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
        "976ea74026e726554db657fa54763abd0c3a0aa9",
        "14dc79964da2c08b23698b3d3cc7ca32193d9955",
        "23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
        "a0ee7a142d267c1f36714e4a8f75612f20a79720",
        "bcd4042de499d14e55001ccbb24a551f3b954096",
        "71be63f3384f5fb98995898a86b02fb2426c5788",
        "fabb0ac9d68b0b445fb7357272ff202c5651694a",
        "1cbd3b2770909d4e10f157cabc84c7264073c9ec",
        "df3e18d64bc6a983f673ab319ccae4f1a57c7097",
        "cd3b766ccdd6ae721141f452c550ca635964ce71",
        "2546bcd3c84621e976d8185a91a922ae77ecec30",
        "bda5747bfd65f08deb54cb465eb87d40e51b197e",
        "dd2fd4581271e230360230f9337d5c0430bf44c0",
        "8626f6940e2eb28930efb4cef49b2d1f2c9c1199",
    ];
    let mut genesis = prague_genesis();
    genesis["config"].as_object_mut().unwrap().retain(|name, _| !name.ends_with("Time"));
    genesis["config"]["shanghaiTime"] = json!(0);
    genesis["timestamp"] = json!("0x6490fdd2");
    for account in accounts {
        genesis["alloc"][account] = json!({ "balance": "0xd3c21bcecceda1000000" });
    }
    assert_eq!(
        spec_of(&genesis).unwrap().genesis_hash(),
        b256!("0x2f980576711e3617a5e4d83dd539548ec0f7792007d505a3d2e9674833af2d7c")
    );
}

#[test]
fn a_genesis_under_prague_has_the_fields_of_prague() {
    let spec = spec_of(&prague_genesis()).unwrap();
    let header = spec.genesis_header();
    assert_eq!(header.base_fee_per_gas, Some(1_000_000_000));
    assert_eq!(header.excess_blob_gas, Some(0));
    assert_eq!(
        header.requests_hash,
        Some(b256!("0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"))
    );
    assert_eq!(header.prev_proposer_pubkey, None);
    let block = spec.genesis_block();
    assert_eq!(block.body.calculate_withdrawals_root(), header.withdrawals_root);
    assert_eq!(
        spec.deposit_contract_address(),
        Some(address!("0x4242424242424242424242424242424242424242"))
    );
}

#[test]
fn the_genesis_file_can_say_what_the_first_block_used() {
    let mut genesis = prague_genesis();
    genesis["gasUsed"] = json!("0x5208");
    genesis["blobGasUsed"] = json!("0x20000");
    genesis["excessBlobGas"] = json!("0x40000");
    genesis["baseFeePerGas"] = json!("0x7");
    genesis["number"] = json!("0x10");
    let header = spec_of(&genesis).unwrap().genesis_header();
    assert_eq!(header.gas_used, 21_000);
    assert_eq!(header.blob_gas_used, Some(0x20000));
    assert_eq!(header.excess_blob_gas, Some(0x40000));
    assert_eq!(header.base_fee_per_gas, Some(7));
    assert_eq!(header.number, 16);
}

#[test]
fn genesis_files_that_cannot_be_followed_are_refused_by_name() {
    assert!(matches!(ChainSpec::from_genesis_json("{"), Err(GenesisError::Json(_))));
    assert!(matches!(genesis_refusal("chainId", Value::Null), GenesisError::NoChainId));
    for name in ["amsterdamTime", "bogotaTime", "verkleTime"] {
        let error = genesis_refusal(name, json!(1));
        assert!(matches!(error, GenesisError::UnknownFork { name: got } if got == name));
    }
    assert!(matches!(
        genesis_refusal("terminalTotalDifficulty", Value::Null),
        GenesisError::NotProofOfStake
    ));
}

#[test]
fn a_chain_that_moved_the_daos_ether_is_refused() {
    let mut genesis = prague_genesis();
    genesis["config"]["daoForkBlock"] = json!(0);
    assert!(spec_of(&genesis).is_ok());
    genesis["config"]["daoForkSupport"] = json!(true);
    assert!(spec_of(&genesis).is_ok());
    genesis["config"]["daoForkBlock"] = json!(1);
    let error = spec_of(&genesis).unwrap_err();
    assert!(matches!(error, GenesisError::UnknownFork { name } if name == "daoForkBlock"));
}

#[test]
fn a_fork_that_is_named_but_not_set_is_no_fork() {
    let mut genesis = prague_genesis();
    genesis["config"]["amsterdamTime"] = Value::Null;
    genesis["config"]["berachain"] = Value::Null;
    assert!(spec_of(&genesis).is_ok());
}

#[test]
fn forks_out_of_order_are_refused() {
    for (name, value, fork, after) in [
        ("cancunTime", Value::Null, "pragueTime", "cancunTime"),
        ("cancunTime", json!(5), "pragueTime", "cancunTime"),
        ("londonBlock", Value::Null, "shanghaiTime", "londonBlock"),
        ("berlinBlock", json!(3), "londonBlock", "berlinBlock"),
        ("bpo1Time", json!(9), "bpo1Time", "osakaTime"),
    ] {
        let error = genesis_refusal(name, value);
        let expected = format!("config.{fork} without, or before, config.{after}");
        assert!(matches!(error, GenesisError::ForkOrder { .. }));
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn blob_schedules_that_cannot_be_calculated_with_are_refused() {
    let entry = |target: u64, max: u64, fraction: u64| json!({ "prague": { "target": target, "max": max, "baseFeeUpdateFraction": fraction } });
    for schedule in [entry(6, 9, 0), entry(0, 0, 1), entry(9, 6, 1), entry(6, u64::MAX, 1)] {
        let error = genesis_refusal("blobSchedule", schedule);
        assert!(matches!(error, GenesisError::BlobSchedule { fork: "prague" }));
    }
    let mut genesis = prague_genesis();
    genesis["config"]["osakaTime"] = json!(7);
    genesis["config"]["bpo1Time"] = json!(8);
    let error = spec_of(&genesis).unwrap_err();
    assert!(matches!(error, GenesisError::BlobSchedule { fork: "bpo1" }));
}

#[test]
fn a_value_that_no_header_can_hold_is_refused() {
    let mut genesis = prague_genesis();
    genesis["baseFeePerGas"] = json!("0x10000000000000000");
    let error = spec_of(&genesis).unwrap_err();
    assert!(matches!(error, GenesisError::OutOfRange { field: "baseFeePerGas" }));
}

#[test]
fn forks_are_active_from_their_block_or_time() {
    let spec = chain_spec();
    assert!(!spec.is_london_active_at_block(26) && spec.is_london_active_at_block(27));
    assert!(!spec.is_paris_active_at_block(35) && spec.is_paris_active_at_block(36));
    assert!(!spec.is_prague_active_at_timestamp(449) && spec.is_prague_active_at_timestamp(450));
    assert_eq!(spec.ethereum_fork_activation(EthereumHardfork::Amsterdam), ForkCondition::Never);
}

#[test]
fn blob_parameters_follow_the_schedule() {
    let spec = chain_spec();
    let max = |time| spec.blob_params_at(time).map(|params| params.max_blob_count);
    assert_eq!(
        [419, 420, 449, 450, 509, 510, 540].map(max),
        [None, Some(6), Some(6), Some(9), Some(9), Some(15), Some(21)]
    );
    // From Osaka on blobs have a base cost (EIP-7918) and a transaction has at most six.
    assert_eq!(spec.blob_params_at(479).unwrap().blob_base_cost, 0);
    assert_eq!(spec.blob_params_at(480).unwrap().blob_base_cost, 8_192);
    assert_eq!(spec.blob_params_at(480).unwrap().max_blobs_per_tx, 6);
}

#[test]
fn of_forks_at_the_same_time_the_last_has_the_say() {
    let spec = spec_of(&prague_genesis()).unwrap();
    assert_eq!(spec.blob_params_at(0).unwrap().target_blob_count, 6);
}

#[test]
fn the_excess_blob_gas_falls_to_zero_and_rises_above_the_target() {
    let (spec, mut parent, _) = child();
    let blob = 131_072;
    let mut next = |excess: u64, used: u64| {
        parent.excess_blob_gas = Some(excess);
        parent.blob_gas_used = Some(used);
        spec.next_excess_blob_gas(&parent, parent.timestamp + 1).unwrap()
    };
    assert_eq!(next(0, 6 * blob), 0);
    assert_eq!(next(0, 9 * blob), 3 * blob);
    assert_eq!(next(5 * blob, 0), 0);
    assert_eq!(next(10 * blob, 0), 4 * blob);
    assert_eq!(next(u64::MAX, 9 * blob), u64::MAX - 6 * blob);
}

#[test]
fn from_osaka_on_the_excess_does_not_fall_while_blobs_cost_less_than_their_gas() {
    let mut genesis = prague_genesis();
    genesis["config"]["osakaTime"] = json!(0);
    let spec = spec_of(&genesis).unwrap();
    let mut parent = spec.genesis_header();
    let blob = 131_072;
    parent.excess_blob_gas = Some(20 * blob);
    parent.blob_gas_used = Some(6 * blob);
    parent.base_fee_per_gas = Some(1_000_000_000);
    assert_eq!(spec.next_excess_blob_gas(&parent, 101), Some(20 * blob + 2 * blob));
    parent.base_fee_per_gas = Some(1);
    assert_eq!(spec.next_excess_blob_gas(&parent, 101), Some(20 * blob));
}

#[test]
fn the_blob_base_fee_grows_with_the_excess() {
    let spec = spec_of(&prague_genesis()).unwrap();
    assert_eq!(spec.blob_base_fee(0, 0), Some(1));
    // One update fraction multiplies it by e, three by e^3 = 20.08….
    assert_eq!(spec.blob_base_fee(0, 5_007_716), Some(2));
    assert_eq!(spec.blob_base_fee(0, 3 * 5_007_716), Some(20));
    assert_eq!(chain_spec().blob_base_fee(419, 0), None);
}

#[test]
fn the_gas_limit_moves_towards_the_target_by_less_than_its_1024th() {
    let next = ChainSpec::next_gas_limit;
    assert_eq!(next(30_000_000, 36_000_000), 30_000_000 + 30_000_000 / 1024 - 1);
    assert_eq!(next(30_000_000, 10_000_000), 30_000_000 - (30_000_000 / 1024 - 1));
    assert_eq!(next(30_000_000, 30_000_007), 30_000_007);
    assert_eq!(next(5_001, 0), 5_000);
    let (spec, parent, mut header) = child();
    for target in [0, u64::MAX] {
        header.gas_limit = next(parent.gas_limit, target);
        assert_eq!(spec.validate_header(&header, &parent), Ok(()));
    }
}

#[test]
fn a_header_that_does_not_follow_its_parent_is_refused() {
    for number in [0, 2, u64::MAX] {
        let error = refusal(|header| header.number = number);
        assert_eq!(error, HeaderError::Number { parent: 0, got: number });
    }
    let error = refusal(|header| header.parent_hash = B256::ZERO);
    assert!(matches!(error, HeaderError::ParentHash { got: B256::ZERO, .. }));
    let error = refusal(|header| header.timestamp = 100);
    assert_eq!(error, HeaderError::Timestamp { parent: 100, got: 100 });
}

#[test]
fn a_header_outside_the_bounds_of_gas_is_refused() {
    let limit = 30_000_000;
    for got in [limit + limit / 1024, limit - limit / 1024, u64::MAX, 0] {
        let error = refusal(|header| header.gas_limit = got);
        assert_eq!(error, HeaderError::GasLimit { parent: limit, got });
    }
    let error = refusal(|header| header.gas_used = limit + 1);
    assert_eq!(error, HeaderError::GasUsed { limit, used: limit + 1 });
}

#[test]
fn no_gas_limit_is_below_5000() {
    let (spec, mut parent, mut header) = child();
    parent.gas_limit = 5_000;
    header.gas_limit = 4_999;
    header.parent_hash = parent.hash_slow();
    let error = spec.validate_header(&header, &parent).unwrap_err();
    assert_eq!(error, HeaderError::GasLimit { parent: 5_000, got: 4_999 });
}

#[test]
fn extra_data_of_33_bytes_is_refused() {
    let error = refusal(|header| header.extra_data = vec![0; 33].into());
    assert_eq!(error, HeaderError::ExtraData { bytes: 33 });
    let (spec, parent, mut header) = child();
    header.extra_data = vec![0; 32].into();
    assert_eq!(spec.validate_header(&header, &parent), Ok(()));
}

#[test]
fn a_mined_header_is_refused_after_the_merge() {
    let error = refusal(|header| header.difficulty = U256::from(1));
    assert_eq!(error, HeaderError::Mined { field: "difficulty" });
    let error = refusal(|header| header.nonce = [1; 8].into());
    assert_eq!(error, HeaderError::Mined { field: "nonce" });
    let error = refusal(|header| header.ommers_hash = B256::ZERO);
    assert_eq!(error, HeaderError::Mined { field: "sha3Uncles" });
}

#[test]
fn a_field_that_the_fork_requires_must_be_there() {
    let without = |field: HeaderField, change: fn(&mut Header)| {
        assert_eq!(refusal(change), HeaderError::Missing(field));
    };
    without(HeaderField::BaseFeePerGas, |header| header.base_fee_per_gas = None);
    without(HeaderField::WithdrawalsRoot, |header| header.withdrawals_root = None);
    without(HeaderField::BlobGasUsed, |header| header.blob_gas_used = None);
    without(HeaderField::ExcessBlobGas, |header| header.excess_blob_gas = None);
    without(HeaderField::ParentBeaconBlockRoot, |header| header.parent_beacon_block_root = None);
    without(HeaderField::RequestsHash, |header| header.requests_hash = None);
}

#[test]
fn a_field_of_a_later_fork_must_not_be_there() {
    let error = refusal(|h| h.prev_proposer_pubkey = Some(ProposerPublicKey::ZERO));
    assert_eq!(error, HeaderError::Unexpected(HeaderField::ParentProposerPubkey));
    let spec = chain_spec();
    let blocks = chain();
    // Block 45 is the first under Prague.
    let mut header = blocks[43].header.clone();
    assert_eq!(header.number, 44);
    header.requests_hash = Some(B256::ZERO);
    let error = spec.validate_header(&header, &blocks[42].header).unwrap_err();
    assert_eq!(error, HeaderError::Unexpected(HeaderField::RequestsHash));
}

#[test]
fn fees_that_do_not_follow_from_the_parent_are_refused() {
    let error = refusal(|header| header.base_fee_per_gas = Some(1));
    assert_eq!(error, HeaderError::BaseFee { expected: 875_000_000, got: 1 });
    let error = refusal(|header| header.excess_blob_gas = Some(131_072));
    assert_eq!(error, HeaderError::ExcessBlobGas { expected: 0, got: 131_072 });
}

#[test]
fn blob_gas_must_be_that_of_whole_blobs_and_not_too_many() {
    let max = 9 * 131_072;
    for got in [1, 131_071, max + 131_072] {
        let error = refusal(|header| header.blob_gas_used = Some(got));
        assert_eq!(error, HeaderError::BlobGasUsed { max, got });
    }
    let (spec, parent, mut header) = child();
    header.blob_gas_used = Some(max);
    assert_eq!(spec.validate_header(&header, &parent), Ok(()));
}

#[test]
fn the_system_contracts_are_those_of_the_public_networks() {
    let contracts = system_contracts();
    let addresses: Vec<Address> = contracts.iter().map(|(address, _)| *address).collect();
    assert_eq!(
        addresses,
        [
            address!("0x0000f90827f1c53a10cb7a02335b175320002935"),
            address!("0x000f3df6d732807ef1319fb7b8bb8522d0beac02"),
            address!("0x00000961ef480eb55e80d19ad83579a64c007002"),
            address!("0x0000bbddc7ce488642fb579f8b00f3a590007251"),
        ]
    );
    // The public chain's genesis has the same code at all four.
    let spec = chain_spec();
    for (address, code) in contracts {
        assert_eq!(spec.genesis().alloc[&address].code, Some(code), "{address}");
    }
}
