//! The id under which a payload is being built.
//!
//! To a consensus client it is opaque. Ours is the one that Berachain's execution client computes;
//! Ethereum's differs only in what may be absent. It binds the parent and every attribute, so the
//! same request has the same id.

use alloy_primitives::B256;
use alloy_rpc_types_engine::{PayloadAttributes, PayloadId};
use preconf_chain::{PayloadIdInput, ProposerPublicKey};

/// The id of the payload with these attributes on `parent`.
pub fn payload_id(
    parent: B256,
    attributes: &PayloadAttributes,
    prev_proposer_pubkey: Option<&ProposerPublicKey>,
) -> PayloadId {
    PayloadId::new(input(parent, attributes, prev_proposer_pubkey).id().0)
}

/// The ids that some revision of the execution client computes for the same, the newest first. Two
/// may be equal.
pub fn payload_ids(
    parent: B256,
    attributes: &PayloadAttributes,
    prev_proposer_pubkey: Option<&ProposerPublicKey>,
) -> Vec<PayloadId> {
    let input = input(parent, attributes, prev_proposer_pubkey);
    input.variants().map(|(_, id)| PayloadId::new(id.0)).collect()
}

fn input<'a>(
    parent: B256,
    attributes: &'a PayloadAttributes,
    prev_proposer_pubkey: Option<&'a ProposerPublicKey>,
) -> PayloadIdInput<'a> {
    let PayloadAttributes {
        timestamp,
        prev_randao,
        suggested_fee_recipient,
        withdrawals,
        parent_beacon_block_root,
        // Amsterdam's; no chain that we know hashes it.
        slot_number: _,
        target_gas_limit,
    } = attributes;
    PayloadIdInput {
        parent_hash: parent,
        timestamp: *timestamp,
        prev_randao: *prev_randao,
        fee_recipient: *suggested_fee_recipient,
        withdrawals: withdrawals.as_deref(),
        parent_beacon_block_root: *parent_beacon_block_root,
        target_gas_limit: *target_gas_limit,
        prev_proposer_pubkey,
    }
}

#[cfg(test)]
mod tests {
    use alloy_eips::eip4895::Withdrawal;
    use alloy_primitives::{Address, FixedBytes, address, hex};

    use super::*;

    #[test]
    fn every_attribute_is_where_the_execution_client_hashes_it() {
        let key = FixedBytes(hex!(
            "95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017a"
            "dd3b1dcc3eabfb85e12a4131b19c253b"
        ));
        let mint = Withdrawal {
            index: u64::MAX,
            validator_index: u64::MAX,
            address: address!("0x1ae7dd7ae06f6c58b4524d9c1f816094b1bccd8e"),
            amount: 0x65a0_3c40,
        };
        let mut attributes = PayloadAttributes {
            timestamp: 1_800_000_000,
            prev_randao: B256::repeat_byte(0x22),
            suggested_fee_recipient: Address::repeat_byte(0x33),
            withdrawals: Some(vec![mint]),
            parent_beacon_block_root: Some(B256::repeat_byte(0x44)),
            ..PayloadAttributes::default()
        };
        let parent = B256::repeat_byte(0x11);
        let id = payload_id(parent, &attributes, Some(&key));
        assert_eq!(id.to_string(), "0xd65ec8b44ee51e45");
        attributes.target_gas_limit = Some(36_000_000);
        let id = payload_id(parent, &attributes, Some(&key));
        assert_eq!(id.to_string(), "0x5c0028ceb862d95f");
        let ids = payload_ids(parent, &attributes, Some(&key));
        assert_eq!(ids[..2], [id, "0xd65ec8b44ee51e45".parse().unwrap()]);
    }
}
