//! Logs of pending blocks, and which part of a range of blocks is pending.

use std::ops::Range;

use alloy_rpc_types_eth::{BlockNumberOrTag, Filter, FilterBlockOption};
use preconf_chain::{ChainSpec, rpc::RpcLog};
use preconf_pending::snapshot::{PendingBlock, Snapshot};

use crate::{
    Latest,
    answers::receipts,
    failure::Failure,
    tags::{self, Target},
};

/// Where the logs of a filter are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// What the execution client is asked for, if anything.
    pub(crate) client: Option<Until>,
    /// The places of pending blocks in the snapshot.
    pub(crate) pending: Range<usize>,
}

/// What the execution client is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// What the filter says.
    AsWritten,
    /// The blocks from `from`, or from where the filter says, through `to`, which is canonical.
    Block { from: Option<u64>, to: u64 },
}

/// Finds out where the logs of a filter are.
pub(crate) fn sources(
    filter: &Filter,
    snapshot: &Snapshot,
    latest: Latest,
) -> Result<Sources, Failure> {
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            return Ok(match tags::resolve(hash.into(), snapshot, latest) {
                Target::Pending(at) => Sources { client: None, pending: at..at + 1 },
                Target::Canonical | Target::Above | Target::Elsewhere => {
                    Sources { client: Some(Until::AsWritten), pending: 0..0 }
                }
            });
        }
        FilterBlockOption::Range { from_block, to_block } => (from_block, to_block),
    };
    let (first, last) = (number(from, snapshot, latest), number(to, snapshot, latest));
    let canonical = snapshot.canonical.number;
    let invalid = |reason: &str| Err(Failure::InvalidParams(reason.to_owned()));
    let Some(last) = last else {
        // `safe`, `finalized` and `earliest` are no higher than the canonical block.
        return match (first, from) {
            (Some(first), _) if first > canonical => invalid("invalid block range params"),
            (None, _) | (Some(_), Some(BlockNumberOrTag::Number(_))) => {
                Ok(Sources { client: Some(Until::AsWritten), pending: 0..0 })
            }
            // From the newest block to an older one.
            (Some(_), _) => invalid("invalid block range params"),
        };
    };
    if last > snapshot.tip_number() {
        return invalid("block range extends beyond current head block");
    }
    if first.is_some_and(|first| first > last) {
        // Who asks for what comes next, up to whatever is the newest, asks for nothing yet.
        return match to {
            Some(BlockNumberOrTag::Number(_)) => invalid("invalid block range params"),
            _ => Ok(Sources { client: None, pending: 0..0 }),
        };
    }
    let is_client = first.is_none_or(|first| first <= canonical);
    let client = is_client.then(|| Until::Block { from: first, to: last.min(canonical) });
    let place =
        |number: u64| usize::try_from(number.saturating_sub(canonical)).unwrap_or(usize::MAX);
    // Pending blocks follow the canonical one without a gap.
    let begin = first.map_or(0, |first| place(first).saturating_sub(1));
    Ok(Sources { client, pending: begin..place(last) })
}

/// The logs of blocks that a filter lets through, whatever it says of blocks.
pub(crate) fn of_blocks(spec: &ChainSpec, blocks: &[PendingBlock], filter: &Filter) -> Vec<RpcLog> {
    let receipts = blocks.iter().flat_map(|block| receipts::of_block(spec, block));
    let logs = receipts.flat_map(|receipt| receipt.logs);
    logs.filter(|log| filter.matches_address(log.address) && filter.matches_topics(&log.topics))
        .collect()
}

/// The number of a block, unless only the execution client knows it.
fn number(block: Option<BlockNumberOrTag>, snapshot: &Snapshot, latest: Latest) -> Option<u64> {
    match block.unwrap_or_default() {
        BlockNumberOrTag::Latest => Some(tags::latest_number(snapshot, latest)),
        BlockNumberOrTag::Pending => Some(snapshot.tip_number()),
        BlockNumberOrTag::Number(number) => Some(number),
        BlockNumberOrTag::Safe | BlockNumberOrTag::Finalized | BlockNumberOrTag::Earliest => None,
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    fn filter(json: Value) -> Filter {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_range_is_divided_at_the_canonical_block() {
        // Canonical block 100, pending 101 and 102.
        let snapshot = testing::two_blocks();
        let block = |from, to| Some(Until::Block { from, to });
        let pending_hash = snapshot.blocks[1].reference.hash;
        for (range, client, pending) in [
            (json!({}), None, 1..2),
            (json!({ "fromBlock": null, "toBlock": null, "blockHash": null }), None, 1..2),
            (json!({ "fromBlock": "latest" }), None, 1..2),
            (json!({ "fromBlock": "0x65" }), None, 0..2),
            (json!({ "fromBlock": "0x65", "toBlock": "0x65" }), None, 0..1),
            (json!({ "fromBlock": "0x64", "toBlock": "0x65" }), block(Some(100), 100), 0..1),
            (json!({ "fromBlock": "0x1", "toBlock": "pending" }), block(Some(1), 100), 0..2),
            (json!({ "fromBlock": "safe", "toBlock": "latest" }), block(None, 100), 0..2),
            (json!({ "fromBlock": "0x1", "toBlock": "0x64" }), block(Some(1), 100), 0..0),
            (json!({ "fromBlock": "0x1", "toBlock": "0x5" }), block(Some(1), 5), 0..0),
            (json!({ "fromBlock": "0x1", "toBlock": "safe" }), Some(Until::AsWritten), 0..0),
            (json!({ "blockHash": pending_hash }), None, 1..2),
            (json!({ "blockHash": B256::ZERO }), Some(Until::AsWritten), 0..0),
        ] {
            let found = sources(&filter(range.clone()), &snapshot, Latest::Preconfirmed).unwrap();
            assert_eq!((found.client, found.pending.len()), (client, pending.len()), "{range}");
            assert!(pending.is_empty() || found.pending == pending, "{range}");
        }
        let canonical = sources(&filter(json!({})), &snapshot, Latest::Canonical).unwrap();
        assert_eq!((canonical.client, canonical.pending.len()), (block(Some(100), 100), 0));
    }

    #[test]
    fn a_range_that_cannot_be_answered_whole_is_refused() {
        let snapshot = testing::two_blocks();
        let ask = |range| sources(&filter(range), &snapshot, Latest::Preconfirmed);
        for range in [
            json!({ "fromBlock": "0x1", "toBlock": "0x67" }),
            json!({ "fromBlock": "0x66", "toBlock": "0x65" }),
            json!({ "fromBlock": "0x65", "toBlock": "safe" }),
            json!({ "fromBlock": "latest", "toBlock": "finalized" }),
        ] {
            assert!(matches!(ask(range.clone()), Err(Failure::InvalidParams(_))), "{range}");
        }
        let next = ask(json!({ "fromBlock": "0x67", "toBlock": "latest" })).unwrap();
        assert_eq!((next.client, next.pending.len()), (None, 0), "what comes next is empty yet");
    }

    #[test]
    fn pending_logs_are_filtered_by_address_and_topics() {
        let (spec, snapshot) = (testing::spec(), testing::two_blocks());
        let found = |json| of_blocks(&spec, &snapshot.blocks, &filter(json)).len();

        assert_eq!(found(json!({})), 4);
        assert_eq!(found(json!({ "address": testing::COUNTER })), 4);
        assert_eq!(found(json!({ "address": testing::RICH })), 0);
        assert_eq!(found(json!({ "topics": [B256::with_last_byte(1)] })), 1);
        assert_eq!(found(json!({ "topics": [null, B256::ZERO] })), 0);
    }
}
