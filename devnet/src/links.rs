//! Links between processes that can be cut and made slow.
//!
//! A link is a door of ours in front of somebody else's: whoever is to use it is given its address
//! instead, and what he says is carried over. Each link leads to one address, or to nobody; it may
//! be led elsewhere, which ends the connections that it carries.
//!
//! Invariants: bytes arrive in order, whatever happens to the delay in between; a connection holds at
//! most [`BUFFERED`] pieces in each direction, and whoever sends more waits; a link carries at most
//! [`CONNECTIONS`] connections, and whoever comes then waits. A link that is cut takes connections
//! only to end them, as a proxy does that has nobody behind it.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// How many pieces of a connection are under way in one direction.
const BUFFERED: usize = 64;
/// The largest piece.
const PIECE_BYTES: usize = 16 * 1024;
/// How many connections a link carries.
const CONNECTIONS: usize = 256;
/// How long to wait after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(20);

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Address {
    /// A port of this machine that the system chooses.
    pub const ANY: Self = Self::Tcp(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// As if it were not there.
    #[default]
    Whole,
    /// Everything takes so much longer, in both directions. What waits when a link becomes whole goes
    /// on at once.
    Slow(Duration),
    /// Nothing is carried, and connections end.
    Cut,
}

impl Condition {
    /// When what was said at `said` may arrive; never if the link is cut.
    fn arrival(self, said: Instant) -> Option<Instant> {
        match self {
            Self::Whole => Some(said),
            Self::Slow(delay) => Some(said + delay),
            Self::Cut => None,
        }
    }
}

/// A door, and who is behind it. Dropping it closes it.
#[derive(Debug)]
pub struct Link {
    at: Address,
    condition: watch::Sender<Condition>,
    to: watch::Sender<Option<Address>>,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens a door at `at`, which leads to `to`.
    ///
    /// # Errors
    /// If nobody can listen there.
    pub async fn open(at: &Address, to: Option<Address>) -> io::Result<Self> {
        let listener = match at {
            Address::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await?),
            Address::Unix(path) => Listener::Unix(UnixListener::bind(path)?),
        };
        let at = match (&listener, at) {
            (Listener::Tcp(listener), _) => Address::Tcp(listener.local_addr()?),
            (Listener::Unix(_), at) => at.clone(),
        };
        let (condition, conditions) = watch::channel(Condition::default());
        let (to, targets) = watch::channel(to);
        let task = tokio::spawn(serve(listener, conditions, targets));
        Ok(Self { at, condition, to, task })
    }

    /// Where it listens.
    pub const fn at(&self) -> &Address {
        &self.at
    }

    /// Changes how it is.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }

    /// Leads it to somebody else. Connections to who was behind it before end.
    pub fn lead_to(&self, to: Option<Address>) {
        self.to.send_if_modified(|before| {
            let changes = *before != to;
            *before = to;
            changes
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        if let Address::Unix(path) = &self.at {
            // What stays behind goes with its directory.
            std::fs::remove_file(path).ok();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(at_once(listener.accept().await?.0)),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn connect(to: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match to {
        Address::Tcp(address) => Box::new(at_once(TcpStream::connect(address).await?)),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// What is delayed is delayed by us.
fn at_once(stream: TcpStream) -> TcpStream {
    // A stream of which this is not possible has ended.
    stream.set_nodelay(true).ok();
    stream
}

async fn serve(
    listener: Listener,
    condition: watch::Receiver<Condition>,
    to: watch::Receiver<Option<Address>>,
) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if carried.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    carried.spawn(carry(stream, condition.clone(), to.clone()));
                }
                // No file descriptors, most likely: there will be some.
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Carries one connection, until either side ends it, or the link is cut or led elsewhere.
async fn carry(
    ours: Box<dyn Stream>,
    condition: watch::Receiver<Condition>,
    mut to: watch::Receiver<Option<Address>>,
) {
    let Some(target) = to.borrow_and_update().clone() else { return };
    let mut cut = condition.clone();
    let both = async {
        let Ok(theirs) = connect(&target).await else { return };
        let ((from_us, to_us), (from_them, to_them)) = (split(ours), split(theirs));
        tokio::join!(
            one_way(from_us, to_them, condition.clone()),
            one_way(from_them, to_us, condition.clone()),
        );
    };
    tokio::select! {
        biased;
        _ = cut.wait_for(|condition| *condition == Condition::Cut) => {}
        _ = to.changed() => {}
        () = both => {}
    }
}

/// One direction: what is read is written when its time has come.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut condition: watch::Receiver<Condition>,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(BUFFERED);
    let reading = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        // Whoever breaks off has ended.
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now(), buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((said, piece)) = pieces.recv().await {
            until_arrival(said, &mut condition).await;
            if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    tokio::join!(reading, writing);
}

/// Waits until what was said at `said` may arrive; never if the link is cut.
async fn until_arrival(said: Instant, condition: &mut watch::Receiver<Condition>) {
    loop {
        let arrival = condition.borrow_and_update().arrival(said);
        tokio::select! {
            biased;
            () = async {
                match arrival {
                    Some(arrival) => sleep_until(arrival).await,
                    None => std::future::pending().await,
                }
            } => return,
            // Without its owner the link ends with its task.
            Ok(()) = condition.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests;
