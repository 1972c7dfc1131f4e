//! The answer to getPayload: the block that was preconfirmed, or the execution client's own.
//!
//! It waits for the build thread and the execution client, never for the signer. The execution
//! client's own payload is asked for at once, in case: by the consensus client's door, which knows
//! what that client calls it, or here. Where it is asked for here and is not to be had, a sealed block
//! is handed out whatever is in it.

use std::{sync::Arc, time::Duration};

use alloy_rpc_types_engine::PayloadId;
use preconf_assembly::BuildId;
use preconf_engine::{EngineClient, proxy::PayloadVersion};
use preconf_primitives::AbandonReason;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::{Instrument, debug, field, info_span, warn};

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

/// Whose block it is, and the answer to getPayload, if it is here.
type Answer = (&'static str, Option<Box<RawValue>>);

impl Sequencer {
    /// Our block if it is sealed in time, else the execution client's.
    pub(crate) async fn payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
        asker: Asker,
    ) -> Option<Box<RawValue>> {
        let newest = self.builds.newest(id)?;
        let span = info_span!("getPayload", build = newest.build.0, source = field::Empty);
        newest.trace.adopt(&span);
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
    ) -> Option<Answer> {
        let Newest { build, theirs, timestamp, is_led, mut stage, trace: _ } = newest;
        if let Err(error) = version.check_get_payload(&self.spec, timestamp) {
            // The client that it is forwarded to says so in its own words.
            warn!(%error, "a payload was asked for in a version of another fork");
            return None;
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
            return Some(ours);
        }
        self.end(build, AbandonReason::SealFailed);
        if let Some(fallback) = fallback {
            let payload = fallback.await.ok().flatten();
            if payload.is_none()
                && let Some(ours) = self.ours(sealed, version).await
            {
                return Some(ours);
            }
            return Some(self.theirs(build, payload));
        }
        Some(self.theirs(build, None))
    }

    /// Our block, if there is one.
    async fn ours(
        &self,
        sealed: Option<Arc<SealedBlock>>,
        version: PayloadVersion,
    ) -> Option<Answer> {
        let envelope = sealed?.envelope(version).await?;
        self.metrics.payload("builder");
        Some(("builder", Some(envelope)))
    }

    /// The execution client's block, which the door has if it is not here.
    fn theirs(&self, build: BuildId, payload: Option<Box<RawValue>>) -> Answer {
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
) -> Option<Box<RawValue>> {
    let asking = async {
        for id in ids {
            match engine.request(version.get_payload(), &(id,), deadline).await {
                Ok(envelope) => return Some(envelope),
                Err(error) => {
                    debug!(%id, error = &error as &dyn std::error::Error, "is not to be had");
                }
            }
        }
        None
    };
    let payload = timeout(deadline, asking).await.ok().flatten();
    if payload.is_none() {
        warn!("there is no fallback");
    }
    payload
}
