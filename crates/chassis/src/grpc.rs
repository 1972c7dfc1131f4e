//! Serving gRPC on a listener.
//!
//! Decides the limits of a connection: streams, headers, message size (each service sets
//! [`MAX_GRPC_MESSAGE_BYTES`] on its generated servers and clients), how long a handler may take to
//! begin its answer, and how soon a peer that is gone is noticed.
//!
//! Shutdown closes the listener at once, tells clients to go away and waits for the requests under
//! way. A handler that streams must end its stream at shutdown; if it does not, its connection is
//! cut when the task that serves is dropped, which the owner of the task does at the drain deadline.

use std::time::Duration;

use preconf_telemetry::ExtractContext;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{self, Server},
};

use crate::{Listener, Shutdown, incoming, peer::AllowNames};

/// The largest message that is sent or received; what is larger is sent in pieces.
pub const MAX_GRPC_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How many requests one connection may have under way.
const MAX_STREAMS: u32 = 256;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// How long a request may wait for the beginning of its answer.
pub(crate) const REQUEST: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A listener can no longer be served.
#[derive(Debug, thiserror::Error)]
#[error("serving {listener}")]
pub struct ServeError {
    listener: &'static str,
    #[source]
    source: transport::Error,
}

/// Serves `routes` on `listener` until `shutdown`, and then until its clients are done.
///
/// Each request runs in a span of its caller's trace, and carries its [`crate::Peer`] as an
/// extension. Dropping the future closes the listener and cuts every connection.
///
/// # Errors
///
/// If the server fails as a whole. A connection that fails is not an error.
pub async fn serve(
    listener: Listener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let name = listener.name;
    let allow_names = AllowNames(listener.allow_names.clone());
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    limited(Server::builder())
        .layer(ExtractContext)
        .layer(allow_names)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            incoming::connections(listener, cut),
            shutdown.cancelled_owned(),
        )
        .await
        .map_err(|source| ServeError { listener: name, source })
}

/// Serves `routes` to probes and scrapers: HTTP/1 too, and no spans.
pub(crate) async fn serve_plainly(
    listener: Listener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let name = listener.name;
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    limited(Server::builder())
        .accept_http1(true)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            incoming::connections(listener, cut),
            shutdown.cancelled_owned(),
        )
        .await
        .map_err(|source| ServeError { listener: name, source })
}

fn limited(server: Server) -> Server {
    server
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .timeout(REQUEST)
}
