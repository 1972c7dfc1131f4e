//! What strangers send to the payload API, on either side: tokens, requests, answers, files.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| preconf_tests::payload_api::fuzz_bodies(bytes));
