//! Forwarding a request about "latest" without answering from another state.
//!
//! What the overlay does not compute itself is asked of the execution client, whose newest block
//! may not be the one that the snapshot builds upon. So a tag, or the default that a missing
//! parameter stands for, becomes the number of the snapshot's canonical block. Numbers, hashes and
//! the other tags mean the same everywhere and stay as they were written.

use alloy_primitives::U64;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{failure::Failure, params::Params};

/// Where a method names its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A block parameter at this position; without one, the newest block is meant.
    Block(usize),
    /// A log filter at this position; without bounds, the newest block is meant.
    Filter(usize),
    /// An object with `fromBlock` and `toBlock` at this position, whose defaults are the client's.
    Range(usize),
}

/// The parameters with the canonical block's number instead of a tag.
pub(crate) fn pin(
    pin: Pin,
    raw: Option<&RawValue>,
    canonical: u64,
) -> Result<Option<Box<RawValue>>, Failure> {
    let params = Params::parse(raw)?;
    let (Pin::Block(index) | Pin::Filter(index) | Pin::Range(index)) = pin;
    let value: Value = params.optional(index, "block")?.unwrap_or_default();
    let pinned = match pin {
        Pin::Block(_) => pinned_block(value, canonical),
        Pin::Filter(_) => pinned_range(value, canonical, true),
        Pin::Range(_) => pinned_range(value, canonical, false),
    };
    Ok(match pinned {
        Some(value) => {
            let value = to_raw_value(&value).expect("JSON that was read can be written");
            Some(params.with(index, &value))
        }
        None => raw.map(ToOwned::to_owned),
    })
}

/// The canonical block's number as a parameter.
pub(crate) fn number(canonical: u64) -> Value {
    json!(U64::from(canonical))
}

/// What takes the place of `value`, if anything does.
fn pinned_block(value: Value, canonical: u64) -> Option<Value> {
    if is_newest(&value) {
        return Some(number(canonical));
    }
    let Value::Object(mut object) = value else { return None };
    let tag = object.get_mut("blockNumber")?;
    if !is_newest(tag) {
        return None;
    }
    *tag = number(canonical);
    Some(Value::Object(object))
}

fn pinned_range(value: Value, canonical: u64, fill: bool) -> Option<Value> {
    let mut range = match value {
        Value::Object(range) => range,
        Value::Null if fill => Map::new(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return None;
        }
    };
    if range.get("blockHash").is_some_and(|hash| !hash.is_null()) {
        return None;
    }
    for bound in ["fromBlock", "toBlock"] {
        let newest = range
            .get(bound)
            .map_or(fill, |value| if value.is_null() { fill } else { is_newest(value) });
        if newest {
            range.insert(bound.to_owned(), number(canonical));
        }
    }
    Some(Value::Object(range))
}

fn is_newest(value: &Value) -> bool {
    value.is_null() || matches!(value.as_str(), Some("latest" | "pending"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(how: Pin, params: &Value) -> Value {
        let raw = to_raw_value(params).unwrap();
        let pinned = pin(how, Some(&raw), 100).unwrap().unwrap();
        serde_json::from_str(pinned.get()).unwrap()
    }

    #[test]
    fn a_tag_or_a_missing_block_becomes_the_canonical_number() {
        let address = "0x0000000000000000000000000000000000000001";
        for (given, expected) in [
            (json!([address, [], "latest"]), json!([address, [], "0x64"])),
            (json!([address, [], "pending"]), json!([address, [], "0x64"])),
            (json!([address, [], null]), json!([address, [], "0x64"])),
            (json!([address, []]), json!([address, [], "0x64"])),
            (
                json!([address, [], {"blockNumber": "latest", "transactionIndex": 1}]),
                json!([address, [], {"blockNumber": "0x64", "transactionIndex": 1}]),
            ),
        ] {
            assert_eq!(pinned(Pin::Block(2), &given), expected);
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
            json!({"blockHash": hash}),
        ] {
            assert_eq!(pinned(Pin::Block(0), &json!([block])), json!([block]));
        }
        let raw = RawValue::from_string("[ 1e2, \"0x5\" ]".to_owned()).unwrap();
        let same = pin(Pin::Block(1), Some(&raw), 100).unwrap().unwrap();
        assert_eq!(same.get(), raw.get());
    }

    #[test]
    fn a_log_filter_gets_both_bounds_unless_it_names_a_hash() {
        for (given, expected) in [
            (json!([{}]), json!([{"fromBlock": "0x64", "toBlock": "0x64"}])),
            (
                json!([{"fromBlock": "0x1", "toBlock": "latest", "address": []}]),
                json!([{"fromBlock": "0x1", "toBlock": "0x64", "address": []}]),
            ),
            (json!([{"fromBlock": "pending"}]), json!([{"fromBlock": "0x64", "toBlock": "0x64"}])),
            (json!([{"blockHash": "0x01"}]), json!([{"blockHash": "0x01"}])),
        ] {
            assert_eq!(pinned(Pin::Filter(0), &given), expected);
        }
    }

    #[test]
    fn a_range_keeps_the_defaults_of_the_client() {
        assert_eq!(pinned(Pin::Range(0), &json!([{}])), json!([{}]));
        assert_eq!(
            pinned(Pin::Range(0), &json!([{"toBlock": "latest"}])),
            json!([{"toBlock": "0x64"}])
        );
    }
}
