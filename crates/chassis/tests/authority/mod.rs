//! A certificate authority for tests of links, also those of the services.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use preconf_chassis::{Security, SecurityArgs};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A certificate authority and its files.
pub(crate) struct Authority {
    pub(crate) directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// What a process needs that this authority calls `name`.
    pub(crate) fn issue(&self, name: &str) -> Security {
        self.issue_trusting(name, self)
    }

    /// The same for one that trusts another authority.
    pub(crate) fn issue_trusting(&self, name: &str, trusted: &Self) -> Security {
        Security::load(&self.args_trusting(name, trusted)).unwrap()
    }

    /// The flags of a process that this authority calls `name`.
    pub(crate) fn args(&self, name: &str) -> SecurityArgs {
        self.args_trusting(name, self)
    }

    /// Replaces the files of the process called `name` by those of another authority.
    pub(crate) fn take_over(&self, name: &str, other: &Self) {
        for file in [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()] {
            fs::copy(other.directory.path().join(&file), self.directory.path().join(&file))
                .unwrap();
        }
    }

    fn args_trusting(&self, name: &str, trusted: &Self) -> SecurityArgs {
        let key = KeyPair::generate().unwrap();
        let names = vec![name.to_owned(), "localhost".to_owned()];
        let certificate =
            CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let file = |extension: &str| -> PathBuf {
            self.directory.path().join(name).with_extension(extension)
        };
        fs::write(file("pem"), certificate.pem()).unwrap();
        write_secret(&file("key"), &key.serialize_pem());
        SecurityArgs {
            tls_cert: Some(file("pem")),
            tls_key: Some(file("key")),
            tls_ca: Some(trusted.directory.path().join("ca.pem")),
            ..Default::default()
        }
    }
}

/// Writes a file that its owner alone can read.
pub(crate) fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
