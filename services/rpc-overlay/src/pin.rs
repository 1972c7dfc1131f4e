//! Asking the execution client without being answered from another state.
//!
//! What the overlay does not compute itself is asked of the execution client, whose newest block
//! may not be the one that the snapshot builds upon. So a tag, or the default that a missing
//! parameter stands for, becomes the hash of the snapshot's canonical block (EIP-1898), or its
//! number where a method or a client takes no hash. A block of the snapshot is nothing that the
//! client could answer for, so it is refused, as is a block above it. Other hashes, numbers and tags
//! mean the same everywhere and stay as they were written.

use alloy_primitives::U64;
use alloy_rpc_types_eth::{BlockId, BlockNumberOrTag};
use preconf_pending::snapshot::{Canonical, Snapshot};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    Latest,
    failure::Failure,
    params::Params,
    tags::{self, Target},
};

/// Where a method names its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A block parameter at this position; without one, the newest block is meant.
    Block(usize, Takes),
    /// An object with `blockNumber` at this position, beside other things; without one, the newest
    /// block is meant.
    Context(usize),
    /// An object with `fromBlock` and `toBlock` at this position; without the latter, the newest
    /// block is meant.
    Range(usize),
}

/// How a method lets itself be asked about one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// By a hash in place of the number (EIP-1898).
    Id,
    /// By number; the method of this name takes a hash.
    NumberOr(&'static str),
    /// By number only.
    Number,
}

/// What becomes of a question to the execution client.
#[derive(Debug)]
pub(crate) enum Pinned {
    /// It means the same everywhere.
    AsWritten,
    /// It is about the canonical block of the snapshot.
    Canonical(Question),
}

/// A question about the canonical block, in the words that the execution client may understand.
#[derive(Debug)]
pub(crate) struct Question {
    /// By hash, where the method has such a form: its name and its parameters.
    pub(crate) by_hash: Option<(String, Box<RawValue>)>,
    /// By number. The answer counts only if the block had that number before and after.
    pub(crate) by_number: (String, Box<RawValue>),
}

/// Decides what becomes of a question.
pub(crate) fn pin(
    pin: Pin,
    method: &str,
    params: &Params<'_>,
    snapshot: &Snapshot,
) -> Result<Pinned, Failure> {
    let canonical = &snapshot.canonical;
    match pin {
        Pin::Block(index, takes) => {
            let block: Option<BlockId> = params.optional(index, "block")?;
            if !is_canonical(block, method, snapshot)? {
                return Ok(Pinned::AsWritten);
            }
            Ok(Pinned::Canonical(question(method, params, index, takes, canonical)))
        }
        Pin::Context(index) => {
            let context: Option<Map<String, Value>> = params.optional(index, "block context")?;
            let mut context = context.unwrap_or_default();
            let block = context.get("blockNumber").cloned().unwrap_or_default();
            let block = serde_json::from_value(block).map_err(|error| {
                Failure::InvalidParams(format!("invalid argument {index} (block): {error}"))
            })?;
            if !is_canonical(block, method, snapshot)? {
                return Ok(Pinned::AsWritten);
            }
            let mut named = |name| {
                context.insert("blockNumber".to_owned(), name);
                (method.to_owned(), params.with(index, &written(&json!(context))))
            };
            let by_hash = Some(named(id(canonical)));
            Ok(Pinned::Canonical(Question { by_hash, by_number: named(number(canonical.number)) }))
        }
        Pin::Range(index) => {
            let range: Option<Map<String, Value>> = params.optional(index, "range")?;
            let Some(mut range) = range else { return Ok(Pinned::AsWritten) };
            let mut pinned = false;
            for bound in ["fromBlock", "toBlock"] {
                let named = range.get(bound).cloned().unwrap_or_default();
                // What a range without a beginning begins with is for the client to say.
                if named.is_null() && bound == "fromBlock" {
                    continue;
                }
                let block: Option<BlockNumberOrTag> = serde_json::from_value(named)
                    .map_err(|error| Failure::InvalidParams(format!("invalid {bound}: {error}")))?;
                if is_canonical(block.map(BlockId::from), method, snapshot)? {
                    range.insert(bound.to_owned(), number(canonical.number));
                    pinned = true;
                }
            }
            if !pinned {
                return Ok(Pinned::AsWritten);
            }
            let by_number = (method.to_owned(), params.with(index, &written(&json!(range))));
            Ok(Pinned::Canonical(Question { by_hash: None, by_number }))
        }
    }
}

