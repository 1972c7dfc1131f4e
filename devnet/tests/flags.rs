//! What `devnet` does with flags that it cannot follow: it says so before it does anything.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::process::{Command, Output};

fn devnet(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_devnet")).args(flags).output().unwrap()
}

#[test]
fn flags_that_cannot_be_followed_end_it_with_2_and_are_named() {
    for (flags, named) in [
        (["--proposal-delay-ms", "2000"], "--proposal-delay-ms"),
        (["--blocks", "none"], "--blocks"),
        (["--unknown", "1"], "--unknown"),
    ] {
        let output = devnet(&flags);

        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named), "{said}");
        assert!(output.stdout.is_empty());
    }
}
