//! Who speaks HTTP in cleartext where TLS is spoken: he is told so, as Go's server tells him.
//!
//! The first byte decides. No TLS record begins like a method, so whoever begins like one is not
//! going to speak TLS, and what he sent need not be kept for it. He is answered once his first five
//! bytes are a method that Go looks for; anybody else has his connection closed without a word.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::TcpStream,
};

use super::MAX_HEAD_BYTES;

/// How a request begins that is answered.
const METHODS: [&[u8; 5]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
const ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// Whether the peer spoke cleartext; then there is nothing more to say to him. How long this may
/// take, the caller decides.
pub(super) async fn is_refused(stream: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if METHODS.iter().all(|method| method[0] != first[0]) {
        return Ok(false);
    }
    let mut beginning = [0; 5];
    stream.read_exact(&mut beginning).await?;
    if METHODS.contains(&&beginning) {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        // To close a connection with bytes that nobody has read takes the answer back.
        copy(&mut stream.take(MAX_HEAD_BYTES as u64), &mut sink()).await?;
    }
    Ok(true)
}
