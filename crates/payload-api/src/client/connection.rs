//! A connection to a sequencer: TCP, or TLS over it.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use preconf_chassis::{ConfigError, read_text};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;
use url::Host;

use super::SequencerUrl;

/// The largest file of certificates that is read.
const MAX_PEM_BYTES: usize = 1024 * 1024;
const HTTP1: &[u8] = b"http/1.1";

/// The authorities that a sequencer's certificate must come from; no others are trusted.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads the certificates of a PEM file.
    ///
    /// # Errors
    /// If it cannot be read, or does not hold at least one certificate and only usable ones.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |reason| ConfigError::file(path, reason);
        let pem = read_text(path, MAX_PEM_BYTES)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate =
                certificate.map_err(|error| refuse("holds malformed PEM").because(error))?;
            roots
                .add(certificate)
                .map_err(|error| refuse("holds an unusable certificate").because(error))?;
        }
        if roots.is_empty() {
            Err(refuse("holds no PEM certificate"))
        } else {
            Ok(Self(roots.into()))
        }
    }
}

/// Connects to one sequencer, whatever it is asked to connect to.
#[derive(Clone)]
pub(super) struct Connector {
    host: Arc<str>,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connector {
    pub(super) fn new(
        url: &SequencerUrl,
        authorities: Option<Authorities>,
    ) -> Result<Self, ConfigError> {
        let host = match url.url().host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(ConfigError::flag(url, "has no host")),
        };
        let tls = match (url.is_tls(), authorities) {
            (true, Some(Authorities(roots))) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| {
                    ConfigError::flag(url, "has a host that no certificate can name").because(error)
                })?;
                Some((Arc::new(tls(url, roots)?), name))
            }
            (false, None) => None,
            (true, None) => {
                return Err(ConfigError::flag(url, "needs the certificate of its authority"));
            }
            (false, Some(_)) => {
                let reason = "must be https:// when there is the certificate of an authority";
                return Err(ConfigError::flag(url, reason));
            }
        };
        let port = url.url().port_or_known_default().unwrap_or_default();
        Ok(Self { host: host.into(), port, tls })
    }

    async fn connect(self) -> io::Result<TokioIo<Link>> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let link = match self.tls {
            Some((config, name)) => {
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Link::Tls(Box::new(stream))
            }
            None => Link::Plain(stream),
        };
        Ok(TokioIo::new(link))
    }
}

fn tls(url: &SequencerUrl, roots: Arc<RootCertStore>) -> Result<ClientConfig, ConfigError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::flag(url, "cannot be used with TLS").because(error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(config)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Link>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// The bytes of a connection.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
