//! newPayload: is this a block of the chain?
//!
//! A payload is executed on its parent's state and everything that its header says is compared with
//! what comes out, the state root with that of the whole state, built anew. Valid blocks enter the
//! tree; the canonical chain changes only with the forkchoice.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy_eips::eip7685::Requests;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_engine::{
    ExecutionPayload, ExecutionPayloadV3, PayloadStatus, PayloadStatusEnum,
};
use preconf_chain::{Block, ProposerPublicKey, TrieAccountParts, state_root};
use preconf_engine::PayloadVersion;
use preconf_engine::payload::{
    BesidePayload, PayloadError, from_payload, requests_hash, versioned_hashes,
};
use preconf_evm::{BlockError, ExecutionError, Outcome, execute_known_block};
use preconf_state::{Diff, MemoryState};
use tracing::{debug, info};

use super::chain::{BlockState, ChainBlock, STATES_KEPT};
use super::error::in_words;
use super::{ClientError, ExecutionClient};

/// How many invalid blocks are remembered, so that their descendants are invalid too.
const INVALID_KEPT: usize = 256;

/// What a consensus client sends besides the payload.
#[derive(Clone, Debug, Default)]
pub struct PayloadContext {
    /// The hashes of the blobs it expects.
    pub versioned_hashes: Vec<B256>,
    /// The root of the parent beacon block.
    pub parent_beacon_block_root: B256,
    /// The execution requests; none before Prague.
    pub requests: Option<Vec<Bytes>>,
    /// The key of the previous block's proposer, on Berachain since Prague1.
    pub prev_proposer_pubkey: Option<ProposerPublicKey>,
}

impl PayloadContext {
    /// The version of newPayload it comes with.
    const fn version(&self) -> PayloadVersion {
        match (&self.requests, self.prev_proposer_pubkey) {
            (_, Some(_)) => PayloadVersion::V4P11,
            (Some(_), None) => PayloadVersion::V4,
            (None, None) => PayloadVersion::V3,
        }
    }
}

/// Blocks that are not valid, and why.
#[derive(Debug, Default)]
pub(crate) struct InvalidBlocks(VecDeque<(B256, PayloadStatus)>);

impl InvalidBlocks {
    pub(crate) fn get(&self, hash: &B256) -> Option<PayloadStatus> {
        self.0.iter().find(|(invalid, _)| invalid == hash).map(|(_, status)| status.clone())
    }

    fn note(&mut self, hash: B256, status: &PayloadStatus) {
        if self.0.len() == INVALID_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((hash, status.clone()));
    }
}

impl ExecutionClient {
    /// `engine_newPayloadV3` (without requests), `V4` (with them) and `V4P11` (with a key).
    ///
    /// # Errors
    ///
    /// If the payload is of another fork than the version, or the requests are no list of such. A
    /// payload that is not valid is not an error.
    pub fn new_payload(
        &self,
        payload: ExecutionPayloadV3,
        context: &PayloadContext,
    ) -> Result<PayloadStatus, ClientError> {
        let timestamp = payload.payload_inner.payload_inner.timestamp;
        let version = context.version().check_new_payload(&self.spec, timestamp);
        version.map_err(ClientError::Version)?;
        let requests_hash = context.requests.as_deref().map(requests_hash).transpose();
        let beside = BesidePayload {
            parent_beacon_block_root: Some(context.parent_beacon_block_root),
            requests_hash: requests_hash.map_err(ClientError::Requests)?,
            prev_proposer_pubkey: context.prev_proposer_pubkey,
        };
        self.take_payload(payload.into(), &beside, context)
    }

    /// `engine_newPayloadV1` and `V2`: a payload from before Cancun, with nothing beside it.
    ///
    /// # Errors
    ///
    /// If the client fails. A payload that is not valid is not an error.
    pub fn new_early_payload(
        &self,
        payload: ExecutionPayload,
    ) -> Result<PayloadStatus, ClientError> {
        self.take_payload(payload, &BesidePayload::default(), &PayloadContext::default())
    }

    fn take_payload(
        &self,
        payload: ExecutionPayload,
        beside: &BesidePayload,
        context: &PayloadContext,
    ) -> Result<PayloadStatus, ClientError> {
        let _turn = self.changes.lock();
        let (parent, hash) = (payload.parent_hash(), payload.block_hash());
        let block = match from_payload(payload, beside) {
            Ok(block) => block,
            Err(error) => return Ok(self.malformed(hash, &error, parent)),
        };
        let status = self.judge(hash, block, context)?;
        if let PayloadStatusEnum::Invalid { validation_error } = &status.status {
            info!(%hash, error = validation_error, "invalid payload");
        }
        Ok(status)
    }

    /// The answer to a payload that is no block at all.
    fn malformed(&self, hash: B256, error: &PayloadError, parent: B256) -> PayloadStatus {
        let words = in_words(error);
        match error {
            // Whatever has this hash, it is not what was sent.
            PayloadError::BlockHash { .. }
            | PayloadError::Field { .. }
            | PayloadError::Requests { .. } => invalid(words, None),
            PayloadError::Transaction { .. } | PayloadError::NotCanonical { .. } => {
                let parent = self.tree.read().block(&parent).cloned();
                let known = parent.map(|parent| self.latest_valid(&parent));
                self.reject(hash, invalid(words, known))
            }
        }
    }

