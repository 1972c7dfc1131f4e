//! Which slot a block is for.
//!
//! A request names the slot, the execution client does not. On Berachain every slot has a block, so
//! the slot is the block's number; elsewhere the time tells.

use std::{fmt, num::NonZeroU64, str::FromStr};

use preconf_chain::ChainSpec;

/// How the slot of a block is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRule {
    /// It is the block's number.
    Number,
    /// It is counted from a time.
    Time {
        /// When slot 0 began, in seconds since 1970.
        genesis: u64,
        /// How long a slot is.
        seconds: NonZeroU64,
    },
}

/// A text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `number`, or `time:GENESIS:SECONDS` as in time:1606824023:12")]
pub struct SlotRuleError;

impl SlotRule {
    /// The rule that a chain has by itself: of others than Berachain, the genesis of the execution
    /// chain does not tell.
    #[must_use]
    pub fn of(spec: &ChainSpec) -> Option<Self> {
        spec.berachain().map(|_| Self::Number)
    }

    /// The slot of a block; none if it is from before the first one.
    #[must_use]
    pub fn slot(self, block_number: u64, timestamp: u64) -> Option<u64> {
        match self {
            Self::Number => Some(block_number),
            Self::Time { genesis, seconds } => {
                timestamp.checked_sub(genesis).map(|since| since / seconds)
            }
        }
    }
}

impl FromStr for SlotRule {
    type Err = SlotRuleError;

    fn from_str(text: &str) -> Result<Self, SlotRuleError> {
        if text == "number" {
            return Ok(Self::Number);
        }
        let time = text.strip_prefix("time:").and_then(|time| time.split_once(':'));
        let (genesis, seconds) = time.ok_or(SlotRuleError)?;
        Ok(Self::Time {
            genesis: genesis.parse().map_err(|_| SlotRuleError)?,
            seconds: seconds.parse().map_err(|_| SlotRuleError)?,
        })
    }
}

impl fmt::Display for SlotRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("number"),
            Self::Time { genesis, seconds } => write!(f, "time:{genesis}:{seconds}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_number_of_the_block_or_counted_from_a_time() {
        assert_eq!("number".parse(), Ok(SlotRule::Number));
        assert_eq!(SlotRule::Number.slot(7, 1_000), Some(7));

        let rule: SlotRule = "time:1000:12".parse().unwrap();
        assert_eq!(rule.to_string(), "time:1000:12");
        for (timestamp, slot) in
            [(999, None), (1_000, Some(0)), (1_011, Some(0)), (1_012, Some(1)), (1_120, Some(10))]
        {
            assert_eq!(rule.slot(7, timestamp), slot, "{timestamp}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", "block", "time", "time:1", "time:1:0", "time:-1:2", "time:1:2:3"] {
            assert_eq!(text.parse::<SlotRule>(), Err(SlotRuleError), "{text}");
        }
    }
}
