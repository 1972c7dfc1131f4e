//! Accepting connections.
//!
//! Decides who comes in: each accepted stream passes the gate of its listener (uid, certificate, or
//! nothing) within a deadline before any byte of it is served. A listener serves at most
//! [`MAX_CONNECTIONS`] at a time; when it is full, newcomers wait in the kernel's queue. What is
//! refused is counted and, at most once in ten seconds, logged.
//!
//! An error of `accept` never ends the listener: it waits a little and goes on.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    Stream as Streaming, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use preconf_telemetry::LogLimit;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Listener, Peer,
    listener::{Accepted, Gate},
    peer::may_connect,
    stream::{Connection, Place, Stream},
};

/// How many connections one listener serves at a time.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// How many of them may be between accept and admission.
const MAX_HANDSHAKES: usize = 64;
/// How long a peer may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a stream does not become a connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("uid {0} is neither ours nor allowed")]
    Uid(u32),
    #[error("reading the credentials of the peer")]
    Credentials(#[source] io::Error),
    #[error("TLS handshake")]
    Handshake(#[source] io::Error),
    #[error("reading the certificate of the peer")]
    Certificate(#[source] webpki::Error),
    #[error("TLS handshake took too long")]
    TooSlow,
}

impl Refusal {
    const fn label(&self) -> &'static str {
        match self {
            Self::Uid(_) => "uid",
            Self::Credentials(_) => "credentials",
            Self::Handshake(_) => "handshake",
            Self::Certificate(_) => "certificate",
            Self::TooSlow => "too_slow",
        }
    }
}

/// The connections of a listener, until it is dropped. Cancelling `cut` ends them all.
pub(crate) fn connections(
    listener: Listener,
    cut: CancellationToken,
) -> impl Streaming<Item = Result<Connection, Infallible>> {
    let incoming = Incoming {
        listener,
        cut,
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        handshakes: FuturesUnordered::new(),
        complaints: LogLimit::new(LOG_INTERVAL),
    };
    stream::unfold(incoming, |mut incoming| async move {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}

struct Incoming {
    listener: Listener,
    cut: CancellationToken,
    places: Arc<Semaphore>,
    handshakes: FuturesUnordered<BoxFuture<'static, Result<Connection, Refusal>>>,
    complaints: LogLimit,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = accept(&self.listener, &self.places),
                    if self.handshakes.len() < MAX_HANDSHAKES =>
                {
                    match accepted {
                        Ok((stream, place)) => self.admit(stream, place),
                        Err(error) => {
                            if let Some(suppressed) = self.complaints.admit(Instant::now()) {
                                let listener = self.listener.name;
                                warn!(listener, %error, suppressed, "accept failed");
                            }
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Some(admitted) = self.handshakes.next() => match admitted {
                    Ok(connection) => {
                        self.listener.metrics.accepted.get([self.listener.name]).inc();
                        return connection;
                    }
                    Err(refusal) => self.refuse(&refusal),
                },
            }
        }
    }

    fn admit(&mut self, stream: Accepted, place: Place) {
        let (gate, cut) = (self.listener.gate.clone(), self.cut.clone());
        self.handshakes.push(Box::pin(async move {
            let (stream, peer) = tokio::time::timeout(HANDSHAKE, pass(gate, stream))
                .await
                .map_err(|_| Refusal::TooSlow)??;
            debug!(%peer, "connection accepted");
            Ok(Connection::new(stream, peer, &cut, place))
        }));
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let listener = self.listener.name;
        self.listener.metrics.refused.get([listener, refusal.label()]).inc();
        if let Some(suppressed) = self.complaints.admit(Instant::now()) {
            let reason = crate::Chain(refusal);
            warn!(listener, %reason, suppressed, "connection refused");
        }
    }
}

async fn accept(listener: &Listener, places: &Arc<Semaphore>) -> io::Result<(Accepted, Place)> {
    let permit = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let stream = listener.socket.accept().await?;
    let open = listener.metrics.open.get([listener.name]);
    open.inc();
    Ok((stream, Place { _permit: permit, open }))
}

/// Establishes who is at the other end.
async fn pass(gate: Gate, stream: Accepted) -> Result<(Stream, Peer), Refusal> {
    match (gate, stream) {
        (Gate::Unix { ours, allowed }, Accepted::Unix(stream)) => {
            let credentials = stream.peer_cred().map_err(Refusal::Credentials)?;
            let (uid, pid) = (credentials.uid(), credentials.pid());
            if !may_connect(uid, ours, &allowed) {
                return Err(Refusal::Uid(uid));
            }
            Ok((Stream::Unix(stream), Peer::Unix { uid, pid }))
        }
        (Gate::Plaintext, Accepted::Tcp(stream)) => {
            let address = stream.peer_addr().map_err(Refusal::Credentials)?;
            stream.set_nodelay(true).map_err(Refusal::Credentials)?;
            Ok((Stream::Tcp(stream), Peer::Plaintext(address)))
        }
        (Gate::Tls(tls), Accepted::Tcp(stream)) => {
            stream.set_nodelay(true).map_err(Refusal::Credentials)?;
            let stream =
                TlsAcceptor::from(tls.server()).accept(stream).await.map_err(Refusal::Handshake)?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = certificate.expect("the verifier refuses a peer without one");
            let peer = Peer::from_certificate(certificate).map_err(Refusal::Certificate)?;
            Ok((Stream::Tls(Box::new(stream.into())), peer))
        }
        (Gate::Unix { .. }, Accepted::Tcp(_))
        | (Gate::Plaintext | Gate::Tls(_), Accepted::Unix(_)) => {
            unreachable!("gate and socket are made together")
        }
    }
}
