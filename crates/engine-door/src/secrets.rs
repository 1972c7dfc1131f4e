//! The secrets are read anew when their files change: kubelet and operators replace them while the
//! process runs. A file that cannot be used is told, and what was read before is used on.

use std::{path::PathBuf, sync::Arc};

use preconf_chassis::Chain;
use preconf_engine::JwtSecret;
use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family},
};
use tracing::{error, info};

/// The secrets of a door, each with the file that it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    files: Vec<(PathBuf, Arc<JwtSecret>)>,
    reloaded: Family<Counter, 1>,
}

impl Secrets {
    pub(crate) fn new(files: Vec<(PathBuf, Arc<JwtSecret>)>, registry: &Registry) -> Self {
        Self { files, reloaded: register(registry) }
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Reads the files.
    pub(crate) fn read(&self) {
        for (path, secret) in &self.files {
            match JwtSecret::read(path) {
                Ok(read) if secret.replace(&read) => {
                    info!(path = %path.display(), "the secret was replaced");
                    self.reloaded.get(["ok"]).inc();
                }
                Ok(_) => {}
                Err(error) => {
                    error!(error = %Chain(&error), "the secret was not replaced");
                    self.reloaded.get(["failed"]).inc();
                }
            }
        }
    }
}

/// What is counted of it.
pub(crate) fn register(registry: &Registry) -> Family<Counter, 1> {
    registry.counters(
        "secrets_reloaded",
        "Secrets of the Engine API whose files changed, by outcome.",
        ["outcome"],
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use preconf_chassis::Context;

    use super::*;

    #[test]
    fn a_secret_follows_its_file_and_one_that_cannot_be_used_changes_nothing() {
        let context = Context::for_test();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwt.hex");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(&"07".repeat(32));
        let secret = Arc::new(JwtSecret::read(&path).unwrap());
        let secrets = Secrets::new(vec![(path.clone(), secret.clone())], &context.registry);
        let counted = |outcome: &'static str| secrets.reloaded.get([outcome]).get();

        secrets.read();
        assert_eq!((counted("ok"), counted("failed")), (0, 0));
        write("nonsense");
        secrets.read();
        assert_eq!((counted("ok"), counted("failed")), (0, 1));
        let new = JwtSecret::from_bytes([8; 32]);
        assert!(secret.verify(&new.sign(1), 1).is_err());
        write(&"08".repeat(32));
        secrets.read();
        secrets.read();
        assert_eq!((counted("ok"), counted("failed")), (1, 1));
        assert_eq!(secret.verify(&new.sign(1), 1), Ok(()));
    }
}
