//! forkchoiceUpdated: which block is the head.
//!
//! The consensus client's word is taken as it is: the head may move to a descendant, to a block on
//! another branch, and back to an ancestor. Whoever follows the chain is told of every block that
//! became canonical, in order. Payloads can be asked for on top of any head, an old one too.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use alloy_rpc_types_engine::{
    ForkchoiceState, ForkchoiceUpdated, PayloadId, PayloadStatus, PayloadStatusEnum,
};
use preconf_engine::payload_id::payload_id;
use preconf_state::{Account, StateReader};
use tracing::info;

use super::attributes::Attributes;
use super::build::BuiltBlock;
use super::chain::{BlockState, HeadChange};
use super::pool::Rules;
use super::{ClientError, ExecutionClient};

/// How many payloads are kept. The oldest go first.
const PAYLOADS_KEPT: usize = 16;

/// The payloads that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Payloads(VecDeque<Payload>);

/// A payload that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) id: PayloadId,
    pub(crate) parent: B256,
    pub(crate) attributes: Attributes,
    /// It is built when it is fetched, with what waits by then, and stays as it is.
    pub(crate) built: Option<Arc<BuiltBlock>>,
}

impl Payloads {
    /// Takes note that a payload is wanted. One that was fetched before is built anew.
    fn want(&mut self, parent: B256, attributes: Attributes) -> PayloadId {
        let key = attributes.prev_proposer_pubkey.as_ref();
        let id = payload_id(parent, &attributes.ethereum, key);
        self.0.retain(|payload| payload.id != id);
        if self.0.len() == PAYLOADS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Payload { id, parent, attributes, built: None });
        id
    }

    pub(crate) fn get(&self, id: PayloadId) -> Option<&Payload> {
        self.0.iter().find(|payload| payload.id == id)
    }

    /// Keeps what was built, unless somebody else was faster; returns what is kept.
    pub(crate) fn keep(&mut self, id: PayloadId, built: Arc<BuiltBlock>) -> Arc<BuiltBlock> {
        match self.0.iter_mut().find(|payload| payload.id == id) {
            Some(payload) => payload.built.get_or_insert(built).clone(),
            None => built,
        }
    }
}

impl ExecutionClient {
    /// `engine_forkchoiceUpdatedV3`, and on Berachain `V3P11`.
    ///
    /// # Errors
    ///
    /// If the state contradicts itself or the chain; then nothing changes. If the attributes do not
    /// fit; then the head has changed all the same. An unknown head is not an error.
    pub fn fork_choice_updated(
        &self,
        state: ForkchoiceState,
        attributes: Option<Attributes>,
    ) -> Result<ForkchoiceUpdated, ClientError> {
        let head = state.head_block_hash;
        if head.is_zero() {
            return Err(ClientError::InvalidForkchoice { reason: "the head is zero" });
        }
        let _turn = self.changes.lock();
        if let Some(status) = self.invalid.lock().get(&head) {
            return Ok(ForkchoiceUpdated::new(status));
        }
        let Some(head_timestamp) = self.switch_head(&state)? else {
            return Ok(ForkchoiceUpdated::from_status(PayloadStatusEnum::Syncing));
        };
        let valid = PayloadStatus::new(PayloadStatusEnum::Valid, Some(head));
        let answer = ForkchoiceUpdated::new(valid);
        let Some(attributes) = attributes else { return Ok(answer) };
        self.check_attributes(&attributes, head_timestamp)?;
        let id = self.payloads.lock().want(head, attributes);
        Ok(answer.with_payload_id(id))
    }

    /// Moves the head and returns its timestamp; `None` if it is not known.
    fn switch_head(&self, state: &ForkchoiceState) -> Result<Option<u64>, ClientError> {
        let ForkchoiceState { head_block_hash, safe_block_hash, finalized_block_hash } = *state;
        let (change, head, state) = {
            let mut tree = self.tree.write();
            if tree.block(&head_block_hash).is_none() {
                return Ok(None);
            }
            for (block, reason) in [
                (safe_block_hash, "the safe block is not the head or an ancestor of it"),
                (finalized_block_hash, "the finalized block is not the head or an ancestor of it"),
            ] {
                if !block.is_zero() && !tree.descends(&head_block_hash, &block) {
                    return Err(ClientError::InvalidForkchoice { reason });
                }
            }
            let reason = "the head is too far below the present one";
            let too_far = ClientError::InvalidForkchoice { reason };
            let change = tree.set_head(&head_block_hash).ok_or(too_far)?;
            tree.set_final(safe_block_hash, finalized_block_hash);
            let change = Arc::new(change);
            // Nobody listening is no failure.
            for added in &change.added {
                self.heads.send(added.clone()).ok();
            }
            self.head_changes.send(change.clone()).ok();
            let head = tree.head().clone();
            let state = tree.state(&head.hash).ok_or(ClientError::NoState(head.hash))?;
            (change, head, state)
        };
        let timestamp = head.header().timestamp;
        self.update_pool(&change, &state, Rules::of(&self.spec, head.header()));
        if let Some(head) = change.added.last() {
            let (number, transactions) = (head.number(), head.transactions.len());
            info!(number, hash = %head.hash, transactions, "new head");
        }
        if !change.removed.is_empty() {
            info!(blocks = change.removed.len(), "blocks are no longer canonical");
        }
        Ok(Some(timestamp))
    }

    fn update_pool(&self, change: &HeadChange, state: &BlockState, rules: Rules) {
        let mut pool = self.pool.lock();
        let added = change.added.iter().flat_map(|block| &block.transactions);
        if change.removed.is_empty() {
            for transaction in added {
                pool.mined(transaction);
            }
            return;
        }
        let removed = change.removed.iter().flat_map(|block| &block.transactions);
        let account = |address| account(state, address);
        pool.rebuild(removed.cloned().collect(), account, rules);
    }

    fn check_attributes(
        &self,
        attributes: &Attributes,
        head_timestamp: u64,
    ) -> Result<(), ClientError> {
        let refuse = |reason: String| Err(ClientError::InvalidAttributes { reason });
        let Attributes { ethereum, .. } = attributes;
        if ethereum.withdrawals.is_none() {
            return refuse("withdrawals are missing".to_owned());
        }
        if ethereum.parent_beacon_block_root.is_none() {
            return refuse("parentBeaconBlockRoot is missing".to_owned());
        }
        let timestamp = ethereum.timestamp;
        let version = attributes.version().check_attributes(&self.spec, timestamp);
        version.map_err(ClientError::Version)?;
        if timestamp <= head_timestamp {
            return refuse(format!(
                "timestamp {timestamp} is not after the head's {head_timestamp}"
            ));
        }
        Ok(())
    }
}

/// An account in a state that is complete.
pub(crate) fn account(state: &impl StateReader, address: Address) -> Option<Account> {
    state.account(address).expect("a complete state knows every account")
}
