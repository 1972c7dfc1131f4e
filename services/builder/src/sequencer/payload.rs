//! The answer to getPayload: the block that was preconfirmed, or the execution client's own.
//!
//! It waits for the build thread and the execution client, never for the signer. The execution
//! client's own payload is asked for at once, in case: by the consensus client's door, which knows
//! what that client calls it, or here. Where it is asked for here and is not to be had, a sealed block
//! is handed out whatever is in it.

use std::{sync::Arc, time::Duration};

use alloy_rpc_types_engine::PayloadId;
use preconf_assembly::BuildId;
use preconf_engine::{EngineClient, EngineError, proxy::PayloadVersion, rpc::code};
use preconf_primitives::AbandonReason;
use preconf_telemetry::Trace;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::{Instrument, Span, debug, field, info_span, warn};

use crate::sealing::SealedBlock;

use super::{
    Sequencer,
    builds::{Newest, Stage, Theirs},
};

/// Who asks for a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The consensus client. If the answer is none, its door hands on what the execution client has
    /// answered.
    ConsensusClient,
    /// A payload server, which has nobody else to ask.
    PayloadServer,
}

/// Why there is no answer to getPayload here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Neither we nor the execution client have a block of it, or not yet.
    Absent,
    /// We or the execution client may have one, and failed to hand it out.
    Failed,
}

/// The answer to getPayload, or why it is not here.
type Payload = Result<Box<RawValue>, Lack>;
/// Whose block it is, and the answer.
type Answer = (&'static str, Payload);

impl Sequencer {
    /// Our block if it is sealed in time, else the execution client's.
    pub(crate) async fn payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
        asker: Asker,
    ) -> Payload {
        let newest = self.builds.newest(id).ok_or(Lack::Absent)?;
        let span = info_span!("getPayload", build = newest.build.0, source = field::Empty);
        newest.trace.adopt(&span);
        // A payload server asks within a trace of its own.
        Trace::current().link(&span);
        Trace::of(&span).link(&Span::current());
        let payload = self.newest_payload(version, newest, asker).instrument(span.clone());
        let (source, payload) = payload.await?;
        span.record("source", source);
        payload
    }

    /// The answer to getPayload, unless it is not ours to give.
    async fn newest_payload(
        &self,
        version: PayloadVersion,
        newest: Newest,
        asker: Asker,
    ) -> Result<Answer, Lack> {
        let Newest { build, theirs, timestamp, is_led, mut stage, trace: _ } = newest;
        if let Err(error) = version.check_get_payload(&self.spec, timestamp) {
            // The client that it is forwarded to says so in its own words.
            warn!(%error, "a payload was asked for in a version of another fork");
            return Err(Lack::Absent);
        }
        let (has_fallback, to_ask) = match (theirs, asker) {
            (Theirs::Told(theirs), Asker::ConsensusClient) => (theirs.is_some(), Vec::new()),
            (Theirs::Told(theirs), Asker::PayloadServer) => {
                (theirs.is_some(), theirs.into_iter().collect())
            }
            (Theirs::Guessed(theirs), Asker::ConsensusClient | Asker::PayloadServer) => {
                (true, theirs)
            }
        };
        // At once: it is the fallback, and it ends the client's own build.
        let fallback = (!to_ask.is_empty()).then(|| {
            let (engine, budget) = (self.engine.clone(), self.seal_budget);
            tokio::spawn(async move { fallback(&engine, version, &to_ask, budget).await })
        });
        self.builds.finish(build, &self.orders);
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Building));
        let in_time = matches!(timeout(self.seal_budget, settled).await, Ok(Ok(_)));
        if !in_time {
            // If it is sealed in this very moment, what is published as sealed is what is handed
            // out.
            self.end(build, AbandonReason::SealFailed);
        }
        let sealed = match &*stage.borrow() {
            Stage::Sealed(sealed) => Some(sealed.clone()),
            Stage::Building | Stage::Over => None,
        };
        // A block without promises that nobody published: the client's own is fuller.
        let is_first = |sealed: &Arc<SealedBlock>| is_led || !has_fallback || sealed.is_used();
        if let Some(ours) = self.ours(sealed.clone().filter(is_first), version).await {
            return Ok(ours);
        }
        self.end(build, AbandonReason::SealFailed);
        // A block that is sealed and cannot be written is not absent.
        let mut payload = Err(if sealed.is_some() { Lack::Failed } else { Lack::Absent });
        if let Some(fallback) = fallback {
            payload = fallback.await.unwrap_or(Err(Lack::Failed));
            if payload.is_err()
                && let Some(ours) = self.ours(sealed, version).await
            {
                return Ok(ours);
            }
        }
        Ok(self.theirs(build, payload))
    }

    /// Our block, if there is one.
    async fn ours(
        &self,
        sealed: Option<Arc<SealedBlock>>,
        version: PayloadVersion,
    ) -> Option<Answer> {
        let envelope = sealed?.envelope(version).await?;
        self.metrics.payload("builder");
        Some(("builder", Ok(envelope)))
    }

    /// The execution client's block, which the door has if it is not here.
    fn theirs(&self, build: BuildId, payload: Payload) -> Answer {
        warn!(build = build.0, "the payload is the execution client's own");
        self.metrics.payload("fallback");
        ("fallback", payload)
    }
}

/// The execution client's own payload under the first of these ids that it knows.
async fn fallback(
    engine: &EngineClient,
    version: PayloadVersion,
    ids: &[PayloadId],
    deadline: Duration,
) -> Payload {
    let asking = async {
        let mut lacks = Lack::Absent;
        for id in ids {
            match engine.request(version.get_payload(), &(id,), deadline).await {
                Ok(envelope) => return Ok(envelope),
                Err(error) => {
                    debug!(%id, error = &error as &dyn std::error::Error, "is not to be had");
                    if lack(&error) == Lack::Failed {
                        lacks = Lack::Failed;
                    }
                }
            }
        }
        Err(lacks)
    };
    let payload = timeout(deadline, asking).await.unwrap_or(Err(Lack::Failed));
    if let Err(lack) = &payload {
        warn!(?lack, "there is no fallback");
    }
    payload
}

/// What an error of the execution client says of its payload.
fn lack(error: &EngineError) -> Lack {
    match error {
        EngineError::Rpc { error, .. } if error.code == code::UNKNOWN_PAYLOAD => Lack::Absent,
        EngineError::Rpc { .. }
        | EngineError::Url { .. }
        | EngineError::Encode { .. }
        | EngineError::Transport { .. }
        | EngineError::Timeout { .. }
        | EngineError::TooLarge { .. }
        | EngineError::Status { .. }
        | EngineError::Decode { .. } => Lack::Failed,
    }
}

#[cfg(test)]
mod tests {
    use preconf_engine::rpc::RpcError;

    use super::*;

    #[test]
    fn only_a_payload_that_the_execution_client_does_not_know_is_absent() {
        let (method, host) = (String::new, String::new);
        let refused = |code| {
            let error = RpcError::new(code, "no");
            EngineError::Rpc { method: method(), host: host(), error }
        };
        assert_eq!(lack(&refused(-38_001)), Lack::Absent);
        let deadline = Duration::from_secs(1);
        let late = EngineError::Timeout { method: method(), host: host(), deadline };
        for error in [refused(-32_603), refused(-38_002), late] {
            assert_eq!(lack(&error), Lack::Failed, "{error}");
        }
    }
}
