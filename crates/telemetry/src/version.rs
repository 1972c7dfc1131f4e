//! What runs: the version of the source, and the revision that it was built from.

use std::sync::LazyLock;

/// The revision, if whoever built it said so in `PRECONF_REVISION`.
pub(crate) const REVISION: &str = match option_env!("PRECONF_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The version and, in brackets, the revision: `0.1.0 (unknown)`.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{} ({REVISION})", env!("CARGO_PKG_VERSION")));
    &VERSION
}
