//! What a connection and a validator are given.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    builder::{Reply, payload},
    world::{REQUEST, SLOT, SOON, World, token},
};

const HEALTH: &[u8] = b"GET /eth/v1/preconf/health HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_too_many_waits_until_another_one_ends() {
    let world = World::with(&["--requests-per-second", "1000000"]).await;
    // A validator's, with a request that is refused at once.
    let request = validators_request("");
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(answered(&world, &request).await);
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

#[tokio::test]
async fn strangers_make_room_for_a_validator_and_validators_do_not() {
    let world = World::new().await;
    let mut known = answered(&world, &validators_request("")).await;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(TcpStream::connect(world.addresses.payloads).await.unwrap());
    }
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    // The first ones went, and not the one that came before them.
    let ended = timeout(SOON, strangers[0].read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap_or(0), 0);
    known.write_all(HEALTH).await.unwrap();
    read_answer(&mut known).await;
    drop((known, strangers));
    world.end().await;
}

#[tokio::test]
async fn a_validator_is_sent_two_payloads_at_a_time_and_another_one_its_own() {
    let world = World::new().await;
    world.propose(SLOT + 1, 0, 1).await;
    let mut large = payload();
    // More than the buffers of a connection hold.
    large.execution_payload.payload_inner.payload_inner.transactions =
        vec![vec![2; 4 << 20].into(); 3];
    world.builder.will(Reply::Payload(Box::new(large)));
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
        stream.write_all(validators_request(REQUEST).as_bytes()).await.unwrap();
        timeout(SOON, stream.read_exact(&mut [0; 64])).await.unwrap().unwrap();
        taken.push(stream);
    }
    world.builder.will(Reply::Payload(Box::new(payload())));

    let refused = world.ask(0, REQUEST).await;

    assert_eq!((refused.status, refused.message().as_str()), (429, "too many requests"));
    assert_eq!(world.ask(1, &REQUEST.replace("0x64", "0x65")).await.status, 200);
    drop(taken.pop());
    world.until("one is given up", || world.results("response_write_error") == 1).await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    drop(taken);
    world.end().await;
}

/// A request of the first validator on a connection that is kept.
fn validators_request(body: &str) -> String {
    format!(
        "POST /eth/v1/preconf/payload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        token(0),
        body.len()
    )
}

/// A connection on which one request was answered.
async fn answered(world: &World, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.addresses.payloads).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
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
