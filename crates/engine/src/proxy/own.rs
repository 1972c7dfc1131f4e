//! The execution client's own payloads: what was asked for is seen to its end, and nobody asks for it
//! a second time meanwhile.
//!
//! An execution client may end a build when it is asked for its payload, and forget it if whoever
//! asked is gone before the answer is complete. So a call that has begun is dropped neither because
//! the hook has decided, nor because the consensus client has hung up; if that asks again meanwhile,
//! it shares the answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_rpc_types_engine::PayloadId;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::client::{EngineError, Forwarded};
use crate::rpc::{self, Answer};
use crate::version::PayloadVersion;

/// How many calls that are under way can be shared. Further ones are made all the same.
const SHARED: usize = 64;

/// The calls that are under way. The lock is held for a look-up and never across a call.
#[derive(Debug, Default)]
pub(super) struct OwnPayloads(Mutex<Vec<Asked>>);

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    version: PayloadVersion,
    payload: PayloadId,
    /// The id of the request that was sent.
    id: Box<RawValue>,
    answer: watch::Receiver<Option<Arc<Outcome>>>,
}

type Outcome = Result<Forwarded, EngineError>;

impl OwnPayloads {
    /// Makes the call, on a task of its own, unless it is being made.
    pub(super) fn ask(
        self: &Arc<Self>,
        version: PayloadVersion,
        payload: PayloadId,
        id: &RawValue,
        call: impl Future<Output = Outcome> + Send + 'static,
    ) -> Asked {
        let mut asked = self.under_way();
        let is_same = |asked: &&Asked| (asked.version, asked.payload) == (version, payload);
        if let Some(asked) = asked.iter().find(is_same) {
            return asked.clone();
        }
        let (sender, answer) = watch::channel(None);
        let this = Asked { version, payload, id: id.to_owned(), answer };
        if asked.len() < SHARED {
            asked.push(this.clone());
        }
        drop(asked);
        let all = Arc::clone(self);
        let call = async move {
            sender.send_replace(Some(Arc::new(call.await)));
            drop(sender);
            drop(all.under_way());
        };
        drop(tokio::spawn(call.in_current_span()));
        this
    }

    /// Those that have not ended, however they ended.
    fn under_way(&self) -> MutexGuard<'_, Vec<Asked>> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|asked| asked.answer.has_changed().is_ok());
        asked
    }
}

impl Asked {
    /// Whether a payload was answered, as soon as that is known.
    pub(super) async fn is_payload(&self) -> bool {
        let mut answer = self.answer.clone();
        // None if the call panicked.
        let outcome = answer.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
        let Some(Ok(forwarded)) = outcome.as_deref() else { return false };
        serde_json::from_slice::<Answer<'_>>(&forwarded.body)
            .is_ok_and(|answer| answer.result.is_some() && answer.error.is_none())
    }

    /// What is to be handed on to the request with this id: the answer as it came, but for the id if
    /// another request was sent. None if the call panicked.
    pub(super) async fn answer(mut self, id: &RawValue) -> Option<Arc<Outcome>> {
        let outcome = self.answer.wait_for(Option::is_some).await.ok()?.clone()?;
        match &*outcome {
            Ok(forwarded) if self.id.get() != id.get() => {
                Some(Arc::new(Ok(with_id(forwarded, id))))
            }
            Ok(_) | Err(_) => Some(outcome),
        }
    }
}

fn with_id(forwarded: &Forwarded, id: &RawValue) -> Forwarded {
    let body = match serde_json::from_slice::<Answer<'_>>(&forwarded.body) {
        Ok(Answer { error: Some(error), .. }) => rpc::answer_body(Some(id), Err(&error)),
        Ok(Answer { result: Some(result), .. }) => rpc::answer_body(Some(id), Ok(result)),
        // Not JSON-RPC: it names no request.
        Ok(Answer { result: None, error: None }) | Err(_) => forwarded.body.clone(),
    };
    Forwarded { body, ..forwarded.clone() }
}
