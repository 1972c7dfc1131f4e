//! Whether a payload id binds what a v1 signature does not: the base and the withdrawals.
//!
//! A bera-reth sequencer takes the Engine API's payload id, which is a hash of the parent and of
//! what its consensus client asked for. The signature covers the id, so who computes the same id
//! knows that these were not altered. It binds neither the gas limit, nor the base fee, nor the
//! extra data (the rules of the chain do, where they leave no choice), and only to 64 bits.

use preconf_chain::PayloadIdInput;
use preconf_pending::next_block;
use preconf_primitives::{Opening, PayloadId};

/// Whether some known revision computes this id from this opening.
///
/// What was absent is told apart from what was empty by trying both, and so is a target gas limit:
/// the block's own is tried, which it is once the chain has arrived there.
pub(crate) fn binds(id: PayloadId, opening: &Opening) -> bool {
    let Opening { base, withdrawals } = opening;
    let withdrawals = next_block(base, withdrawals, None).withdrawals;
    let mut lists = vec![Some(withdrawals.as_slice())];
    if withdrawals.is_empty() {
        lists.push(None);
    }
    let mut roots = vec![Some(base.parent_beacon_block_root)];
    if base.parent_beacon_block_root.is_zero() {
        roots.push(None);
    }
    let inputs = lists.iter().flat_map(|list| roots.iter().map(move |root| (*list, *root)));
    let mut inputs = inputs.map(|(withdrawals, parent_beacon_block_root)| PayloadIdInput {
        parent_hash: base.parent_hash,
        timestamp: base.timestamp,
        prev_randao: base.prev_randao,
        fee_recipient: base.fee_recipient,
        withdrawals,
        parent_beacon_block_root,
        target_gas_limit: Some(base.gas_limit),
        prev_proposer_pubkey: base.prev_proposer_pubkey.as_ref(),
    });
    inputs.any(|input| input.variants().any(|(_, known)| known == id))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, Bytes, FixedBytes, address, b64, hex};
    use preconf_primitives::{Base, Withdrawal};

    use super::*;

    /// What the frozen ids of upstream were computed from.
    fn opening() -> Opening {
        let base = Base {
            parent_beacon_block_root: B256::repeat_byte(0x44),
            parent_hash: B256::repeat_byte(0x11),
            fee_recipient: Address::repeat_byte(0x33),
            prev_randao: B256::repeat_byte(0x22),
            block_number: 100,
            gas_limit: 36_000_000,
            timestamp: 1_800_000_000,
            extra_data: Bytes::new(),
            base_fee_per_gas: 1,
            prev_proposer_pubkey: Some(FixedBytes(hex!(
                "95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017a"
                "dd3b1dcc3eabfb85e12a4131b19c253b"
            ))),
        };
        let mint = Withdrawal {
            index: u64::MAX,
            validator_index: u64::MAX,
            address: address!("0x1ae7dd7ae06f6c58b4524d9c1f816094b1bccd8e"),
            amount_gwei: 0x65a0_3c40,
        };
        Opening { base, withdrawals: vec![mint] }
    }

    #[test]
    fn every_known_way_to_compute_the_id_is_tried() {
        let whole = opening();
        assert!(binds(b64!("0xd65ec8b44ee51e45"), &whole), "post-Prague1");
        assert!(binds(b64!("0x5c0028ceb862d95f"), &whole), "with a target gas limit");
        let mut bare = opening();
        bare.base.prev_proposer_pubkey = None;
        bare.withdrawals.clear();
        assert!(binds(b64!("0xf8ae8a119952a1db"), &bare), "no withdrawals, no key");
        bare.base.parent_beacon_block_root = B256::ZERO;
        assert!(binds(b64!("0x2d5190913eb872f9"), &bare), "no beacon root");
        assert!(binds(b64!("0xb9f053f01357b8ac"), &bare), "no list of withdrawals");
    }

    #[test]
    fn whatever_it_binds_cannot_be_altered() {
        type Change = fn(&mut Opening);
        let changes: [Change; 8] = [
            |opening| opening.base.parent_beacon_block_root = B256::ZERO,
            |opening| opening.base.parent_hash = B256::ZERO,
            |opening| opening.base.fee_recipient = Address::ZERO,
            |opening| opening.base.prev_randao = B256::ZERO,
            |opening| opening.base.timestamp += 1,
            |opening| opening.base.prev_proposer_pubkey = None,
            |opening| opening.withdrawals[0].amount_gwei += 1,
            |opening| opening.withdrawals.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut altered = opening();
            change(&mut altered);
            assert!(!binds(b64!("0xd65ec8b44ee51e45"), &altered), "change {number}");
        }
    }
}
