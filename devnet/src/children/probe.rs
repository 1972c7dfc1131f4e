//! Asking a child whether it is ready, as an orchestrator would.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 16 * 1024;

/// What a child says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    NotReady(String),
}

/// What whoever chooses between several children has to know, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It does not answer.
    Dead,
    /// It answers, and is not ready.
    Alive,
    /// It is ready.
    Ready,
}

/// Asks the health port at `http://HOST:PORT` how its child stands.
pub(crate) async fn standing(address: &str) -> Standing {
    match timeout(DEADLINE, get(address.trim_start_matches("http://"), "/readyz")).await {
        Ok(Ok(answer)) if judge(&answer) == Readiness::Ready => Standing::Ready,
        Ok(Ok(answer)) if !answer.is_empty() => Standing::Alive,
        Ok(Ok(_) | Err(_)) | Err(_) => Standing::Dead,
    }
}

/// Asks the health port at `http://HOST:PORT`.
pub(super) async fn readiness(address: &str) -> Readiness {
    let host = address.trim_start_matches("http://");
    match timeout(DEADLINE, get(host, "/readyz")).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => Readiness::NotReady(error.to_string()),
        Err(_) => Readiness::NotReady(format!("no answer within {DEADLINE:?}")),
    }
}

async fn get(host: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Readiness {
    let status = answer.split_whitespace().nth(1);
    if status == Some("200") {
        return Readiness::Ready;
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Readiness::NotReady(body.lines().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_200_is_ready() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nok\n"), Readiness::Ready);
    }

    #[test]
    fn whoever_does_not_says_why() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\npeer: down\nx\n";
        assert_eq!(judge(answer), Readiness::NotReady("peer: down, x".to_owned()));
        assert_eq!(judge(""), Readiness::NotReady(String::new()));
    }
}
