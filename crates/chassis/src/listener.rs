//! Binding an endpoint.
//!
//! Decides what a listener is before anybody connects: plaintext beyond loopback is refused, a
//! socket file that nobody listens on is replaced, one that somebody listens on is not, and a file
//! that is no socket is never touched.
//!
//! The file of a Unix socket is for our own user (mode 0600). With `--allow-uid` it is open to
//! every user (0666), because then the list decides, at accept; so decides the list in any case.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use preconf_telemetry::{
    Registry,
    metrics::{Counter, Family, Gauge},
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

use crate::{ConfigError, Endpoint, Security, endpoint::HostPort, tls::Tls};

/// How long a live socket may take to answer the question whether it is alive.
const PROBE: Duration = Duration::from_secs(1);

/// Why an endpoint cannot be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The endpoint is not allowed by [`Security`].
    #[error("refusing to listen")]
    NotAllowed(#[source] ConfigError),
    /// The host has no address.
    #[error("resolving {endpoint}")]
    Resolve {
        /// What was to be bound.
        endpoint: Endpoint,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the socket.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refuses.
    #[error("binding {endpoint}")]
    Bind {
        /// What was to be bound.
        endpoint: Endpoint,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

/// An open listener. Dropping it closes it, and removes the file of a Unix socket.
#[derive(Debug)]
pub struct Listener {
    pub(crate) name: &'static str,
    pub(crate) local: Endpoint,
    pub(crate) socket: Socket,
    pub(crate) gate: Gate,
    pub(crate) allow_names: Arc<[String]>,
    pub(crate) metrics: ConnectionMetrics,
}

#[derive(Debug)]
pub(crate) enum Socket {
    Unix { listener: UnixListener, _file: SocketFile },
    Tcp(TcpListener),
}

pub(crate) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// How an accepted stream becomes a known peer.
#[derive(Clone)]
pub(crate) enum Gate {
    Unix { ours: u32, allowed: Arc<[u32]> },
    Plaintext,
    Tls(Arc<Tls>),
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unix { .. } => "Unix",
            Self::Plaintext => "Plaintext",
            Self::Tls(_) => "Tls",
        })
    }
}

/// What is counted about the connections of all listeners of a process.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMetrics {
    pub(crate) open: Family<Gauge, 1>,
    pub(crate) accepted: Family<Counter, 1>,
    pub(crate) refused: Family<Counter, 2>,
}

impl ConnectionMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            open: registry.gauges("connections", "Connections that are open", ["listener"]),
            accepted: registry.counters(
                "connections_accepted",
                "Connections whose peer was admitted",
                ["listener"],
            ),
            refused: registry.counters(
                "connections_refused",
                "Connections whose peer was not admitted",
                ["listener", "reason"],
            ),
        }
    }
}

impl Listener {
    /// The endpoint as it is: with the port that the kernel chose, if it was to choose.
    #[must_use]
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Admits only certificates that carry one of these names. Without names, every certificate of
    /// the authority will do. Says nothing about peers on Unix sockets or in plaintext.
    #[must_use]
    pub fn allow_names(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.allow_names = names.into_iter().collect();
        self
    }

    pub(crate) async fn bind(
        name: &'static str,
        endpoint: &Endpoint,
        security: &Security,
        metrics: ConnectionMetrics,
    ) -> Result<Self, BindError> {
        security.check(endpoint).map_err(BindError::NotAllowed)?;
        let (local, socket, gate) = match endpoint {
            Endpoint::Unix(path) => {
                let (socket, gate) = bind_unix(endpoint, path, security).await?;
                (endpoint.clone(), socket, gate)
            }
            Endpoint::Plaintext(at) => {
                let (listener, local) = bind_tcp(endpoint, at, security).await?;
                (Endpoint::Plaintext(local), Socket::Tcp(listener), Gate::Plaintext)
            }
            Endpoint::Tls(at) => {
                let tls = security.tls().expect("`check` refuses TLS without certificates");
                let gate = Gate::Tls(Arc::clone(tls));
                let (listener, local) = bind_tcp(endpoint, at, security).await?;
                (Endpoint::Tls(local), Socket::Tcp(listener), gate)
            }
        };
        Ok(Self { name, local, socket, gate, allow_names: Arc::default(), metrics })
    }
}

impl Socket {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix { listener, .. } => {
                listener.accept().await.map(|(stream, _)| Accepted::Unix(stream))
            }
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
        }
    }
}

async fn bind_tcp(
    endpoint: &Endpoint,
    at: &HostPort,
    security: &Security,
) -> Result<(TcpListener, HostPort), BindError> {
    let resolve = |source| BindError::Resolve { endpoint: endpoint.clone(), source };
    let bind = |source| BindError::Bind { endpoint: endpoint.clone(), source };
    let addresses: Vec<_> =
        lookup_host((at.resolvable(), at.port)).await.map_err(resolve)?.collect();
    // `localhost` is what a file of the operating system says it is.
    if let Endpoint::Plaintext(_) = endpoint
        && !security.allows_plaintext_anywhere()
        && let Some(stray) = addresses.iter().find(|address| !address.ip().is_loopback())
    {
        let reason = format!("resolves to {stray}, which is not loopback");
        return Err(BindError::NotAllowed(ConfigError::flag(endpoint, reason)));
    }
    let listener = TcpListener::bind(addresses.as_slice()).await.map_err(bind)?;
    let port = listener.local_addr().map_err(bind)?.port();
    Ok((listener, HostPort { host: at.host.clone(), port }))
}

async fn bind_unix(
    endpoint: &Endpoint,
    path: &Path,
    security: &Security,
) -> Result<(Socket, Gate), BindError> {
    let bind = |source| BindError::Bind { endpoint: endpoint.clone(), source };
    make_room(path).await?;
    let listener = UnixListener::bind(path).map_err(bind)?;
    let file = SocketFile::new(path).map_err(bind)?;
    let allowed = Arc::clone(security.allow_uids());
    let mode = if allowed.is_empty() { 0o600 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(bind)?;
    let ours = our_uid().map_err(bind)?;
    Ok((Socket::Unix { listener, _file: file }, Gate::Unix { ours, allowed }))
}

/// Removes a socket that nobody listens on.
async fn make_room(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // If this fails, binding fails too, and says why.
            let _ = fs::remove_file(path);
            Ok(())
        }
        // Gone, or not ours to judge: binding tells.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(BindError::InUse(path.to_owned())),
    }
}

/// The user we run as, which is what the kernel tells peers of ours.
fn our_uid() -> io::Result<u32> {
    let (ours, _) = UnixStream::pair()?;
    ours.peer_cred().map(|credentials| credentials.uid())
}

/// The file of a bound socket; removed when dropped, if it is still the same file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // A file that stays behind is replaced by the next process.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
