//! The documentation of metrics is that of the code as it is.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{fs, path::Path};

#[test]
fn the_list_of_metrics_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let written = fs::read_to_string(path).unwrap_or_default();

    let is_up_to_date = written == preconf_tests::metrics::document();
    assert!(is_up_to_date, "write it with `cargo run -p preconf-tests --bin metrics`");
}
