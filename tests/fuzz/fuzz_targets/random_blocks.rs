//! Chains that a fuzzer chooses, executed in every way there is: the same check as
//! `conformance random`, with bytes in place of a seed.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| preconf_tests::random::fuzz(bytes));
