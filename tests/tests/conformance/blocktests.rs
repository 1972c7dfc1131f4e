//! BlockchainTests of ethereum/tests.

use std::{fs, path::PathBuf};

use alloy_primitives::{Address, U256};
use preconf_chain::{Block, Header, TrieAccountParts, state_root};
use preconf_tests::conformance::{
    Failure, Output,
    blocktests::{self, Options, Tested},
};
use serde_json::json;

use crate::{lines, testdata, whole_suite};

fn options(directory: PathBuf, split: &str) -> Options {
    let split = split.parse().unwrap();
    Options { directory, network: Vec::new(), split, seed: 1 }
}

fn run(options: &Options) -> (Tested, Vec<String>) {
    let mut output = Output::kept();
    let tested = blocktests::run(options, &mut output).unwrap();
    (tested, lines(output))
}

#[test]
fn valid_blocks_are_executed_and_invalid_ones_refused_for_what_is_wrong_with_them() {
    for split in ["1", "3", "random"] {
        let (tested, lines) = run(&options(testdata("blocktests"), split));
        assert!(tested.is_clean(), "{lines:#?}");
        assert_eq!((tested.files, tested.tests, tested.blocks), (9, 11, 11), "{tested}");
        assert_eq!(tested.refused.values().sum::<u64>(), 10, "{:?}", tested.refused);
        assert!(tested.refused.len() > 4, "{:?}", tested.refused);
        assert!(tested.skipped.is_empty(), "{:?}", tested.skipped);
    }
}

#[test]
fn a_network_that_was_not_asked_for_is_skipped_by_name() {
    let network = vec!["Shanghai".to_owned()];
    let (tested, _) = run(&Options { network, ..options(testdata("blocktests"), "1") });
    assert!(tested.is_clean() && tested.tests > 0);
    assert!(tested.skipped.keys().all(|reason| !reason.starts_with("Shanghai:")));
    assert!(tested.skipped.contains_key("Cancun: its network was not asked for"));
}

#[test]
fn a_network_that_is_not_known_is_no_run_and_those_that_are_known_are_named() {
    let network = vec!["Cancun".to_owned(), "Cancan".to_owned()];
    let options = Options { network, ..options(testdata("blocktests"), "1") };
    let failure = blocktests::run(&options, &mut Output::kept()).unwrap_err();
    let Failure::Network { name, known } = failure else { panic!("{failure}") };
    assert_eq!(name, "Cancan");
    for name in ["Frontier", "CancunToPragueAtTime15k", "OsakaToBPO1AtTime15k", "BPO4"] {
        assert!(known.split(", ").any(|known| known == name), "{name} in {known}");
    }
}

#[test]
fn drafts_are_run_only_if_their_network_is_asked_for() {
    let draft = |text: String| text.replace("\"Cancun\"", "\"Prague\"");
    let name = "extCodeHashOfDeletedAccount.json";
    let (tested, _) = run_changed(name, draft);
    assert_eq!((tested.tests, tested.skipped.len()), (0, 1));
    assert!(tested.skipped.keys().all(|reason| reason.starts_with("Prague: drafts")));
    assert!(!tested.is_clean());

    let network = vec!["Prague".to_owned()];
    let (tested, lines) = run_changed_with(name, draft, |all| Options { network, ..all });
    // It is no block of Prague, whose genesis has one more field.
    assert_eq!((tested.tests, tested.failures), (1, 1));
    assert!(lines[0].contains("the genesis is"), "{lines:?}");
}

#[test]
fn tests_of_the_newer_layout_are_run_with_the_chain_that_they_describe() {
    let newer = |blobs: &str| {
        let blobs = format!(
            "\"blobSchedule\":{{\"Cancun\":{{\"target\":\"{blobs}\",\"max\":\"0x06\",\
             \"baseFeeUpdateFraction\":\"0x32f0ed\"}}}}"
        );
        let config = format!("\"config\":{{\"network\":\"Cancun\",\"chainid\":\"0x01\",{blobs}}},");
        move |text: String| {
            let text = text.replace("\"network\"", &format!("{config}\"network\""));
            text.replace("\"rlp\"", "\"rlp_decoded\":{\"blockHeader\":{}},\"rlp\"")
        }
    };
    let (tested, lines) = run_changed("blobbasefee_during_fork.json", newer("0x03"));
    assert!(tested.is_clean() && tested.blocks > 0, "{lines:#?}");
    let (tested, lines) = run_changed("blobbasefee_during_fork.json", newer("0x07"));
    assert_eq!(tested.failures, tested.tests, "{lines:#?}");
}

