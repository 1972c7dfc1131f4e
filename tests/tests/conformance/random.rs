//! Random blocks, executed in different ways.

use std::{fs, num::NonZeroU64};

use preconf_tests::{
    conformance::Output,
    random::{self, Kind, Options, Rules, Summary, Tally, check_bytes, fuzz},
};

use crate::{lines, testdata};

/// Enough for everything that can happen to happen.
const BLOCKS: u64 = 400;

fn run(chain: Rules, seed: u64, blocks: u64) -> (Summary, Vec<String>) {
    let one = NonZeroU64::MIN;
    let options = Options {
        blocks: NonZeroU64::new(blocks).unwrap(),
        seed,
        chain,
        client_every: one,
        threads: None,
    };
    let mut output = Output::kept();
    let summary = random::run(&options, &mut output);
    (summary, lines(output))
}

fn assert_clean(chain: Rules, seed: u64, blocks: u64) -> Tally {
    let (summary, lines) = run(chain, seed, blocks);
    assert!(summary.is_clean(), "{lines:#?}");
    summary.tally
}

fn assert_something_of_everything(chain: Rules, tally: &Tally, types: &[u8]) {
    let Tally { transactions, failed, refused, requests, destroyed, created, cleared, .. } = tally;
    assert!(types.iter().all(|kind| transactions.get(kind) > Some(&20)), "{tally:?}");
    assert!((0..3).all(|kind| requests.get(&kind) > Some(&0)), "{tally:?}");
    assert!(failed.min(refused) > &100 && destroyed.min(created).min(cleared) > &2, "{tally:?}");
    let Tally { abandoned, ahead, rebuilds, restarts, doubted, payloads, blocks, .. } = tally;
    assert!(abandoned.min(ahead).min(rebuilds).min(restarts) > &20, "{tally:?}");
    assert!(payloads == blocks && doubted == refused, "{tally:?}");
    let absent = |kind: &Kind| !tally.kinds.contains_key(kind);
    assert_eq!(Kind::all(chain).into_iter().filter(absent).collect::<Vec<_>>(), []);
}

#[test]
fn random_blocks_of_ethereum_come_to_the_same_in_every_way() {
    let tally = assert_clean(Rules::Ethereum, 1, BLOCKS);
    assert_something_of_everything(Rules::Ethereum, &tally, &[0, 1, 2, 3, 4]);
}

#[test]
fn random_blocks_of_berachain_come_to_the_same_in_every_way() {
    let tally = assert_clean(Rules::Berachain, 1, BLOCKS);
    assert_something_of_everything(Rules::Berachain, &tally, &[0, 1, 2, 3, 4, 0x7e]);
}

#[test]
fn seeds_that_once_came_to_different_results_no_longer_do() {
    let text = fs::read_to_string(testdata("seeds.txt")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (rules, seed) = line.split_once(' ').unwrap();
        let known = [Rules::Ethereum, Rules::Berachain];
        let rules = known.into_iter().find(|known| known.as_str() == rules).unwrap();
        assert_clean(rules, seed.parse().unwrap(), 20);
    }
}

#[test]
fn bytes_of_any_kind_make_chains_that_come_to_the_same() {
    let mut bytes = Vec::new();
    for round in 0..8_u8 {
        bytes.extend((0..400_u16).map(|at| (at as u8).wrapping_mul(31 + 2 * round) ^ round));
        for rules in [Rules::Ethereum, Rules::Berachain] {
            assert_eq!(check_bytes(rules, &bytes), Ok(()), "round {round}");
        }
    }
    assert_eq!(check_bytes(Rules::Berachain, &[]), Ok(()));
    // As the fuzzer calls it.
    fuzz(&[]);
    fuzz(&bytes);
    fuzz(&bytes[1..]);
}
