//! Regenerates the committed protobuf code: `cargo run -p preconf-codegen`.

use std::{error::Error, process::ExitCode};

use preconf_codegen::{generate, repository};

fn main() -> ExitCode {
    let root = repository();
    match generate(&root.join("proto"), &root.join("crates/wire/src/gen")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a tool that reports to its user")]
            {
                eprintln!(
                    "{error}: {}",
                    error.source().map_or_else(String::new, |s| s.to_string())
                );
            }
            ExitCode::FAILURE
        }
    }
}
