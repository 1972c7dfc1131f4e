//! A connection whose peer cannot hold it for ever, however slowly it sends or receives.
//!
//! A connection waits for a request, receives its head and then its body, and sends the answer; each
//! has its time, counted from its beginning, so that a byte now and then does not prolong it. Where
//! one ends and the next begins the HTTP server says, by [`Exchange`]: the connection itself sees
//! pieces only, and an answer has many.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// How long each part of an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From the beginning of a connection, or the first byte of a later request, to the end of its
    /// head.
    pub(super) head: Duration,
    /// From that beginning until there is an answer.
    pub(super) request: Duration,
    /// From there until all of it is taken.
    pub(super) answer: Duration,
    /// From one request to the next.
    pub(super) idle: Duration,
}

impl Times {
    /// Those of beacon-kit's server.
    pub(super) const BEACON_KIT: Self = Self {
        head: Duration::from_secs(10),
        request: Duration::from_secs(15),
        answer: Duration::from_secs(30),
        idle: Duration::from_secs(60),
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Answer,
    /// The end of an answer, which is written but may not have left yet. Its time is the answer's.
    End,
    Idle,
}

/// How far the exchange on a connection is. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Exchange(Arc<Mutex<Progress>>);

#[derive(Debug)]
struct Progress {
    times: Times,
    phase: Phase,
    /// When the request began.
    began: Instant,
    /// When this phase has to be over.
    until: Instant,
}

/// An answer that is not written to its end: it is when this is dropped.
#[derive(Debug)]
pub(super) struct Answering(Exchange);

impl Exchange {
    pub(super) fn new(times: Times) -> Self {
        let began = Instant::now();
        let until = began + times.head;
        Self(Arc::new(Mutex::new(Progress { times, phase: Phase::Head, began, until })))
    }

    /// The head of a request is there.
    pub(super) fn asked(&self) {
        let mut progress = self.0.lock();
        if progress.phase != Phase::Head {
            // It came with the request before.
            progress.began = Instant::now();
        }
        progress.phase = Phase::Body;
        progress.until = progress.began + progress.times.request;
    }

    /// The answer is there.
    pub(super) fn answers(&self) -> Answering {
        let mut progress = self.0.lock();
        progress.phase = Phase::Answer;
        progress.until = Instant::now() + progress.times.answer;
        Answering(self.clone())
    }

    fn received(&self) {
        let mut progress = self.0.lock();
        if progress.phase == Phase::Idle {
            progress.phase = Phase::Head;
            progress.began = Instant::now();
            progress.until = progress.began + progress.times.head;
        }
    }

    fn flushed(&self) {
        let mut progress = self.0.lock();
        if progress.phase == Phase::End {
            progress.phase = Phase::Idle;
            progress.until = Instant::now() + progress.times.idle;
        }
    }

    fn until(&self) -> Instant {
        self.0.lock().until
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.lock().phase = Phase::End;
    }
}

/// A connection with its time.
pub(super) struct Timed<S> {
    stream: S,
    exchange: Exchange,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, exchange: Exchange) -> Self {
        let deadline = Box::pin(sleep_until(exchange.until()));
        Self { stream, exchange, deadline }
    }

    fn check<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let until = self.exchange.until();
        if self.deadline.deadline() != until {
            self.deadline.as_mut().reset(until);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.check(context);
        }
        if buffer.filled().len() > before {
            self.exchange.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_pending() { self.check(context) } else { written }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_pending() {
            return self.check(context);
        }
        self.exchange.flushed();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        if shut.is_pending() { self.check(context) } else { shut }
    }
}
