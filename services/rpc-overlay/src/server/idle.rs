//! A connection that does not wait for ever for a peer that is silent or does not read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// A stream that fails when no byte has gone either way for a while. It occupies one of the
/// listener's places until it is dropped.
#[derive(Debug)]
pub(crate) struct Idle<S, P> {
    stream: S,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    _place: P,
}

impl<S, P> Idle<S, P> {
    pub(crate) fn new(stream: S, limit: Duration, place: P) -> Self {
        Self { stream, limit, deadline: Box::pin(sleep(limit)), _place: place }
    }

    /// Passes on what the stream says, which is progress unless it says to wait.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + self.limit);
            return polled;
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Idle<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, polled)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Idle<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Flushing a socket does nothing, so it is no progress.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        sync::{OwnedSemaphorePermit, Semaphore},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn idle<S>(stream: S) -> (Arc<Semaphore>, Idle<S, OwnedSemaphorePermit>) {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        (places, Idle::new(stream, LIMIT, place))
    }

    #[tokio::test]
    async fn a_silent_peer_is_given_up_and_its_place_is_free_again() {
        let (_peer, stream) = duplex(16);
        let (places, mut stream) = idle(stream);
        let started = Instant::now();

        let failure = stream.read_u8().await.unwrap_err();

        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= LIMIT);
        drop(stream);
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (_peer, stream) = duplex(16);
        let (_places, mut stream) = idle(stream);

        let failure = stream.write_all(&[0; 17]).await.unwrap_err();

        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_talks_is_never_given_up() {
        let (mut peer, stream) = duplex(16);
        let (_places, mut stream) = idle(stream);
        let started = Instant::now();

        while started.elapsed() < LIMIT * 3 {
            peer.write_u8(1).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 1);
            tokio::task::yield_now().await;
        }
    }
}
