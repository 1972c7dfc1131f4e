//! Writes `docs/metrics.md`: `cargo run -p preconf-tests --bin metrics`.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    fs::write(path, preconf_tests::metrics::document())
}
