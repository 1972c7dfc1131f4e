//! Mutual TLS between our processes, from files that may be replaced.
//!
//! Decides with what a connection is made: TLS 1.3, a certificate shown and one demanded, both of the
//! same authority. A connection keeps what it was made with; the next one is made with what the files
//! held when they were last read. Files that cannot be used change nothing. Sessions are never
//! resumed, so each connection proves its certificate anew.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use crate::{ConfigError, read_secret, read_text};

/// The largest certificate file that is read.
const MAX_PEM_BYTES: usize = 1024 * 1024;
const HTTP2: &[u8] = b"h2";

/// Where certificates are read from.
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

/// What connections are made with.
pub(crate) struct Tls {
    files: Files,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    /// What was read, by which a renewal is known: a new key has a new certificate.
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: Files) -> Result<Self, ConfigError> {
        let current = RwLock::new(Current::read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads them again; says whether they hold something else.
    pub(crate) fn reload(&self) -> Result<bool, ConfigError> {
        let read = Current::read(&self.files)?;
        // What a panic left here is whole: it is replaced in one go.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = (&read.chain, &read.authorities) != (&current.chain, &current.authorities);
        if is_new {
            *current = read;
        }
        Ok(is_new)
    }

    /// What the next connection that is accepted is made with.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).server)
    }

    /// What the next connection that is opened is made with.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).client)
    }
}

impl Current {
    fn read(Files { cert, key, ca }: &Files) -> Result<Self, ConfigError> {
        let refuse = |path: &Path, reason: &'static str| {
            let refusal = ConfigError::file(path, reason);
            move |error: rustls::Error| refusal.because(error)
        };
        let chain = certificates(cert)?;
        let authorities = certificates(ca)?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(refuse(ca, "holds an unusable certificate"))?;
        }
        let roots = Arc::new(roots);
        let private = PrivateKeyDer::from_pem_slice(read_secret(key)?.expose().as_bytes())
            .map_err(|error| ConfigError::file(key, "holds no PEM private key").because(error))?;

        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| ConfigError::file(ca, "is no authority").because(error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(refuse(cert, "cannot be used with TLS 1.3"))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), private.clone_key())
            .map_err(refuse(cert, "does not go with the private key"))?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(refuse(cert, "cannot be used with TLS 1.3"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), private)
            .map_err(refuse(cert, "does not go with the private key"))?;
        client.alpn_protocols = vec![HTTP2.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { chain, authorities, server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read_text(path, MAX_PEM_BYTES)?;
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ConfigError::file(path, "holds malformed PEM").because(error))?;
    if certificates.is_empty() {
        return Err(ConfigError::file(path, "holds no PEM certificate"));
    }
    Ok(certificates)
}
