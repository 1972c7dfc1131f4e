//! Building the service binaries, and finding them.
//!
//! `cargo run` builds one package's binary and no other, so this program asks the same cargo for
//! the rest: the same profile, the same target directory, and itself among the packages, so that
//! features are unified as they were for it and nothing is compiled twice.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::Command;

/// The services that a devnet runs, by package, which is also the name of the binary.
pub const SERVICES: [&str; 7] = [
    "preconf-signer",
    "preconf-builder",
    "preconf-gateway",
    "preconf-consumer",
    "preconf-rpc-overlay",
    "preconf-payload-server",
    "preconf-validator-sidecar",
];

/// Built along, so that its dependencies have the features they have now.
const OURSELVES: &str = "preconf-devnet";

/// Why there are no binaries.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The path of the running program is not known.
    #[error("finding the running program")]
    CurrentExe(#[source] io::Error),
    /// The running program is not in a target directory of cargo.
    #[error("{0} is not in a target directory: run it with cargo")]
    NotBuiltByCargo(PathBuf),
    /// Cargo could not be started.
    #[error("starting {program}")]
    Start {
        /// Which cargo.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Cargo failed; what it said is above.
    #[error("building the services: cargo ended with {0}")]
    Failed(ExitStatus),
    /// Cargo was content, and a binary is not there.
    #[error("cargo built the services, but not {0}: is a build target configured?")]
    Elsewhere(PathBuf),
    /// A binary is not there.
    #[error("{0} is not there: run without --no-build")]
    Missing(PathBuf),
}

/// Where cargo puts the binaries of the profile that this program was built with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    target: PathBuf,
    profile: OsString,
}

impl Binaries {
    /// Finds them by the path of the running program.
    ///
    /// # Errors
    /// If it is not in a target directory.
    pub fn beside_ourselves() -> Result<Self, BuildError> {
        let ours = env::current_exe().map_err(BuildError::CurrentExe)?;
        Self::beside(&ours).ok_or(BuildError::NotBuiltByCargo(ours))
    }

    /// `target/PROFILE/program`, or `target/PROFILE/deps/program` for a test.
    fn beside(program: &Path) -> Option<Self> {
        let directory = program.parent()?;
        let directory = if directory.ends_with("deps") { directory.parent()? } else { directory };
        let (target, profile) = (directory.parent()?, directory.file_name()?);
        Some(Self { target: target.to_owned(), profile: profile.to_owned() })
    }

    /// Builds the services; cargo shows its progress on stderr.
    ///
    /// # Errors
    /// If cargo cannot be started or fails, or builds them somewhere else.
    pub async fn build(&self) -> Result<(), BuildError> {
        let mut command = vec!["build", "--bins"];
        for package in [OURSELVES].iter().chain(&SERVICES) {
            command.extend(["--package", package]);
        }
        self.cargo(&command).await?;
        match SERVICES.iter().map(|service| self.path(service)).find(|path| !path.is_file()) {
            None => Ok(()),
            Some(path) => Err(BuildError::Elsewhere(path)),
        }
    }

    /// Builds what `cargo test --workspace` builds, the binaries included: after that command, and
    /// so inside of it, there is nothing left to do.
    ///
    /// # Errors
    /// If cargo cannot be started or fails.
    pub async fn build_with_tests(&self) -> Result<(), BuildError> {
        self.cargo(&["test", "--workspace", "--no-run"]).await
    }

    async fn cargo(&self, what: &[&str]) -> Result<(), BuildError> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command.args(what).arg("--manifest-path").arg(workspace_manifest());
        command.arg("--target-dir").arg(&self.target);
        // The directory of the dev profile has another name than the profile.
        let profile = if self.profile == "debug" { "dev".as_ref() } else { &*self.profile };
        command.arg("--profile").arg(profile);
        command.stdin(Stdio::null()).kill_on_drop(true);
        forget_our_package(&mut command);
        let started = |source| BuildError::Start { program: cargo.clone().into(), source };
        let status = command.status().await.map_err(started)?;
        if status.success() { Ok(()) } else { Err(BuildError::Failed(status)) }
    }

    /// The binary of a service.
    ///
    /// # Errors
    /// If it is not there.
    pub fn find(&self, service: &str) -> Result<PathBuf, BuildError> {
        let path = self.path(service);
        if path.is_file() { Ok(path) } else { Err(BuildError::Missing(path)) }
    }

    fn path(&self, service: &str) -> PathBuf {
        self.target.join(&self.profile).join(service)
    }
}

/// Takes out of the environment what cargo told us about our own package: build scripts that look
/// at it would run again, and half of the dependencies would be compiled once more.
fn forget_our_package(command: &mut Command) {
    const OURS: [&str; 6] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
        "OUT_DIR",
    ];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| OURS.iter().any(|ours| name.starts_with(ours))) {
            command.env_remove(name);
        }
    }
}

/// The workspace that this program was built from.
fn workspace_manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_a_test_find_the_same_binaries() {
        let program = Binaries::beside(Path::new("/x/target/release/devnet")).unwrap();
        let test = Binaries::beside(Path::new("/x/target/release/deps/e2e-12ab")).unwrap();
        assert_eq!(program, test);
        assert_eq!(program.target, Path::new("/x/target"));
        assert_eq!(program.profile, "release");
    }

    #[test]
    fn a_binary_that_is_not_there_is_named() {
        let nowhere = Binaries::beside(Path::new("/nonexistent/debug/devnet")).unwrap();
        let refused = nowhere.find("preconf-signer").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "/nonexistent/debug/preconf-signer is not there: run without --no-build"
        );
    }

    #[test]
    fn the_workspace_is_where_we_were_built() {
        assert!(workspace_manifest().is_file());
    }
}
