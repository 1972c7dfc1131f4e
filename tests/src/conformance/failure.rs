//! Why a suite could not be run at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use preconf_chain::GenesisError;

/// Why a suite could not be run. What a suite finds out is no failure.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("parsing {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A genesis file is not understood.
    #[error("understanding the genesis {path}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: GenesisError,
    },
    /// A chain's file holds something else than blocks.
    #[error("decoding the block at byte {at} of {path}")]
    Chain {
        /// The file.
        path: PathBuf,
        /// Where.
        at: usize,
        /// What the decoder said.
        #[source]
        source: alloy_rlp::Error,
    },
    /// Nobody has said what a network's name means.
    #[error("the network {name} is not known; known are {known}")]
    Network {
        /// The name.
        name: String,
        /// Those that are known.
        known: String,
    },
    /// A line of a case is none.
    #[error("{path} line {line}: {what}")]
    Case {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is nothing to run.
    #[error("no {what} in {path}")]
    Nothing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The endpoint's URL cannot be used.
    #[error("{url} is not a URL of an HTTP endpoint")]
    Url {
        /// The URL.
        url: String,
    },
    /// Nobody is at the endpoint.
    #[error("calling {url}")]
    Endpoint {
        /// The URL.
        url: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The program's own runtime cannot be started.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

impl Failure {
    /// The bytes of a file.
    pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Self> {
        fs::read(path).map_err(|source| Self::Read { path: path.to_owned(), source })
    }

    /// The text of a file.
    pub(crate) fn read_text(path: &Path) -> Result<String, Self> {
        fs::read_to_string(path).map_err(|source| Self::Read { path: path.to_owned(), source })
    }

    /// All files below a directory with this extension, in order; the path itself if it is a file.
    pub(crate) fn files(
        path: &Path,
        extension: &str,
        what: &'static str,
    ) -> Result<Vec<PathBuf>, Self> {
        let mut found = Vec::new();
        if path.is_file() {
            found.push(path.to_owned());
        } else {
            collect(path, extension, &mut found)?;
        }
        found.sort();
        if found.is_empty() {
            return Err(Self::Nothing { what, path: path.to_owned() });
        }
        Ok(found)
    }
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |source| Failure::Read { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, extension, found)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    Ok(())
}
