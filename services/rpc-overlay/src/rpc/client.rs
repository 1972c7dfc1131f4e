//! Asking the execution client so that its answer fits to the snapshot.
//!
//! The client may be behind the consumer. What it does not know counts only when it was seen to have
//! the snapshot's canonical block: what was in a snapshot once must not vanish while the client
//! catches up. It is waited for, for a moment; then the caller is told so.

use std::time::Duration;

use alloy_primitives::{B256, U64};
use jsonrpsee::types::error::{INVALID_PARAMS_CODE, METHOD_NOT_FOUND_CODE};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::sleep;

use super::Rpc;
use crate::{
    Answer,
    failure::Failure,
    pin::{self, Question},
    view::View,
};

/// How often the client is asked whether it has a block, and how long apart.
const MAX_ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The one field of a block that is needed to know it again.
#[derive(Deserialize)]
struct Named {
    hash: B256,
}

impl Rpc {
    /// Asks what means the same everywhere. If there is no answer because the client is behind, it
    /// is asked again.
    pub(super) async fn ask_elsewhere(
        &self,
        view: &View,
        method: &str,
        params: Option<Box<RawValue>>,
    ) -> Answer {
        let was_reached = view.is_reached();
        let answer = self.client.ask(method, params.clone()).await;
        let is_nothing = match &answer {
            Ok(found) => found.get() == "null",
            Err(failure) => failure.refusal_code().is_some(),
        };
        if was_reached || !is_nothing {
            return answer;
        }
        match self.reach(view).await {
            Ok(()) => self.client.ask(method, params).await,
            // A refusal says more than that.
            Err(behind) => Err(answer.err().unwrap_or(behind)),
        }
    }

    /// Asks about the canonical block of the snapshot and about no other.
    pub(super) async fn ask_canonical(&self, view: &View, question: Question) -> Answer {
        self.reach(view).await?;
        if let Some((method, params)) = question.by_hash {
            let answer = self.client.ask(&method, Some(params)).await;
            let code = answer.as_ref().err().and_then(Failure::refusal_code);
            if !matches!(code, Some(INVALID_PARAMS_CODE | METHOD_NOT_FOUND_CODE)) {
                return answer;
            }
        }
        // The client does not know this form: the number, then, as long as it means this block.
        let (method, params) = question.by_number;
        self.expect_canonical(view).await?;
        let answer = self.client.ask(&method, Some(params)).await;
        self.expect_canonical(view).await?;
        answer
    }

    /// Waits for the client to have the canonical block of the snapshot.
    pub(super) async fn reach(&self, view: &View) -> Result<(), Failure> {
        for _ in 1..MAX_ATTEMPTS {
            if view.is_reached() || self.has_canonical(view).await? {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        self.expect_canonical(view).await
    }

    async fn expect_canonical(&self, view: &View) -> Result<(), Failure> {
        match self.has_canonical(view).await? {
            true => Ok(()),
            false => Err(Failure::Behind { number: view.snapshot.canonical.number }),
        }
    }

    async fn has_canonical(&self, view: &View) -> Result<bool, Failure> {
        const METHOD: &str = "eth_getBlockByNumber";
        let canonical = &view.snapshot.canonical;
        let params = pin::written(&json!([U64::from(canonical.number), false]));
        let found = match self.client.ask(METHOD, Some(params)).await {
            Ok(found) => found,
            // Some clients refuse to speak of a block that they do not have.
            Err(failure) if failure.refusal_code().is_some() => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let found: Option<Named> = self.client.read(METHOD, &found)?;
        let has = found.is_some_and(|found| found.hash == canonical.hash);
        if has {
            view.note_reached();
        }
        Ok(has)
    }
}
