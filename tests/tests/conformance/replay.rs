//! A public chain, from Frontier to the blob schedules after Osaka, as flashblocks.

use std::path::{Path, PathBuf};

use preconf_tests::conformance::{
    Failure, Output,
    replay::{self, Options, Replayed},
};

use crate::{lines, whole_suite};

/// The files of the chain, as they lie with the crate that knows its rules.
fn sample(split: &str) -> Options {
    let chain = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/chain/testdata");
    Options {
        genesis: chain.join("chain_genesis.json"),
        chain: chain.join("chain.rlp"),
        forkenv: Some(chain.join("chain_forkenv.json")),
        split: split.parse().unwrap(),
        seed: 1,
    }
}

fn replay(options: &Options) -> (Replayed, Vec<String>) {
    let mut output = Output::kept();
    let replayed = replay::run(options, &mut output).unwrap();
    (replayed, lines(output))
}

#[test]
fn a_chain_of_others_is_the_same_in_flashblocks_however_it_is_cut() {
    for (split, flashblocks) in [("1", Some(19)), ("3", Some(57)), ("random", None)] {
        let (replayed, lines) = replay(&sample(split));
        assert_eq!(replayed.mismatches, 0, "{lines:#?}");
        assert_eq!((replayed.mined, replayed.blocks), (35, 19));
        assert!(flashblocks.is_none_or(|expected| expected == replayed.flashblocks));
        assert!(replayed.transactions > 20, "{replayed}");
    }
}

#[test]
fn a_chain_under_other_rules_is_not_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let forkenv = directory.path().join("forkenv.json");
    // Ten seconds too late: the first block of Shanghai comes before it.
    std::fs::write(&forkenv, r#"{"HIVE_SHANGHAI_TIMESTAMP": "400"}"#).unwrap();
    let (replayed, lines) = replay(&Options { forkenv: Some(forkenv), ..sample("3") });
    assert_eq!(replayed.mismatches, 1, "{lines:#?}");
    assert!(lines[0].contains("withdrawalsRoot is not a field"), "{lines:#?}");
}

#[test]
fn files_that_are_not_there_or_not_a_chain_are_named() {
    let genesis = sample("1").genesis;
    let missing = Options { chain: PathBuf::from("nowhere.rlp"), ..sample("1") };
    let not_a_chain = Options { chain: genesis.clone(), ..sample("1") };
    let failed = |options: &Options| replay::run(options, &mut Output::kept()).unwrap_err();
    assert!(matches!(failed(&missing), Failure::Read { path, .. } if path == missing.chain));
    assert!(matches!(failed(&not_a_chain), Failure::Chain { path, at: 0, .. } if path == genesis));
}

#[test]
fn the_whole_chain_is_the_same_in_flashblocks() {
    let Some(suite) = whole_suite("execution-apis") else { return };
    for (split, seed) in [("1", 1), ("3", 1), ("random", 1), ("random", 2), ("random", 3)] {
        let (replayed, lines) = replay(&Options {
            genesis: suite.join("genesis.json"),
            chain: suite.join("chain.rlp"),
            forkenv: Some(suite.join("forkenv.json")),
            split: split.parse().unwrap(),
            seed,
        });
        assert!(replayed.is_clean() && replayed.blocks > 0, "{lines:#?}");
    }
}
