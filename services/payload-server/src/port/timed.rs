//! A connection whose peer cannot hold it for ever, however slowly it sends or receives.
//!
//! A connection waits for a request, receives it, and sends the answer; each has its time, counted
//! from its beginning, so that a byte now and then does not prolong it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

/// Until the first byte of a first request.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// From the first byte of a request until all of it is there.
const RECEIVING: Duration = Duration::from_secs(15);
/// From the first byte of an answer, or of a piece of it, until it is taken.
const SENDING: Duration = Duration::from_secs(30);
/// From one request to the next.
const IDLE: Duration = Duration::from_secs(60);

/// The bytes of a connection.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Receiving,
    Sending,
}

/// A connection with its time.
pub(super) struct Timed {
    link: Link,
    phase: Phase,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(link: Link) -> Self {
        Self { link, phase: Phase::Waiting, deadline: Box::pin(sleep(FIRST_BYTE)) }
    }

    /// Begins another phase; the one that runs goes on.
    fn enter(&mut self, phase: Phase, time: Duration) {
        if self.phase != phase {
            self.phase = phase;
            self.deadline.as_mut().reset(Instant::now() + time);
        }
    }

    fn check<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.link {
            Link::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Link::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if read.is_pending() {
            return self.check(context);
        }
        if buffer.filled().len() > before && self.phase == Phase::Waiting {
            self.enter(Phase::Receiving, RECEIVING);
        }
        read
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.enter(Phase::Sending, SENDING);
        let written = match &mut self.link {
            Link::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Link::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        if written.is_pending() { self.check(context) } else { written }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.link {
            Link::Plain(stream) => Pin::new(stream).poll_flush(context),
            Link::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        if flushed.is_pending() {
            return self.check(context);
        }
        if self.phase == Phase::Sending {
            self.enter(Phase::Waiting, IDLE);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match &mut self.link {
            Link::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Link::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        };
        if shut.is_pending() { self.check(context) } else { shut }
    }
}
