//! forkchoiceUpdated: which block is the head.
//!
//! The consensus client's word is taken as it is: the head may move to a descendant, to a block on
//! another branch, and back to an ancestor. Whoever follows the chain is told of every block that
//! became canonical, in order. Payloads can be asked for on top of any head, an old one too.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{Address, B256};
use alloy_rpc_types_engine::{
    ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId, PayloadStatus,
    PayloadStatusEnum,
};
use preconf_engine::RpcError;
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
        let check = |attributes: &Attributes| self.check_attributes(attributes);
        self.update_fork_choice(state, attributes, check)
    }

    /// `engine_forkchoiceUpdatedV1` and `V2`: with attributes from before Cancun, which the method
    /// has found to have the fields of their time, and `check` to be of the method's forks.
    ///
    /// # Errors
    ///
    /// As [`Self::fork_choice_updated`].
    pub(crate) fn early_fork_choice_updated(
        &self,
        state: ForkchoiceState,
        attributes: Option<PayloadAttributes>,
        check: impl FnOnce(&PayloadAttributes) -> Result<(), RpcError>,
    ) -> Result<ForkchoiceUpdated, ClientError> {
        let check =
            |attributes: &Attributes| check(&attributes.ethereum).map_err(ClientError::Version);
        self.update_fork_choice(state, attributes.map(Attributes::from), check)
    }

    /// The head moves whatever is wrong with the attributes.
    fn update_fork_choice(
        &self,
        state: ForkchoiceState,
        attributes: Option<Attributes>,
        check: impl FnOnce(&Attributes) -> Result<(), ClientError>,
    ) -> Result<ForkchoiceUpdated, ClientError> {
        let head = state.head_block_hash;
        if head.is_zero() {
            return Err(ClientError::InvalidForkchoice { reason: "the head is zero" });
        }
        let _turn = self.changes.lock();
        if let Some(status) = self.invalid.lock().get(&head) {
            return Ok(ForkchoiceUpdated::new(status));
        }
        let Some((head_number, head_timestamp)) = self.switch_head(&state)? else {
            return Ok(ForkchoiceUpdated::from_status(PayloadStatusEnum::Syncing));
        };
        let valid = PayloadStatus::new(PayloadStatusEnum::Valid, Some(head));
        let answer = ForkchoiceUpdated::new(valid);
        let Some(attributes) = attributes else { return Ok(answer) };
        check(&attributes)?;
        let timestamp = attributes.ethereum.timestamp;
        let refuse = |reason: String| Err(ClientError::InvalidAttributes { reason });
        if timestamp <= head_timestamp {
            return refuse(format!(
                "timestamp {timestamp} is not after the head's {head_timestamp}"
            ));
        }
        if !self.spec.is_paris_active_at_block(head_number + 1) {
            return refuse("the next block is from before the merge".to_owned());
        }
        self.spec.check_building(timestamp).map_err(ClientError::Building)?;
        let id = self.payloads.lock().want(head, attributes);
        Ok(answer.with_payload_id(id))
    }

    /// Moves the head and returns its number and its timestamp; `None` if it is not known.
    fn switch_head(&self, state: &ForkchoiceState) -> Result<Option<(u64, u64)>, ClientError> {
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
        let (number, timestamp) = (head.number(), head.header().timestamp);
        self.update_pool(&change, &state, Rules::of(&self.spec, head.header()));
        if let Some(head) = change.added.last() {
            let (number, transactions) = (head.number(), head.transactions.len());
            info!(number, hash = %head.hash, transactions, "new head");
        }
        if !change.removed.is_empty() {
            info!(blocks = change.removed.len(), "blocks are no longer canonical");
        }
        Ok(Some((number, timestamp)))
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

    fn check_attributes(&self, attributes: &Attributes) -> Result<(), ClientError> {
        let Attributes { ethereum, .. } = attributes;
        for (field, missing) in [
            ("withdrawals", ethereum.withdrawals.is_none()),
            ("parentBeaconBlockRoot", ethereum.parent_beacon_block_root.is_none()),
        ] {
            if missing {
                let reason = format!("{field} is missing");
                return Err(ClientError::InvalidAttributes { reason });
            }
        }
        let version = attributes.version().check_attributes(&self.spec, ethereum.timestamp);
        version.map_err(ClientError::Version)
    }
}

/// An account in a state that is complete.
pub(crate) fn account(state: &impl StateReader, address: Address) -> Option<Account> {
    state.account(address).expect("a complete state knows every account")
}
