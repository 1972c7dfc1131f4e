//! Connecting to an endpoint.
//!
//! A channel connects when it is first used and again after each failure, so a peer that is down at
//! start is no error: calls fail with UNAVAILABLE until it appears. Retrying is the caller's
//! decision ([`crate::Backoff`]).
//!
//! A peer on `https://` must hold a certificate for the host of the endpoint, and sees ours.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::{ConfigError, Endpoint, Security, endpoint::HostPort, grpc, stream::Stream, tls::Tls};

/// How long a connection may take, certificates included.
const CONNECT: Duration = Duration::from_secs(1);
/// How soon a peer that is gone is noticed: at most the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a channel to a peer. Must be called inside a tokio runtime.
///
/// A call without a deadline of its own fails after 30 s without the beginning of an answer.
///
/// # Errors
///
/// If the endpoint is not allowed by `security`, or its host cannot be in a certificate.
pub fn channel(endpoint: &Endpoint, security: &Security) -> Result<Channel, ConfigError> {
    security.check(endpoint)?;
    let (target, origin) = target(endpoint, security)?;
    let connect = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move {
            let stream = tokio::time::timeout(CONNECT, target.connect())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // TLS is the connector's business, so tonic sees plaintext; requests carry the true origin.
    let channel = transport_endpoint(&origin)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .timeout(grpc::REQUEST)
        .connect_with_connector_lazy(connect);
    Ok(channel)
}

fn transport_endpoint(origin: &Uri) -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::from_static("http://connector").origin(origin.clone())
}

/// What to connect to. Cheap to clone: every connection attempt has its own.
#[derive(Clone)]
enum Target {
    Unix(Arc<PathBuf>),
    Plaintext(Arc<HostPort>),
    Tls { at: Arc<HostPort>, name: ServerName<'static>, tls: Arc<Tls> },
}

fn target(endpoint: &Endpoint, security: &Security) -> Result<(Target, Uri), ConfigError> {
    let origin = |text: &str| {
        text.parse::<Uri>().map_err(|error| ConfigError::flag(endpoint, "is no URI").because(error))
    };
    match endpoint {
        Endpoint::Unix(path) => {
            Ok((Target::Unix(Arc::new(path.clone())), origin("http://localhost")?))
        }
        Endpoint::Plaintext(at) => {
            Ok((Target::Plaintext(Arc::new(at.clone())), origin(&endpoint.to_string())?))
        }
        Endpoint::Tls(at) => {
            let tls = security.tls().expect("`check` refuses TLS without certificates");
            let name = ServerName::try_from(at.resolvable()).map_err(|error| {
                ConfigError::flag(endpoint, "has a host that no certificate can name")
                    .because(error)
            })?;
            let target = Target::Tls { at: Arc::new(at.clone()), name, tls: Arc::clone(tls) };
            Ok((target, origin(&endpoint.to_string())?))
        }
    }
}

impl Target {
    async fn connect(self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path.as_path()).await.map(Stream::Unix),
            Self::Plaintext(at) => tcp(&at).await.map(Stream::Tcp),
            Self::Tls { at, name, tls } => {
                let stream = tcp(&at).await?;
                let stream = TlsConnector::from(tls.client()).connect(name, stream).await?;
                Ok(Stream::Tls(Box::new(stream.into())))
            }
        }
    }
}

async fn tcp(at: &HostPort) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((at.resolvable(), at.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