/// The question with the canonical block in place of the parameter at `index`.
pub(crate) fn question(
    method: &str,
    params: &Params<'_>,
    index: usize,
    takes: Takes,
    canonical: &Canonical,
) -> Question {
    let named =
        |method: &str, name: Value| (method.to_owned(), params.with(index, &written(&name)));
    let by_hash = match takes {
        Takes::Id => Some(named(method, id(canonical))),
        Takes::NumberOr(sibling) => Some(named(sibling, json!(canonical.hash))),
        Takes::Number => None,
    };
    Question { by_hash, by_number: named(method, number(canonical.number)) }
}

/// Whether the canonical block is meant. The newest block is it, for a method that the snapshot
/// does not answer.
fn is_canonical(
    block: Option<BlockId>,
    method: &str,
    snapshot: &Snapshot,
) -> Result<bool, Failure> {
    let block = block.filter(|block| !block.is_pending()).unwrap_or_else(BlockId::latest);
    match tags::resolve(block, snapshot, Latest::Canonical) {
        Target::Canonical => Ok(true),
        Target::Elsewhere => Ok(false),
        Target::Above => Err(Failure::UnknownBlock),
        Target::Pending(at) => {
            let number = snapshot.blocks[at].reference.number;
            Err(Failure::Preconfirmed { method: method.to_owned(), number })
        }
    }
}

/// The canonical block by its hash, and only as long as it is canonical (EIP-1898).
fn id(canonical: &Canonical) -> Value {
    json!({ "blockHash": canonical.hash, "requireCanonical": true })
}

/// A number as a parameter.
pub(crate) fn number(number: u64) -> Value {
    json!(U64::from(number))
}

