//! How clients are told of the chain: new blocks in order, then which of them is the head.
//!
//! The validators' client and the RPC node's are waited for. The sequencer is not: it is told by a
//! task of its own, and a block that did not reach it is told again before the next one. A telling
//! that is not done when the next begins is given up, so at most one is under way; at most
//! [`MISSED`] blocks are kept for the sequencer, and one that missed more cannot follow any more,
//! because its client has no peers to ask.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use alloy_rpc_types_engine::{ForkchoiceState, ForkchoiceUpdated, PayloadId, PayloadStatus};
use futures_util::FutureExt;
use preconf_chassis::Chain;
use preconf_engine::{BerachainAttributes, EngineClient, EngineError};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::client::Attributes;

use super::{ConsensusError, DEADLINE, proposal::Proposal};

/// How many blocks are kept for a sequencer that does not answer.
const MISSED: usize = 128;
/// How long an Engine API may take to answer before it is asked again, and how long until then.
const ORDER: Duration = Duration::from_secs(1);
const ORDER_PAUSE: Duration = Duration::from_millis(20);

/// What a client is told.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// The number of the head.
    pub(super) number: u64,
    /// The head.
    pub(super) state: ForkchoiceState,
    /// The next block, if it is asked for.
    pub(super) attributes: Option<Attributes>,
}

/// How the sequencer comes to know of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// So much later than everybody else, with what is to be built upon it.
    After(Duration),
    /// That it is the head, and so much later the block itself.
    HeadFirst(Duration),
    /// So much later, and what is to be built upon it after that.
    WhenFinal(Duration),
}

/// Tells a client of blocks that it may know already, then of the head.
pub(super) async fn follow(
    client: &'static str,
    door: &EngineClient,
    blocks: impl IntoIterator<Item = Arc<Proposal>>,
    news: &News,
) -> Result<ForkchoiceUpdated, ConsensusError> {
    let failed =
        |step| move |source| ConsensusError::Engine { client, step, source: Box::new(source) };
    let check = |step, number, status: &PayloadStatus| {
        if status.is_valid() {
            return Ok(());
        }
        let status = Box::new(status.clone());
        Err(ConsensusError::NotValid { client, step, number, status })
    };
    for block in blocks {
        let status = block.new_payload(door, DEADLINE).await.map_err(failed("newPayload"))?;
        check("newPayload", block.block.header.number, &status)?;
    }
    let updated = choose(door, news).await.map_err(failed("forkchoiceUpdated"))?;
    check("forkchoiceUpdated", news.number, &updated.payload_status)?;
    Ok(updated)
}

/// Without attributes, every version of the method says the same.
async fn choose(door: &EngineClient, news: &News) -> Result<ForkchoiceUpdated, EngineError> {
    let Some(Attributes { ethereum, prev_proposer_pubkey }) = &news.attributes else {
        return door.fork_choice_updated_v3(news.state, None, DEADLINE).await;
    };
    match prev_proposer_pubkey {
        Some(key) => {
            let attributes =
                BerachainAttributes { attributes: ethereum.clone(), parent_proposer_pubkey: *key };
            door.fork_choice_updated_v3_p11(news.state, Some(&attributes), DEADLINE).await
        }
        None => door.fork_choice_updated_v3(news.state, Some(ethereum), DEADLINE).await,
    }
}

/// Asks for the next block through an Engine API that may not be there yet, until it answers.
pub(super) async fn order(door: EngineClient, news: News) -> Option<PayloadId> {
    loop {
        if let Ok(Ok(updated)) = timeout(ORDER, choose(&door, &news)).await {
            return updated.payload_id;
        }
        sleep(ORDER_PAUSE).await;
    }
}

/// The sequencer, for whom nobody waits.
#[derive(Debug)]
pub(super) struct Sequencer {
    door: EngineClient,
    /// What it may not have, in order.
    missed: VecDeque<Arc<Proposal>>,
    /// At most one.
    telling: JoinSet<Result<ForkchoiceUpdated, ConsensusError>>,
}

impl Sequencer {
    /// One that knows the genesis.
    pub(super) fn new(door: EngineClient) -> Self {
        Self { door, missed: VecDeque::new(), telling: JoinSet::new() }
    }

    /// Begins to tell it the news, and gives up what it was being told.
    ///
    /// # Errors
    /// If it has called a block invalid.
    pub(super) fn tell(
        &mut self,
        block: Option<Arc<Proposal>>,
        news: News,
        manner: Manner,
    ) -> Result<(), ConsensusError> {
        // Too late to be built upon, but what it was told need not be told again.
        self.answer().now_or_never().transpose()?;
        if !self.telling.is_empty() {
            warn!(number = news.number, "the sequencer did not answer before the next block");
        }
        self.missed.extend(block);
        self.missed.drain(..self.missed.len().saturating_sub(MISSED));
        let (door, blocks) = (self.door.clone(), self.missed.clone());
        self.telling = JoinSet::new();
        self.telling.spawn(async move {
            match manner {
                Manner::After(late) => sleep(late).await,
                Manner::HeadFirst(late) => {
                    // It may not know the block, whatever it answers.
                    let answer = choose(&door, &news).await;
                    let status = answer.map(|updated| updated.payload_status.status.to_string());
                    warn!(number = news.number, ?status, "chosen before the block is there");
                    sleep(late).await;
                }
                Manner::WhenFinal(late) => {
                    sleep(late).await;
                    let to_know = News { attributes: None, ..news.clone() };
                    follow("the sequencer", &door, blocks, &to_know).await?;
                    return follow("the sequencer", &door, None, &news).await;
                }
            }
            follow("the sequencer", &door, blocks, &news).await
        });
        Ok(())
    }

    /// Its answer to the last news: the name of the block that it builds, if it builds one. Never
    /// comes if it has been given. Cancel safe.
    ///
    /// # Errors
    /// If it calls a block invalid.
    pub(super) async fn answer(&mut self) -> Result<Option<PayloadId>, ConsensusError> {
        let Some(told) = self.telling.join_next().await else { return pending().await };
        let told = match told {
            Ok(told) => told,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // It is aborted only when it is replaced.
                Err(_) => return Ok(None),
            },
        };
        match told {
            Ok(updated) => {
                self.missed.clear();
                Ok(updated.payload_id)
            }
            Err(ConsensusError::NotValid { status, .. }) if !status.is_invalid() => {
                warn!(%status, "the sequencer does not follow");
                Ok(None)
            }
            Err(error @ ConsensusError::Engine { .. }) => {
                warn!(error = %Chain(&error), "the sequencer does not follow");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it owes an answer.
    pub(super) fn is_silent(&self) -> bool {
        !self.telling.is_empty()
    }
}
