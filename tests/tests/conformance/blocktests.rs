//! BlockchainTests of ethereum/tests.

use std::{fs, path::PathBuf};

use preconf_tests::conformance::{
    Output,
    blocktests::{self, Options, Tested},
};

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

/// Runs one sample after changing its text.
fn run_changed(name: &str, change: impl FnOnce(String) -> String) -> (Tested, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(testdata("blocktests").join(name)).unwrap();
    let path = directory.path().join(name);
    fs::write(&path, change(text)).unwrap();
    run(&options(path, "1"))
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
