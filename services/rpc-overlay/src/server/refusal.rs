//! Telling a client that it has too many connections.
//!
//! It costs little: the answer is written at once, whatever was asked, and what comes in is thrown
//! away for a moment, because closing with unread bytes could take the answer back. A few are told
//! at a time; the others are closed without a word.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};

/// How many are told at a time.
const MAX_TOLD: usize = 64;
/// How long telling one of them may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// How much of a request is thrown away.
const MAX_IGNORED: u64 = 64 * 1024;

const BODY: &str = concat!(
    r#"{"jsonrpc":"2.0","id":null,"error":"#,
    r#"{"code":-32005,"message":"too many connections from your address"}}"#,
);

/// Refuses connections. Clones share the limit.
#[derive(Clone, Debug)]
pub(crate) struct Refusals(Arc<Semaphore>);

impl Refusals {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TOLD)))
    }

    /// Refuses one connection, in no more than a moment.
    pub(crate) async fn refuse(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Ok(_place) = self.0.try_acquire() else { return };
        // Whether it was heard is not our concern.
        let _ = timeout(DEADLINE, tell(stream)).await;
    }
}

async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut ignored = stream.take(MAX_IGNORED);
    tokio::io::copy(&mut ignored, &mut tokio::io::sink()).await?;
    Ok(())
}
