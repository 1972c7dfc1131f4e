//! Whom a sequencer is known by: the certificates that the operator has pinned.
//!
//! They are authorities; and a server that presents one of them itself is known by it, whoever has
//! issued it, as in beacon-kit: `openssl req -x509` makes a certificate that is authority and server
//! at once, which is nobody's server to the library. Its name and its time must be right all the
//! same, and the handshake proves its key.

use std::{path::Path, sync::Arc};

use preconf_chassis::{ConfigError, read_text};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::ParsedCertificate,
};
use tracing::warn;

/// The largest file of certificates that is read.
const MAX_PEM_BYTES: usize = 1024 * 1024;
const HTTP1: &[u8] = b"http/1.1";

/// The certificates that a sequencer's must be or come from; no others are trusted.
#[derive(Clone, Debug)]
pub struct Authorities {
    pins: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads the certificates of a PEM file. One that cannot be used is left out, and the log says
    /// which; so a bundle of others' does not shut out the one that is needed.
    ///
    /// # Errors
    /// If it cannot be read, or does not hold at least one usable certificate.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |reason| ConfigError::file(path, reason);
        let pem = read_text(path, MAX_PEM_BYTES)?;
        let (mut pins, mut roots, mut last) = (Vec::new(), RootCertStore::empty(), None);
        for (line, section) in sections(&pem) {
            let read = CertificateDer::from_pem_slice(section.as_bytes());
            let added = match read {
                Ok(pin) => roots.add(pin.clone()).map(|()| pins.push(pin)).map_err(Unusable::Root),
                // A section of another kind.
                Err(pem::Error::NoItemsFound) => continue,
                Err(error) => Err(Unusable::Pem(error)),
            };
            if let Err(error) = added {
                let (path, cause) = (path.display(), &error as &dyn std::error::Error);
                warn!(%path, line, error = cause, "a certificate that cannot be used is left out");
                last = Some(error);
            }
        }
        if pins.is_empty() {
            return Err(match last {
                Some(error) => refuse("holds no usable certificate").because(error),
                None => refuse("holds no PEM certificate"),
            });
        }
        Ok(Self { pins: pins.into(), roots: roots.into() })
    }

    /// What connects to who is known by them.
    pub(super) fn client(self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let chains =
            WebPkiServerVerifier::builder_with_provider(self.roots, Arc::clone(&provider)).build();
        let chains = chains.map_err(|error| Error::General(error.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { chains, pins: self.pins }))
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Arc::new(config))
    }
}

/// Why a certificate of the file is left out.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("malformed PEM")]
    Pem(#[source] pem::Error),
    #[error("it is no certificate of an authority or server")]
    Root(#[source] Error),
}

/// The sections of a PEM file, each up to the next, and the line that it begins on: one without an end
/// does not take the next one with it.
fn sections(pem: &str) -> Vec<(usize, String)> {
    let mut sections: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(pem.split_inclusive('\n')) {
        if line.starts_with("-----BEGIN ") {
            sections.push((number, String::new()));
        }
        if let Some((_, section)) = sections.last_mut() {
            section.push_str(line);
        }
    }
    sections
}

/// Knows whose certificate comes from a pinned one, or is one.
#[derive(Debug)]
struct Pinned {
    chains: Arc<WebPkiServerVerifier>,
    pins: Arc<[CertificateDer<'static>]>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match verified {
            Err(error) if is_about_the_chain(&error) && self.pins.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether a certificate was refused for whom it comes from. Its time was right then: that is looked
/// at before. Its name is looked at after.
fn is_about_the_chain(error: &Error) -> bool {
    let Error::InvalidCertificate(reason) = error else { return false };
    if let CertificateError::Other(OtherError(error)) = reason {
        return matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity));
    }
    *reason == CertificateError::UnknownIssuer
}
