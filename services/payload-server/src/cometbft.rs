//! Whose turn it is, as a CometBFT node says: its consensus state, asked again and again.
//!
//! Once a block is committed the node's state is that of the next height in round 0, and its
//! proposer is the one that the validators of that height have chosen; in a later round it is the
//! proposer of that round. So whatever the node missed, skipped, began anew or proposed again, what
//! it says now is what counts, and a node or a server that starts anew knows it at once.
//!
//! It is one node, and it is asked one question after the other: each answer is newer than the one
//! before. A question that is not answered in time is given up with its connection, so that its
//! answer can never be taken for a later one's.
//!
//! A node does not answer while it executes a block, for its consensus state is locked. But then
//! its round cannot change either: what it said last is right until it answers again. So a node that
//! is late is not missed before it is later than any block of a chain that works ([`PATIENCE`]); one
//! that cannot be reached, or says something else, is missed at once.
//!
//! Who proposes the next height, [`Foresight`] knows before the node is there: a validator may be
//! there before our node is. That is announced as the node's word, and replaced by it.

mod next;

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use preconf_chassis::{Chain, Check, ConfigError, Security, Shutdown, error::BoxError};
use preconf_payload_api::{ValidatorAddress, keys::KeyError};
use preconf_telemetry::metrics::Counter;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info};
use url::Url;

use crate::turns::{Source, Turns};

use next::{Foresight, PER_PAGE, PageError, Validator};

/// How long a question may take, before the next one is asked.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long a node may answer no question before it is missed. While beacon-kit finalizes a block
/// it calls its execution client twice, two seconds for each by default; and whether it is back shows
/// at the end of the question that was asked meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long asking for the validators may take, once at each height: the next question waits.
const FORETELLING: Duration = Duration::from_millis(250);
/// For how long the node must say a lower round than before, until it counts.
const ANEW: Duration = Duration::from_secs(3);
/// The largest answer, a consensus state: votes of a thousand validators in a few rounds.
const MAX_STATE_BYTES: usize = 4 * 1024 * 1024;

