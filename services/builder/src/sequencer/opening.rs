//! From payload attributes to a block's environment, and to what its first flashblock says of it.
//!
//! What the chain decides (base fee, gas limit, blob gas) comes from the [`ChainSpec`], the rest
//! from the attributes.

use alloy_eips::eip4895;
use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_rpc_types_engine::{PayloadAttributes, PayloadId};
use preconf_assembly::BuildId;
use preconf_chain::{ChainSpec, ProposerPublicKey};
use preconf_engine::payload_id::{payload_id, payload_ids};
use preconf_evm::NextBlock;
use preconf_primitives::{Base, Opening, PayloadId as WireId, Withdrawal};

use serde::Serialize;

use super::HeadState;

/// What the consensus client asks for a block with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Attributes {
    /// What every chain has.
    #[serde(flatten)]
    pub(crate) common: PayloadAttributes,
    /// Berachain's, since Prague1: the key of the parent's proposer.
    #[serde(rename = "parentProposerPubKey", skip_serializing_if = "Option::is_none")]
    pub(crate) parent_proposer_pubkey: Option<ProposerPublicKey>,
}

impl Attributes {
    /// Those of a block whose first flashblock says this.
    pub(super) fn of(opening: &Opening) -> Self {
        let Opening { base, withdrawals } = opening;
        let withdrawals = withdrawals.iter().map(|withdrawal| eip4895::Withdrawal {
            index: withdrawal.index,
            validator_index: withdrawal.validator_index,
            address: withdrawal.address,
            amount: withdrawal.amount_gwei,
        });
        let common = PayloadAttributes {
            timestamp: base.timestamp,
            prev_randao: base.prev_randao,
            suggested_fee_recipient: base.fee_recipient,
            withdrawals: Some(withdrawals.collect()),
            parent_beacon_block_root: Some(base.parent_beacon_block_root),
            slot_number: None,
            target_gas_limit: None,
        };
        Self { common, parent_proposer_pubkey: base.prev_proposer_pubkey }
    }

    /// The same with a gas limit to arrive at.
    pub(super) fn aiming_at(&self, gas_limit: u64) -> Self {
        let mut attributes = self.clone();
        attributes.common.target_gas_limit = Some(gas_limit);
        attributes
    }

    /// What execution clients may call the payload with these, or with some of `others`, on `parent`,
    /// the likeliest first.
    pub(super) fn ids_of_clients(&self, parent: B256, others: &[Self]) -> Vec<PayloadId> {
        let mut ids: Vec<PayloadId> = Vec::new();
        for attributes in std::iter::once(self).chain(others) {
            let key = attributes.parent_proposer_pubkey.as_ref();
            for id in payload_ids(parent, &attributes.common, key) {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        ids
    }

    /// The Engine API's id of the payload with these on `parent`.
    pub(super) fn id(&self, parent: B256) -> PayloadId {
        payload_id(parent, &self.common, self.parent_proposer_pubkey.as_ref())
    }
}

/// The environment of the block that the attributes ask for.
pub(super) fn next_block(
    spec: &ChainSpec,
    state: &HeadState,
    attributes: &Attributes,
    gas_target: u64,
) -> NextBlock {
    let Attributes { common: attributes, parent_proposer_pubkey } = attributes;
    let parent = &state.header;
    let gas_target = attributes.target_gas_limit.unwrap_or(gas_target);
    NextBlock {
        parent_hash: state.cache.block().1,
        parent_beacon_block_root: attributes.parent_beacon_block_root,
        number: parent.number + 1,
        timestamp: attributes.timestamp,
        fee_recipient: attributes.suggested_fee_recipient,
        prev_randao: attributes.prev_randao,
        difficulty: U256::ZERO,
        gas_limit: ChainSpec::next_gas_limit(parent.gas_limit, gas_target),
        base_fee_per_gas: spec.next_base_fee(parent),
        extra_data: Bytes::new(),
        withdrawals: attributes.withdrawals.clone().unwrap_or_default(),
        excess_blob_gas: spec.next_excess_blob_gas(parent, attributes.timestamp),
        prev_proposer_pubkey: *parent_proposer_pubkey,
    }
}

pub(super) fn opening(block: &NextBlock) -> Opening {
    let withdrawals = block.withdrawals.iter().map(|withdrawal| Withdrawal {
        index: withdrawal.index,
        validator_index: withdrawal.validator_index,
        address: withdrawal.address,
        amount_gwei: withdrawal.amount,
    });
    Opening {
        base: Base {
            parent_beacon_block_root: block.parent_beacon_block_root.unwrap_or_default(),
            parent_hash: block.parent_hash,
            fee_recipient: block.fee_recipient,
            prev_randao: block.prev_randao,
            block_number: block.number,
            gas_limit: block.gas_limit,
            timestamp: block.timestamp,
            extra_data: block.extra_data.clone(),
            base_fee_per_gas: block.base_fee_per_gas,
            prev_proposer_pubkey: block.prev_proposer_pubkey,
        },
        withdrawals: withdrawals.collect(),
    }
}

/// The session's own id on the wire: a rebuild under the same Engine API id has another one.
pub(super) fn wire_id(attributes: &Attributes, parent: B256, build: BuildId) -> WireId {
    /// Tells builds of one process apart from those of the one before it.
    fn process_start() -> u128 {
        static START: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
        *START.get_or_init(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap_or_default().as_nanos()
        })
    }
    let mut preimage = attributes.id(parent).0.to_vec();
    preimage.extend(build.0.to_be_bytes());
    preimage.extend(process_start().to_be_bytes());
    WireId::from_slice(&keccak256(preimage)[..8])
}
