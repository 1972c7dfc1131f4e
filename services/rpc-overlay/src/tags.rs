//! Which block a caller means.
//!
//! A block parameter names a pending block of the snapshot, the canonical block the snapshot builds
//! upon, a block that is not there yet, or one that only the execution client knows. The answer
//! follows from the parameter, the snapshot and what the operator wants `latest` to be; nothing else.

use std::cmp::Ordering;

use alloy_rpc_types_eth::{BlockId, BlockNumberOrTag};
use preconf_pending::snapshot::Snapshot;

/// What `latest` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Latest {
    /// The newest pending block: what was preconfirmed counts.
    #[default]
    Preconfirmed,
    /// The newest canonical block: what was preconfirmed shows at `pending` only.
    Canonical,
}

/// The block that a parameter names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A pending block, by its place in the snapshot.
    Pending(usize),
    /// The block that the snapshot builds upon, named by a tag or its number.
    Canonical,
    /// A block above the newest one.
    Above,
    /// A block that the execution client knows, or nobody.
    Elsewhere,
}

/// Finds the block that `id` names.
pub(crate) fn resolve(id: BlockId, snapshot: &Snapshot, latest: Latest) -> Target {
    match id {
        BlockId::Hash(hash) => {
            let hash = hash.block_hash;
            let at = snapshot.blocks.iter().position(|block| block.reference.hash == hash);
            at.map_or(Target::Elsewhere, Target::Pending)
        }
        BlockId::Number(BlockNumberOrTag::Pending) => tip(snapshot),
        BlockId::Number(BlockNumberOrTag::Latest) => match latest {
            Latest::Preconfirmed => tip(snapshot),
            Latest::Canonical => Target::Canonical,
        },
        BlockId::Number(BlockNumberOrTag::Number(number)) => by_number(number, snapshot),
        BlockId::Number(
            BlockNumberOrTag::Safe | BlockNumberOrTag::Finalized | BlockNumberOrTag::Earliest,
        ) => Target::Elsewhere,
    }
}

/// The number that `latest` has.
pub(crate) fn latest_number(snapshot: &Snapshot, latest: Latest) -> u64 {
    match latest {
        Latest::Preconfirmed => snapshot.tip_number(),
        Latest::Canonical => snapshot.canonical.number,
    }
}

fn tip(snapshot: &Snapshot) -> Target {
    snapshot.blocks.len().checked_sub(1).map_or(Target::Canonical, Target::Pending)
}

fn by_number(number: u64, snapshot: &Snapshot) -> Target {
    match number.cmp(&snapshot.canonical.number) {
        Ordering::Less => return Target::Elsewhere,
        Ordering::Equal => return Target::Canonical,
        Ordering::Greater => {}
    }
    let at = snapshot.blocks.iter().position(|block| block.reference.number == number);
    at.map_or(Target::Above, Target::Pending)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn every_way_to_name_a_block_is_understood() {
        // Canonical block 100, pending 101 and 102.
        let snapshot = testing::two_blocks();
        let (hash_101, hash_102) =
            (snapshot.blocks[0].reference.hash, snapshot.blocks[1].reference.hash);
        for (parameter, expected) in [
            (json!("latest"), Target::Pending(1)),
            (json!("pending"), Target::Pending(1)),
            (json!("0x66"), Target::Pending(1)),
            (json!("0x65"), Target::Pending(0)),
            (json!("0x64"), Target::Canonical),
            (json!("0x63"), Target::Elsewhere),
            (json!("0x0"), Target::Elsewhere),
            (json!("0x67"), Target::Above),
            (json!("safe"), Target::Elsewhere),
            (json!("finalized"), Target::Elsewhere),
            (json!("earliest"), Target::Elsewhere),
            (json!({"blockNumber": "0x65"}), Target::Pending(0)),
            (json!({"blockNumber": "pending"}), Target::Pending(1)),
            (json!({"blockHash": hash_101}), Target::Pending(0)),
            (json!({"blockHash": hash_102, "requireCanonical": true}), Target::Pending(1)),
            (json!(hash_102), Target::Pending(1)),
            (json!({"blockHash": B256::repeat_byte(9)}), Target::Elsewhere),
        ] {
            let id: BlockId = serde_json::from_value(parameter.clone()).unwrap();
            assert_eq!(resolve(id, &snapshot, Latest::Preconfirmed), expected, "{parameter}");
        }
    }

    #[test]
    fn a_canonical_latest_leaves_pending_to_the_snapshot() {
        let snapshot = testing::two_blocks();

        assert_eq!(resolve(BlockId::latest(), &snapshot, Latest::Canonical), Target::Canonical);
        assert_eq!(resolve(BlockId::pending(), &snapshot, Latest::Canonical), Target::Pending(1));
        assert_eq!(latest_number(&snapshot, Latest::Canonical), 100);
        assert_eq!(latest_number(&snapshot, Latest::Preconfirmed), 102);
    }

    #[test]
    fn with_nothing_pending_both_tags_are_the_canonical_block() {
        let snapshot = testing::nothing_pending();

        for id in [BlockId::latest(), BlockId::pending()] {
            assert_eq!(resolve(id, &snapshot, Latest::Preconfirmed), Target::Canonical);
        }
        assert_eq!(latest_number(&snapshot, Latest::Preconfirmed), 100);
    }
}
