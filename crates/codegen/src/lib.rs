//! Writes `crates/wire/src/gen` from `proto/`, with protox: no protoc is needed.
//!
//! The generated code is committed, so that building preconf runs no code generator and a change of
//! a schema shows in review. A test in this crate fails when what is committed is stale;
//! `cargo run -p preconf-codegen` writes it anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The schemas, relative to `proto/`.
pub const SCHEMAS: [&str; 7] = [
    "preconf/types/v1/types.proto",
    "preconf/signer/v1/signer.proto",
    "preconf/feed/v1/feed.proto",
    "preconf/builder/v1/ingress.proto",
    "preconf/pending/v1/pending.proto",
    "preconf/admin/v1/admin.proto",
    "preconf/payload/v1/payload.proto",
];

/// Why code could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// A schema does not compile.
    #[error("compiling the schemas in {}", .root.display())]
    Compile {
        /// Where the schemas are.
        root: PathBuf,
        /// The compiler's message.
        #[source]
        source: protox::Error,
    },
    /// The code could not be written.
    #[error("writing to {}", .path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Generates the code for all schemas under `proto` into the directory `out`.
///
/// # Errors
/// If a schema does not compile or `out` cannot be written.
pub fn generate(proto: &Path, out: &Path) -> Result<(), CodegenError> {
    let schemas = SCHEMAS.map(|schema| proto.join(schema));
    let files = protox::compile(schemas, [proto])
        .map_err(|source| CodegenError::Compile { root: proto.to_owned(), source })?;
    let write = |source| CodegenError::Write { path: out.to_owned(), source };
    fs::create_dir_all(out).map_err(write)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .emit_package(true)
        .out_dir(out)
        .compile_fds(files)
        .map_err(write)
}
