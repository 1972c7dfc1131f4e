//! What a connection and a validator are given.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::world::{REQUEST, SOON, World};

const HEALTH: &[u8] = b"GET /eth/v1/preconf/health HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_too_many_waits_until_another_one_ends() {
    let world = World::new().await;
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(answered(&world).await);
    }
    let mut waiting = TcpStream::connect(world.addresses.payloads).await.unwrap();
    waiting.write_all(HEALTH).await.unwrap();
    let mut byte = [0];
    // The others are served all the same, and this one not even refused.
    for stream in open.iter_mut().take(3) {
        stream.write_all(HEALTH).await.unwrap();
        read_answer(stream).await;
    }
    assert_eq!(waiting.try_read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    drop(open.pop());

    timeout(SOON, waiting.read_exact(&mut byte)).await.unwrap().unwrap();
    drop((open, waiting));
    world.end().await;
}

/// A connection on which one request was answered.
async fn answered(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    stream.write_all(HEALTH).await.unwrap();
    read_answer(&mut stream).await;
    stream
}

/// Reads an answer to its last byte.
async fn read_answer(stream: &mut TcpStream) {
    let reading = async {
        let mut text = Vec::new();
        while !text.ends_with(b"}\n") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "closed after {text:?}");
            text.extend_from_slice(&piece[..count]);
        }
    };
    timeout(SOON, reading).await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = World::new().await;
    let large = format!("X-Padding: {}\r\n", "x".repeat(20_000));
    assert_eq!(world.post(&large, REQUEST).await.status, 431);
    world.end().await;
}

#[tokio::test]
async fn a_validator_that_asks_too_often_is_told_so_and_another_is_heard() {
    let world = World::with(&["--requests-per-second", "1"]).await;
    world.propose(101, 0, 1).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(world.ask(0, REQUEST).await.status);
    }
    assert_eq!(statuses[..2], [200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(world.results("rate_limited") > 0);
    assert_eq!(world.ask(1, &REQUEST.replace("0x64", "0x65")).await.status, 200);
    world.end().await;
}
