//! The certificate of the public port, which can be replaced while it serves.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use preconf_chassis::{Chain, ConfigError, read_secret, read_text};
use preconf_telemetry::metrics::{Counter, Family};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{error, info};

/// The largest certificate file that is read.
const MAX_PEM_BYTES: usize = 1024 * 1024;
const HTTP1: &[u8] = b"http/1.1";

/// A certificate and its key, as the files last said. Clones share them.
#[derive(Clone)]
pub(crate) struct Certificate(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// If one of them cannot be used, or they do not go together.
    pub(crate) fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, ConfigError> {
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self(Arc::new(Inner { certificate, key, current })))
    }

    /// The files.
    pub(crate) fn paths(&self) -> [&PathBuf; 2] {
        [&self.0.certificate, &self.0.key]
    }

    /// Reads both files anew. Connections that come later see the new certificate.
    pub(crate) fn reload(&self, reloaded: &Family<Counter, 2>) {
        match read(&self.0.certificate, &self.0.key) {
            Ok(certified) => {
                *self.0.current.write() = Arc::new(certified);
                info!("TLS certificate reloaded");
                reloaded.get(["certificate", "ok"]).inc();
            }
            Err(error) => {
                error!(error = %Chain(&error), "Failed to reload TLS certificate");
                reloaded.get(["certificate", "failed"]).inc();
            }
        }
    }

    /// TLS 1.2 and later, without client certificates: validators have tokens.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for the versions that the library has")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![HTTP1.to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read()))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.0.certificate).finish()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, ConfigError> {
    let pem = read_text(certificate, MAX_PEM_BYTES)?;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ConfigError::file(certificate, "holds malformed PEM").because(error))?;
    if chain.is_empty() {
        return Err(ConfigError::file(certificate, "holds no PEM certificate"));
    }
    let private = PrivateKeyDer::from_pem_slice(read_secret(key)?.expose().as_bytes())
        .map_err(|error| ConfigError::file(key, "holds no PEM private key").because(error))?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|error| {
        ConfigError::file(certificate, "does not go with the private key").because(error)
    })
}