/// A parameter as JSON.
pub(crate) fn written(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("JSON that was read can be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, CANONICAL};

    const METHOD: &str = "m";

    fn pinned(how: Pin, params: &Value) -> Result<Pinned, Failure> {
        let raw = to_raw_value(params).unwrap();
        pin(how, METHOD, &Params::parse(Some(&raw)).unwrap(), &testing::two_blocks())
    }

    /// The two forms of a question about the canonical block.
    fn canonical(how: Pin, params: &Value) -> (Option<(String, Value)>, (String, Value)) {
        let Pinned::Canonical(question) = pinned(how, params).unwrap() else {
            panic!("{params} is about the canonical block");
        };
        let read = |(method, params): (String, Box<RawValue>)| {
            (method, serde_json::from_str(params.get()).unwrap())
        };
        (question.by_hash.map(read), read(question.by_number))
    }

    fn named(method: &str, params: Value) -> (String, Value) {
        (method.to_owned(), params)
    }

    #[test]
    fn a_tag_or_a_missing_block_becomes_the_canonical_hash_or_its_number() {
        let id = json!({ "blockHash": CANONICAL.hash, "requireCanonical": true });
        for given in [
            json!(["a", [], "latest"]),
            json!(["a", [], "pending"]),
            json!(["a", [], null]),
            json!(["a", []]),
            json!(["a", [], "0x64"]),
            json!(["a", [], { "blockNumber": "latest" }]),
        ] {
            let (by_hash, by_number) = canonical(Pin::Block(2, Takes::Id), &given);
            assert_eq!(by_hash, Some(named(METHOD, json!(["a", [], id]))));
            assert_eq!(by_number, named(METHOD, json!(["a", [], "0x64"])));
        }
        let (by_hash, _) = canonical(Pin::Block(0, Takes::NumberOr("h")), &json!(["latest", 1]));
        assert_eq!(by_hash, Some(named("h", json!([CANONICAL.hash, 1]))));
        let (by_hash, by_number) = canonical(Pin::Block(0, Takes::Number), &json!(["latest"]));
        assert_eq!((by_hash, by_number), (None, named(METHOD, json!(["0x64"]))));
    }

    #[test]
    fn a_context_keeps_what_else_it_says() {
        let id = json!({ "blockHash": CANONICAL.hash, "requireCanonical": true });
        for (given, rest) in [
            (json!([[], { "blockNumber": "latest", "transactionIndex": 1 }]), Some(1)),
            (json!([[], { "transactionIndex": 1 }]), Some(1)),
            (json!([[], { "blockNumber": "pending" }]), None),
            (json!([[]]), None),
        ] {
            let mut expected = json!({ "blockNumber": id });
            if let Some(index) = rest {
                expected["transactionIndex"] = json!(index);
            }
            let (by_hash, _) = canonical(Pin::Context(1), &given);
            assert_eq!(by_hash, Some(named(METHOD, json!([[], expected]))));
        }
    }

    #[test]
    fn what_means_the_same_everywhere_stays_as_it_was_written() {
        let hash = format!("0x{}", "11".repeat(32));
        for block in [
            json!("0x5"),
            json!("safe"),
            json!("earliest"),
            json!(hash),
            json!({ "blockHash": hash }),
        ] {
            for (how, params) in [
                (Pin::Block(0, Takes::Id), json!([block])),
                (Pin::Context(0), json!([{ "blockNumber": block }])),
            ] {
                assert!(matches!(pinned(how, &params), Ok(Pinned::AsWritten)), "{params}");
            }
        }
    }

    #[test]
    fn a_pending_block_is_refused_however_it_is_named() {
        // Pending are 101 and 102.
        let hash = testing::two_blocks().blocks[1].reference.hash;
        for block in [json!("0x66"), json!(hash), json!({ "blockHash": hash })] {
            for (how, params) in [
                (Pin::Block(0, Takes::Id), json!([block])),
                (Pin::Block(0, Takes::Number), json!([block])),
                (Pin::Context(0), json!([{ "blockNumber": block }])),
            ] {
                let failure = pinned(how, &params).unwrap_err();
                assert!(matches!(failure, Failure::Preconfirmed { number: 102, .. }), "{failure}");
            }
        }
        let range = pinned(Pin::Range(0), &json!([{ "toBlock": "0x65" }])).unwrap_err();
        assert!(matches!(range, Failure::Preconfirmed { number: 101, .. }), "{range}");
        let above = pinned(Pin::Block(0, Takes::Id), &json!(["0x67"])).unwrap_err();
        assert!(matches!(above, Failure::UnknownBlock), "{above}");
    }

    #[test]
    fn a_range_ends_with_the_canonical_block_and_begins_as_the_client_says() {
        for (given, expected) in [
            (json!({}), json!({ "toBlock": "0x64" })),
            (json!({ "toBlock": "latest" }), json!({ "toBlock": "0x64" })),
            (
                json!({ "fromBlock": "pending", "after": 3 }),
                json!({ "fromBlock": "0x64", "toBlock": "0x64", "after": 3 }),
            ),
        ] {
            let (by_hash, by_number) = canonical(Pin::Range(0), &json!([given]));
            assert_eq!((by_hash, by_number), (None, named(METHOD, json!([expected]))));
        }
        let old = json!([{ "fromBlock": "0x1", "toBlock": "0x5" }]);
        assert!(matches!(pinned(Pin::Range(0), &old), Ok(Pinned::AsWritten)));
    }
}