#[test]
fn blocks_from_before_the_merge_are_imported_and_their_miners_paid() {
    let sender = (Address::repeat_byte(1), U256::from(7));
    let miner = Address::repeat_byte(2);
    let root = |accounts: &[(Address, U256)]| {
        state_root(accounts.iter().map(|(address, balance)| {
            let parts = TrieAccountParts {
                nonce: 0,
                balance: *balance,
                code_hash: alloy_primitives::KECCAK256_EMPTY,
                storage: [],
            };
            (*address, parts)
        }))
    };
    let ether = U256::from(10).pow(U256::from(18));
    for (network, reward) in
        [("Frontier", 5), ("EIP158", 5), ("Byzantium", 3), ("ConstantinopleFix", 2), ("Berlin", 2)]
    {
        let genesis = Header {
            state_root: root(&[sender]),
            difficulty: U256::from(0x20000),
            gas_limit: 8_000_000,
            ..Header::default()
        };
        let paid = U256::from(reward) * ether;
        let header = Header {
            parent_hash: genesis.hash_slow(),
            beneficiary: miner,
            state_root: root(&[sender, (miner, paid)]),
            number: 1,
            timestamp: 10,
            ..genesis.clone()
        };
        let hash = header.hash_slow();
        let rlp = |header| {
            let block = Block { header, body: Default::default() };
            format!("0x{}", alloy_primitives::hex::encode(alloy_rlp::encode(block)))
        };
        let account = |balance: U256| json!({ "balance": balance });
        let test = json!({ "mined": {
            "network": network,
            "pre": { sender.0.to_string(): account(sender.1) },
            "genesisRLP": rlp(genesis),
            "blocks": [{ "rlp": rlp(header) }],
            "lastblockhash": hash,
            "postState": {
                sender.0.to_string(): account(sender.1), miner.to_string(): account(paid),
            },
        }});
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mined.json");
        fs::write(&path, test.to_string()).unwrap();
        let (tested, lines) = run(&options(path.clone(), "1"));
        assert!(tested.is_clean(), "{network}: {lines:#?}");
        assert_eq!((tested.mined, tested.blocks), (1, 0));

        let invalid = test.to_string().replace("\"rlp\"", "\"expectException\":\"X\",\"rlp\"");
        fs::write(&path, invalid).unwrap();
        let (tested, _) = run(&options(path, "1"));
        assert_eq!((tested.tests, tested.skipped.len()), (0, 1));
    }
}

/// Runs one sample after changing its text.
fn run_changed(name: &str, change: impl FnOnce(String) -> String) -> (Tested, Vec<String>) {
    run_changed_with(name, change, |options| options)
}

fn run_changed_with(
    name: &str,
    change: impl FnOnce(String) -> String,
    with: impl FnOnce(Options) -> Options,
) -> (Tested, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(testdata("blocktests").join(name)).unwrap();
    let path = directory.path().join(name);
    fs::write(&path, change(text)).unwrap();
    run(&with(options(path, "1")))
}

#[test]
fn a_test_that_expects_something_else_fails() {
    let other = |text: String| text.replace("INSUFFICIENT_MAX_FEE_PER_GAS", "NONCE_IS_MAX");
    let (tested, lines) = run_changed("lowFeeCap.json", other);
    assert_eq!(tested.failures, tested.tests);
    assert!(lines[0].contains("refused, but not for TransactionException.NONCE_IS_MAX"));

    let valid = |text: String| text.replace("expectException", "once");
    let (tested, _) = run_changed("lowFeeCap.json", valid);
    assert_eq!(tested.failures, tested.tests);

    let name = "extCodeHashOfDeletedAccount.json";
    let (tested, _) = run_changed(name, |text| {
        let (before, after) = text.split_once("\"postState\"").unwrap();
        format!(
            "{before}\"postState\"{}",
            after.replacen("\"nonce\" : \"0x01\"", "\"nonce\" : \"0x02\"", 1)
        )
    });
    assert_eq!(tested.failures, tested.tests);
}

#[test]
fn the_whole_suite_passes() {
    let Some(suite) = whole_suite("blocktests") else { return };
    for split in ["1", "3", "random"] {
        let (tested, lines) = run(&options(suite.clone(), split));
        assert!(tested.is_clean() && tested.blocks > 0, "{lines:#?}");
    }
}
