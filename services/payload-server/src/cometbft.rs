//! Whose turn it is, as a CometBFT node says: its consensus state, asked again and again.
//!
//! Once a block is committed the node's state is that of the next height in round 0, and its
//! proposer is the one that the validators of that height have chosen; in a later round it is the
//! proposer of that round. So whatever the node missed, skipped or proposed again, what it says now
//! is what counts, and a node or a server that starts anew knows it at once.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use preconf_chassis::{Chain, Check, ConfigError, Shutdown, error::BoxError};
use preconf_payload_api::{ValidatorAddress, keys::KeyError};
use preconf_telemetry::metrics::Counter;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::info;
use url::Url;

use crate::turns::Turns;

/// How long the node may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// The largest consensus state: votes of a thousand validators in a few rounds.
const MAX_STATE_BYTES: usize = 4 * 1024 * 1024;

/// A CometBFT node.
#[derive(Debug)]
pub(crate) struct CometBft {
    http: Client<HttpConnector, Full<Bytes>>,
    state: Uri,
}

/// The round that a node is in, and who proposes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    height: u64,
    round: u32,
    proposer: ValidatorAddress,
}

/// Why it is not known what the node says.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("asking the node")]
    Transport(#[source] BoxError),
    #[error("the node answered {0}")]
    Status(StatusCode),
    #[error("the node did not answer within {DEADLINE:?}")]
    Timeout,
    #[error("the consensus state has more than {MAX_STATE_BYTES} bytes")]
    TooLarge,
    #[error("reading the consensus state")]
    Decode(#[source] serde_json::Error),
    #[error("reading the round {0:?}")]
    Round(String),
    #[error("reading the proposer")]
    Proposer(#[source] KeyError),
}

#[derive(Deserialize)]
struct Answer {
    result: Consensus,
}

#[derive(Deserialize)]
struct Consensus {
    round_state: RoundState,
}

#[derive(Deserialize)]
struct RoundState {
    #[serde(rename = "height/round/step")]
    step: String,
    proposer: Proposer,
}

#[derive(Deserialize)]
struct Proposer {
    address: String,
}

impl CometBft {
    /// A node with this RPC, which must be plain `http`: a node of one's own.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub(crate) fn new(url: &Url) -> Result<Self, ConfigError> {
        let flag = || "--cometbft-rpc";
        if url.scheme() != "http" || !url.username().is_empty() || url.query().is_some() {
            let reason = "expected http://HOST:PORT, without credentials or a query";
            return Err(ConfigError::flag(flag(), reason));
        }
        let state = format!("{}/consensus_state", url.as_str().trim_end_matches('/'));
        let state =
            state.parse().map_err(|error| ConfigError::flag(flag(), "is no URI").because(error))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(DEADLINE));
        Ok(Self { http: Client::builder(TokioExecutor::new()).build(connector), state })
    }

    /// Announces what the node says, every so often, until shutdown.
    pub(crate) async fn follow(
        self,
        every: Duration,
        turns: Turns,
        announced: Counter,
        check: Check,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            match timeout(DEADLINE, self.ask()).await.unwrap_or(Err(StateError::Timeout)) {
                Ok(Round { height, round, proposer }) => {
                    check.ready();
                    if !turns.announce(height, round, proposer) {
                        continue;
                    }
                    announced.inc();
                    if round == 0 {
                        info!(slot = height, %proposer, "Sequencer mode: determined next proposer");
                    } else {
                        info!(slot = height, round, %proposer, "CometBFT round change detected");
                    }
                }
                // The check says it once.
                Err(error) => check.not_ready(Chain(&error).to_string()),
            }
        }
    }

    async fn ask(&self) -> Result<Round, StateError> {
        let answer = self.http.get(self.state.clone()).await;
        let answer = answer.map_err(|error| StateError::Transport(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(StateError::Status(answer.status()));
        }
        match Limited::new(answer.into_body(), MAX_STATE_BYTES).collect().await {
            Ok(body) => read(&body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(StateError::TooLarge),
            Err(error) => Err(StateError::Transport(error)),
        }
    }
}

fn read(body: &[u8]) -> Result<Round, StateError> {
    let Answer { result } = serde_json::from_slice(body).map_err(StateError::Decode)?;
    let Consensus { round_state: RoundState { step, proposer } } = result;
    let round = || StateError::Round(step.chars().take(100).collect());
    let mut parts = step.split('/');
    let (height, in_height) = (parts.next(), parts.next());
    Ok(Round {
        height: height.and_then(|height| height.parse().ok()).ok_or_else(round)?,
        round: in_height.and_then(|round| round.parse().ok()).ok_or_else(round)?,
        proposer: proposer.address.parse().map_err(StateError::Proposer)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: &str, proposer: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":-1,"result":{{"round_state":{{
                "height/round/step":"{step}","start_time":"2026-04-07T11:52:38.962730289Z",
                "proposal_block_hash":"","locked_block_hash":"","valid_block_hash":"",
                "height_vote_set":[{{"round":0,"prevotes":["nil-Vote"],
                "prevotes_bit_array":"BA{{1:_}} 0/10 = 0.00","precommits":["nil-Vote"],
                "precommits_bit_array":"BA{{1:_}} 0/10 = 0.00"}}],
                "proposer":{{"address":"{proposer}","index":0}}}}}}}}"#
        )
    }

    #[test]
    fn a_nodes_state_says_who_proposes_in_which_round() {
        let text = state("1262197/2/8", "694D8B724542AF61CC8216A37E6EEF7FA0F8DD5D");
        let read = read(text.as_bytes()).unwrap();
        assert_eq!((read.height, read.round), (1_262_197, 2));
        assert_eq!(read.proposer.to_string(), "694d8b724542af61cc8216a37e6eef7fa0f8dd5d");
    }

    #[test]
    fn what_is_no_state_is_an_error() {
        let good = "694D8B724542AF61CC8216A37E6EEF7FA0F8DD5D";
        for (step, proposer) in [("", good), ("1", good), ("x/0/1", good), ("1/-1/1", good)] {
            let read = read(state(step, proposer).as_bytes());
            assert!(matches!(read, Err(StateError::Round(_))), "{step}");
        }
        assert!(matches!(read(state("1/0/1", "").as_bytes()), Err(StateError::Proposer(_))));
        assert!(matches!(read(b"{}"), Err(StateError::Decode(_))));
    }
}
