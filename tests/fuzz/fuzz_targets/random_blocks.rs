//! Chains that a fuzzer chooses, executed in every way there is: the same check as
//! `conformance random`, with bytes in place of a seed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use preconf_tests::random::{Rules, check_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let rules = if first & 1 == 0 { Rules::Berachain } else { Rules::Ethereum };
    if let Err(difference) = check_bytes(rules, rest) {
        panic!("{difference}");
    }
});
