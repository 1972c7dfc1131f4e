//! Requests that are nearly right, in every way: each is answered or refused, and costs nothing else.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::world::{REQUEST, SOON, World, token};

/// How many requests are sent, and how many at a time.
const REQUESTS: u64 = 1_000;
const AT_A_TIME: u64 = 100;
/// Longer than anybody waits for his turn; and, on a machine that is busy, much longer.
const PATIENCE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// One for every part of the way, and none that is our fault.
const STATUSES: [&str; 6] = ["200", "400", "401", "403", "404", "405"];

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % end
    }

    /// Changes a few bytes, leaves some out, or says some twice.
    fn spoil(&mut self, request: &mut Vec<u8>) {
        for _ in 0..=self.below(2) {
            let at = self.below(request.len());
            let end = (at + 1 + self.below(20)).min(request.len());
            match self.below(8) {
                0 => request.truncate(at + 1),
                1 => drop(request.drain(at..end)),
                2 => drop(request.splice(at..at, request[at..end].to_vec())),
                3 => request[at] = self.below(256) as u8,
                // What means something elsewhere.
                _ => request[at] = request[self.below(request.len())],
            }
            if request.is_empty() {
                return;
            }
        }
    }
}

/// Sends a request, and returns the status of the answer; none if the connection was closed.
async fn exchange(address: SocketAddr, request: Vec<u8>, patience: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Whoever is refused early may not be listened to any more.
    let _ = stream.write_all(&request).await;
    let mut line = [0; 12];
    if let Ok(read) = timeout(patience, stream.read_exact(&mut line)).await {
        return read.map_or(String::new(), |_| String::from_utf8_lossy(&line[9..]).into_owned());
    }
    // It may go on: this one does not.
    let _ = stream.shutdown().await;
    let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "{} is neither answered nor refused", request.escape_ascii());
    String::new()
}

#[tokio::test]
async fn whatever_is_sent_the_next_request_is_answered() {
    let world = World::with(&["--requests-per-second", "1000000"]).await;
    let good = format!(
        "POST /eth/v1/preconf/payload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{REQUEST}",
        token(0),
        REQUEST.len()
    );
    let spoilt = |seed: u64, patience: Duration| {
        let mut request = good.clone().into_bytes();
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).spoil(&mut request);
        exchange(world.addresses.payloads, request, patience)
    };
    let mut statuses = BTreeMap::<String, u64>::new();
    for patience in PATIENCE {
        for first in (0..REQUESTS).step_by(AT_A_TIME as usize) {
            let seeds = first..first + AT_A_TIME;
            for status in join_all(seeds.map(|seed| spoilt(seed, patience))).await {
                *statuses.entry(status).or_default() += 1;
            }
        }
        if STATUSES.iter().all(|status| statuses.contains_key(*status)) {
            break;
        }
    }
    for status in STATUSES {
        assert!(statuses.contains_key(status), "{statuses:?}");
    }
    assert_eq!(world.results("internal_error"), 0, "{statuses:?}");
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    timeout(SOON / 2, world.end()).await.expect("nobody is left");
}