/// A CometBFT node.
#[derive(Debug)]
pub(crate) struct CometBft {
    http: Client<HttpConnector, Full<Bytes>>,
    /// Without a slash at its end.
    url: String,
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
    #[error("the node did not answer in time")]
    Timeout,
    #[error("the answer has more than {MAX_STATE_BYTES} bytes")]
    TooLarge,
    #[error("reading the consensus state")]
    Decode(#[source] serde_json::Error),
    #[error("reading the round {0:?}")]
    Round(String),
    #[error("reading the proposer")]
    Proposer(#[source] KeyError),
    #[error("reading a page of validators")]
    Validators(#[source] PageError),
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
    /// A node with this RPC, which must be plain `http`: a node of one's own, on this machine unless
    /// the operator insists.
    ///
    /// # Errors
    /// If the URL cannot or may not be used.
    pub(crate) fn new(url: &Url, security: &Security) -> Result<Self, ConfigError> {
        let flag = || "--cometbft-rpc";
        if url.scheme() != "http" || !url.username().is_empty() || url.query().is_some() {
            let reason = "expected http://HOST:PORT, without credentials or a query";
            return Err(ConfigError::flag(flag(), reason));
        }
        let authority = url.host_str().zip(url.port_or_known_default());
        let endpoint =
            authority.and_then(|(host, port)| format!("http://{host}:{port}").parse().ok());
        if endpoint.is_none_or(|endpoint| security.check(&endpoint).is_err()) {
            let reason = "is plaintext beyond loopback, and says who gets each block: ask a node on \
                          this machine, or give --insecure-plaintext";
            return Err(ConfigError::flag(flag(), reason));
        }
        let url = url.as_str().trim_end_matches('/').to_owned();
        url.parse::<Uri>()
            .map_err(|error| ConfigError::flag(flag(), "is no URI").because(error))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(DEADLINE));
        Ok(Self { http: Client::builder(TokioExecutor::new()).build(connector), url })
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
        let (mut heard, mut foresight) = (None, Foresight::default());
        let mut rounds = Rounds::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            match timeout(DEADLINE, self.ask()).await.unwrap_or(Err(StateError::Timeout)) {
                Ok(round) => {
                    let now = Instant::now();
                    heard = Some(now);
                    check.ready();
                    if rounds.counts(round, now) {
                        announce(round, &turns, &announced);
                    }
                    if let Some(next) = self.foretell(&mut foresight, round).await {
                        announce(next, &turns, &announced);
                    }
                }
                Err(StateError::Timeout) if is_patient(heard, Instant::now()) => {
                    debug!("the node is late: what it said last holds");
                }
                // The check says it once.
                Err(error) => check.not_ready(Chain(&error).to_string()),
            }
        }
    }

    async fn ask(&self) -> Result<Round, StateError> {
        read(&self.get("/consensus_state").await?)
    }

    /// The first round of the next height, if its proposer can be told.
    async fn foretell(&self, foresight: &mut Foresight, round: Round) -> Option<Round> {
        let is_believed = foresight.enter(&round)?;
        let asked = timeout(FORETELLING, self.validators(round.height)).await;
        match asked.unwrap_or(Err(StateError::Timeout)) {
            Ok(validators) => foresight.foretell(&validators).filter(|_| is_believed),
            Err(error) => {
                debug!(error = %Chain(&error), "the next proposer is not foretold");
                None
            }
        }
    }

    /// The validators of a height, page by page.
    async fn validators(&self, height: u64) -> Result<Vec<Validator>, StateError> {
        let (mut validators, mut page, mut has_more) = (Vec::new(), 0, true);
        while has_more {
            page += 1;
            let path = format!("/validators?height={height}&page={page}&per_page={PER_PAGE}");
            has_more = next::read(&self.get(&path).await?, height, &mut validators)
                .map_err(StateError::Validators)?;
        }
        Ok(validators)
    }

    async fn get(&self, path: &str) -> Result<Bytes, StateError> {
        let uri = format!("{}{path}", self.url).parse::<Uri>();
        let answer = self.http.get(uri.map_err(|error| StateError::Transport(error.into()))?).await;
        let answer = answer.map_err(|error| StateError::Transport(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(StateError::Status(answer.status()));
        }
        match Limited::new(answer.into_body(), MAX_STATE_BYTES).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(StateError::TooLarge),
            Err(error) => Err(StateError::Transport(error)),
        }
    }
}

/// What the node said of its height: a lower round than before counts when it goes on saying it. A node
/// that was restarted may say so for a moment, until it is where it was.
#[derive(Debug, Default)]
struct Rounds {
    last: Option<Round>,
    lower_since: Option<Instant>,
}

impl Rounds {
    fn counts(&mut self, round: Round, now: Instant) -> bool {
        let is_lower =
            self.last.is_some_and(|last| last.height == round.height && round.round < last.round);
        if is_lower && now - *self.lower_since.get_or_insert(now) < ANEW {
            return false;
        }
        (self.last, self.lower_since) = (Some(round), None);
        true
    }
}

/// Says who proposes in a round, if that is news.
fn announce(round: Round, turns: &Turns, announced: &Counter) {
    let Round { height, round, proposer } = round;
    if !turns.announce(Source::Node, height, round, proposer) {
        return;
    }
    announced.inc();
    if round == 0 {
        info!(slot = height, %proposer, "Sequencer mode: determined next proposer");
    } else {
        info!(slot = height, round, %proposer, "CometBFT round change detected");
    }
}

/// Whether what was heard last still counts, although the node is late.
fn is_patient(heard: Option<Instant>, now: Instant) -> bool {
    heard.is_some_and(|heard| now.saturating_duration_since(heard) < PATIENCE)
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
    fn a_node_that_executes_a_block_is_not_missed_and_one_that_was_never_heard_is() {
        let heard = Instant::now();
        // Two calls of two seconds, and the rest of a question that was asked meanwhile.
        let executed = heard + Duration::from_secs(2 + 2) + DEADLINE - Duration::from_millis(1);
        assert!(is_patient(Some(heard), executed));
        assert!(!is_patient(Some(heard), heard + PATIENCE));
        assert!(!is_patient(None, heard));
    }

    #[test]
    fn a_lower_round_counts_when_the_node_stays_with_it() {
        let round = |height, round| Round { height, round, proposer: ValidatorAddress([1; 20]) };
        let (mut rounds, began) = (Rounds::default(), Instant::now());
        assert!(rounds.counts(round(7, 3), began));
        // It was restarted, and is soon where it was.
        assert!(!rounds.counts(round(7, 0), began));
        assert!(!rounds.counts(round(7, 0), began + ANEW - Duration::from_millis(1)));
        assert!(rounds.counts(round(7, 3), began + ANEW));
        // The height begins anew.
        let anew = began + 2 * ANEW;
        assert!(!rounds.counts(round(7, 0), anew));
        assert!(rounds.counts(round(7, 0), anew + ANEW));
        assert!(rounds.counts(round(7, 1), anew + ANEW));
        assert!(rounds.counts(round(6, 0), anew + ANEW));
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
