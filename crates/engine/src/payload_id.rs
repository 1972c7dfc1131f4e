//! The id under which a payload is being built.
//!
//! To a consensus client it is opaque. This is the id that Berachain's execution client computes;
//! Ethereum's differs only in what may be absent. It binds the parent and every attribute, so the
//! same request has the same id.

use alloy_primitives::{B256, FixedBytes};
use alloy_rlp::Encodable;
use alloy_rpc_types_engine::{PayloadAttributes, PayloadId};
use sha2::{Digest, Sha256};

/// The id of the payload with these attributes on `parent`: the first 8 bytes of the SHA-256 of
/// what is there. No version is mixed in.
pub fn payload_id(
    parent: B256,
    attributes: &PayloadAttributes,
    prev_proposer_pubkey: Option<&FixedBytes<48>>,
) -> PayloadId {
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
    let mut hash = Sha256::new();
    hash.update(parent);
    hash.update(timestamp.to_be_bytes());
    hash.update(prev_randao);
    hash.update(suggested_fee_recipient);
    if let Some(withdrawals) = withdrawals {
        let mut list = Vec::with_capacity(withdrawals.length());
        withdrawals.encode(&mut list);
        hash.update(list);
    }
    if let Some(root) = parent_beacon_block_root {
        hash.update(root);
    }
    if let Some(gas_limit) = target_gas_limit {
        hash.update([1]);
        hash.update(gas_limit.to_be_bytes());
    }
    if let Some(key) = prev_proposer_pubkey {
        hash.update(key);
    }
    let mut id = [0; 8];
    id.copy_from_slice(&hash.finalize()[..8]);
    PayloadId::new(id)
}

#[cfg(test)]
mod tests {
    use alloy_eips::eip4895::Withdrawal;
    use alloy_primitives::{Address, address, hex};

    use super::*;

    fn attributes() -> PayloadAttributes {
        PayloadAttributes {
            timestamp: 1_800_000_000,
            prev_randao: B256::repeat_byte(0x22),
            suggested_fee_recipient: Address::repeat_byte(0x33),
            ..PayloadAttributes::default()
        }
    }

    fn id(attributes: &PayloadAttributes, key: Option<&FixedBytes<48>>) -> String {
        payload_id(B256::repeat_byte(0x11), attributes, key).to_string()
    }

    #[test]
    fn the_golden_value_of_the_execution_client_is_reproduced() {
        let attributes = PayloadAttributes {
            timestamp: 1000,
            prev_randao: B256::with_last_byte(2),
            suggested_fee_recipient: Address::repeat_byte(1),
            ..PayloadAttributes::default()
        };
        let id = payload_id(B256::with_last_byte(1), &attributes, None);
        assert_eq!(id.to_string(), "0x4a8513b98dbfaf30");
    }

    #[test]
    fn no_withdrawals_and_an_empty_list_differ() {
        let mut attributes = attributes();
        assert_eq!(id(&attributes, None), "0xb9f053f01357b8ac");
        attributes.withdrawals = Some(Vec::new());
        assert_eq!(id(&attributes, None), "0x2d5190913eb872f9");
        attributes.parent_beacon_block_root = Some(B256::repeat_byte(0x44));
        assert_eq!(id(&attributes, None), "0xf8ae8a119952a1db");
    }

    #[test]
    fn withdrawals_the_gas_limit_and_the_proposers_key_are_bound() {
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
            withdrawals: Some(vec![mint]),
            parent_beacon_block_root: Some(B256::repeat_byte(0x44)),
            ..attributes()
        };
        assert_eq!(id(&attributes, Some(&key)), "0xd65ec8b44ee51e45");
        attributes.target_gas_limit = Some(36_000_000);
        assert_eq!(id(&attributes, Some(&key)), "0x5c0028ceb862d95f");
    }
}
