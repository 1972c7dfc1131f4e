//! The public port, with beacon-kit's limits.
//!
//! Decides how many connections are served at a time: further ones wait in the kernel's queue and
//! get no answer until there is room. How long a peer may be silent, send or receive, [`Timed`]
//! decides. HTTP/1.1 only: a request is small, and one answer at a time is all that anybody needs.

mod timed;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use preconf_chassis::Shutdown;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use timed::{Link, Timed};

/// How many connections are served at a time.
const MAX_CONNECTIONS: usize = 256;
/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait when the operating system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The public port.
pub(crate) struct Port {
    pub(crate) router: Router,
    /// None: in plaintext.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) shutdown: Shutdown,
}

impl Port {
    /// Serves until shutdown, and then until the requests under way are answered.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), Infallible> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                (stream, place) = accept(&listener, &places) => {
                    let connection = Connection {
                        router: self.router.clone(),
                        tls: self.tls.clone(),
                        shutdown: self.shutdown.clone(),
                    };
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = connection.serve(stream).await {
                            debug!(error, "a connection failed");
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

struct Connection {
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(
        self,
        stream: TcpStream,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let link = match self.tls {
            Some(config) => {
                let accepting = TlsAcceptor::from(config).accept(stream);
                Link::Tls(Box::new(timeout(HANDSHAKE, accepting).await??))
            }
            None => Link::Plain(stream),
        };
        let mut http = Builder::new(TokioExecutor::new()).http1_only();
        // What is read ahead of a body is small, too.
        http.http1().max_buf_size(MAX_HEAD_BYTES);
        let service = TowerToHyperService::new(self.router);
        let connection = http.serve_connection(TokioIo::new(Timed::new(link)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match accept_one(listener).await {
            Ok(stream) => return (stream, place),
            Err(error) => {
                debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