    fn judge(
        &self,
        hash: B256,
        block: Block,
        context: &PayloadContext,
    ) -> Result<PayloadStatus, ClientError> {
        if versioned_hashes(&block) != context.versioned_hashes {
            let error = "the versioned hashes are not those of the payload's blobs".to_owned();
            return Ok(invalid(error, None));
        }
        let parent_hash = block.header.parent_hash;
        {
            let invalid_blocks = self.invalid.lock();
            if let Some(known) = invalid_blocks.get(&hash) {
                return Ok(known);
            }
            if let Some(PayloadStatus { latest_valid_hash, .. }) = invalid_blocks.get(&parent_hash)
            {
                drop(invalid_blocks);
                let error = "links to previously rejected block".to_owned();
                return Ok(self.reject(hash, invalid(error, latest_valid_hash)));
            }
        }
        let (parent, state) = {
            let tree = self.tree.read();
            if tree.block(&hash).is_some() {
                return Ok(valid(hash));
            }
            let parent = tree.block(&parent_hash).cloned();
            let near = block.header.number <= tree.head().number() + STATES_KEPT;
            match (parent, tree.state(&parent_hash)) {
                (Some(parent), Some(state)) if near => (parent, state),
                (_, _) => return Ok(PayloadStatus::from_status(PayloadStatusEnum::Syncing)),
            }
        };
        if !self.spec.is_paris_active_at_block(block.header.number) {
            let error = "a block from before the merge comes in no payload".to_owned();
            return Ok(self.reject(hash, invalid(error, Some(B256::ZERO))));
        }
        let requests = context.requests.clone().map(Requests::new);
        match self.execute(hash, block, &parent, state, requests.as_ref()) {
            Ok(executed) => {
                let Executed { block, diff, full } = executed;
                debug!(%hash, number = block.number(), "valid payload");
                self.tree.write().insert(Arc::new(block), diff, full);
                Ok(valid(hash))
            }
            Err(Verdict::Invalid(error)) => {
                Ok(self.reject(hash, invalid(error, Some(self.latest_valid(&parent)))))
            }
            Err(Verdict::Failed(error)) => Err(error),
        }
    }

    /// What is named as the last valid block under an invalid one: the zero hash where that was
    /// mined.
    fn latest_valid(&self, parent: &ChainBlock) -> B256 {
        let merged = self.spec.is_paris_active_at_block(parent.number());
        if merged { parent.hash } else { B256::ZERO }
    }

    fn reject(&self, hash: B256, status: PayloadStatus) -> PayloadStatus {
        self.invalid.lock().note(hash, &status);
        status
    }

    /// Executes a block on the state after its parent; `requests` are what came with it.
    pub(crate) fn execute(
        &self,
        hash: B256,
        block: Block,
        parent: &ChainBlock,
        state: BlockState,
        requests: Option<&Requests>,
    ) -> Result<Executed, Verdict> {
        let known = |hash: &B256| self.pool.lock().get(hash).cloned();
        let (spec, before) = (&self.spec, state.clone());
        let outcome = execute_known_block(spec, parent.header(), &block, requests, before, known);
        Executed::new(hash, block, Vec::new(), outcome.map_err(verdict)?, &state)
    }
}

/// A valid block and the state after it.
pub(crate) struct Executed {
    pub(crate) block: ChainBlock,
    pub(crate) diff: Diff,
    pub(crate) full: MemoryState,
}

impl Executed {
    /// Compares the root of the state after a block with what its header says.
    pub(crate) fn new(
        hash: B256,
        block: Block,
        intermediate_roots: Vec<B256>,
        outcome: Outcome<Arc<MemoryState>>,
        before: &BlockState,
    ) -> Result<Self, Verdict> {
        let diff = outcome.diff();
        let full = state_after(before, &diff);
        let (got, expected) = (root_of(&full), block.header.state_root);
        if got != expected {
            let error = format!("mismatched block state root: got {got}, expected {expected}");
            return Err(Verdict::Invalid(error));
        }
        let block = ChainBlock {
            hash,
            block,
            transactions: Arc::unwrap_or_clone(outcome.transactions),
            receipts: outcome.receipts,
            intermediate_roots,
            requests: outcome.requests,
        };
        Ok(Self { block, diff, full })
    }
}

/// Why a block does not enter the tree.
pub(crate) enum Verdict {
    Invalid(String),
    Failed(ClientError),
}

pub(crate) fn verdict(error: BlockError) -> Verdict {
    match error {
        BlockError::NeedState(keys) => {
            Verdict::Failed(ClientError::Execution(ExecutionError::NeedState(keys)))
        }
        error @ (BlockError::Header(_)
        | BlockError::Sender { .. }
        | BlockError::Transaction { .. }
        | BlockError::Execution(_)
        | BlockError::TooLarge { .. }
        | BlockError::Prague3(_)
        | BlockError::Mismatch { .. }) => Verdict::Invalid(in_words(&error)),
    }
}

/// The whole state after a block, given the state before it and what it changed.
pub(crate) fn state_after(before: &BlockState, diff: &Diff) -> MemoryState {
    let mut state = MemoryState::clone(before.reader());
    state.apply(&before.diff());
    state.apply(diff);
    state
}

/// The root of a whole state.
pub(crate) fn root_of(state: &MemoryState) -> B256 {
    state_root(state.iter().map(|(address, account, storage)| {
        let preconf_state::Account { nonce, balance, code_hash } = account;
        (address, TrieAccountParts { nonce, balance, code_hash, storage })
    }))
}

fn valid(hash: B256) -> PayloadStatus {
    PayloadStatus::new(PayloadStatusEnum::Valid, Some(hash))
}

fn invalid(validation_error: String, latest_valid_hash: Option<B256>) -> PayloadStatus {
    PayloadStatus::new(PayloadStatusEnum::Invalid { validation_error }, latest_valid_hash)
}
