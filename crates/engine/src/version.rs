//! The versions of the Engine API's methods, and which of them is for a block of which time.
//!
//! On Berachain from Prague1 on there are the methods that end in `P11` and no others, through
//! Osaka too.

use alloy_hardforks::EthereumHardforks;
use preconf_chain::ChainSpec;

use crate::rpc::{RpcError, code};

/// The version of a getPayload or newPayload call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadVersion {
    /// Cancun.
    V3,
    /// Prague: with execution requests. As newPayload, Osaka's too.
    V4,
    /// Osaka, getPayload only: with cell proofs.
    V5,
    /// Berachain since Prague1: with the key of the previous block's proposer.
    V4P11,
}

/// The version of a forkchoiceUpdated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkchoiceVersion {
    /// Cancun and later.
    V3,
    /// Berachain since Prague1: attributes have the key of the previous block's proposer.
    V3P11,
}

impl PayloadVersion {
    /// The method that returns a payload of this version.
    pub const fn get_payload(self) -> &'static str {
        match self {
            Self::V3 => "engine_getPayloadV3",
            Self::V4 => "engine_getPayloadV4",
            Self::V5 => "engine_getPayloadV5",
            Self::V4P11 => "engine_getPayloadV4P11",
        }
    }

    /// The version of the method that returns the payload of a block of this time.
    pub fn of_get_payload(spec: &ChainSpec, timestamp: u64) -> Self {
        if spec.has_cell_proofs_at(timestamp) {
            return Self::V5;
        }
        Self::of_new_payload(spec, timestamp)
    }

    /// The version of the method that takes a new payload of this time.
    pub fn of_new_payload(spec: &ChainSpec, timestamp: u64) -> Self {
        if spec.is_prague1_active_at_timestamp(timestamp) {
            Self::V4P11
        } else if spec.is_prague_active_at_timestamp(timestamp) {
            Self::V4
        } else {
            Self::V3
        }
    }

    /// Whether getPayload of this version is for a block of this time.
    ///
    /// # Errors
    ///
    /// `Unsupported fork`, naming the method that is.
    pub fn check_get_payload(self, spec: &ChainSpec, timestamp: u64) -> Result<(), RpcError> {
        let right = Self::of_get_payload(spec, timestamp);
        check(spec, timestamp, self == right, right.get_payload())
    }

    /// Whether newPayload of this version is for a block of this time.
    ///
    /// # Errors
    ///
    /// `Unsupported fork`, naming the method that is.
    pub fn check_new_payload(self, spec: &ChainSpec, timestamp: u64) -> Result<(), RpcError> {
        let right = Self::of_new_payload(spec, timestamp);
        let method = match right {
            Self::V3 => "engine_newPayloadV3",
            Self::V4 | Self::V5 => "engine_newPayloadV4",
            Self::V4P11 => "engine_newPayloadV4P11",
        };
        check(spec, timestamp, self == right, method)
    }
}

impl ForkchoiceVersion {
    /// The method of this version.
    pub const fn forkchoice_updated(self) -> &'static str {
        match self {
            Self::V3 => "engine_forkchoiceUpdatedV3",
            Self::V3P11 => "engine_forkchoiceUpdatedV3P11",
        }
    }

    /// The version that asks for a block of this time.
    pub fn of_attributes(spec: &ChainSpec, timestamp: u64) -> Self {
        if spec.is_prague1_active_at_timestamp(timestamp) { Self::V3P11 } else { Self::V3 }
    }

    /// Whether attributes of this version are for a block of this time.
    ///
    /// # Errors
    ///
    /// `Unsupported fork`, naming the method that is.
    pub fn check_attributes(self, spec: &ChainSpec, timestamp: u64) -> Result<(), RpcError> {
        let right = Self::of_attributes(spec, timestamp);
        check(spec, timestamp, self == right, right.forkchoice_updated())
    }
}

fn check(spec: &ChainSpec, timestamp: u64, fits: bool, right: &str) -> Result<(), RpcError> {
    let reason = if !spec.is_cancun_active_at_timestamp(timestamp) {
        format!("Unsupported fork: time {timestamp} is before Cancun")
    } else if fits {
        return Ok(());
    } else {
        format!("Unsupported fork: for time {timestamp} it is {right}")
    };
    Err(RpcError::new(code::UNSUPPORTED_FORK, reason))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use PayloadVersion::{V3, V4, V4P11, V5};

    /// Cancun at 10, Prague at 20, Berachain's Prague1 at 30, Osaka at 40. Berachain has no time
    /// before Cancun.
    fn spec(berachain: bool) -> ChainSpec {
        let mut genesis = json!({
            "config": {
                "chainId": 80_087, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0,
                "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0,
                "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
                "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 10,
                "pragueTime": 20, "osakaTime": 40,
            },
            "gasLimit": "0x1c9c380", "difficulty": "0x0", "alloc": {},
        });
        if berachain {
            genesis["config"]["cancunTime"] = json!(0);
            genesis["config"]["berachain"] = json!({
                "prague1": {
                    "time": 30, "baseFeeChangeDenominator": 48, "minimumBaseFeeWei": 0,
                    "polDistributorAddress": "0x4200000000000000000000000000000000000042",
                },
                "prague2": { "time": 30, "minimumBaseFeeWei": 0 },
            });
        }
        ChainSpec::from_genesis_json(&genesis.to_string()).unwrap()
    }

    const TIMES: [u64; 5] = [9, 10, 20, 30, 40];

    #[test]
    fn each_time_has_one_version_of_each_method() {
        let (ethereum, berachain) = (spec(false), spec(true));
        for (check, right) in [
            (
                PayloadVersion::check_new_payload as fn(_, &_, _) -> _,
                [[None, Some(V3), Some(V4), Some(V4), Some(V4)], {
                    [Some(V3), Some(V3), Some(V4), Some(V4P11), Some(V4P11)]
                }],
            ),
            (
                PayloadVersion::check_get_payload,
                [[None, Some(V3), Some(V4), Some(V4), Some(V5)], {
                    [Some(V3), Some(V3), Some(V4), Some(V4P11), Some(V4P11)]
                }],
            ),
        ] {
            for (spec, right) in [&ethereum, &berachain].into_iter().zip(right) {
                for (time, right) in TIMES.into_iter().zip(right) {
                    for version in [V3, V4, V5, V4P11] {
                        let checked: Result<(), RpcError> = check(version, spec, time);
                        let fits = Some(version) == right;
                        assert_eq!(checked.is_ok(), fits, "{version:?} at {time}");
                    }
                }
            }
        }
    }

    #[test]
    fn attributes_after_prague1_need_its_method_and_those_before_may_not_have_it() {
        use ForkchoiceVersion as F;
        let (ethereum, berachain) = (spec(false), spec(true));
        assert!(F::V3.check_attributes(&ethereum, 40).is_ok());
        assert!(F::V3P11.check_attributes(&ethereum, 40).is_err());
        assert!(F::V3.check_attributes(&berachain, 29).is_ok());
        assert!(F::V3P11.check_attributes(&berachain, 30).is_ok());
        for error in [
            F::V3P11.check_attributes(&berachain, 29).unwrap_err(),
            F::V3.check_attributes(&berachain, 30).unwrap_err(),
            F::V3.check_attributes(&ethereum, 9).unwrap_err(),
        ] {
            assert_eq!(error.code, code::UNSUPPORTED_FORK);
            assert!(error.message.starts_with("Unsupported fork"));
        }
    }
}
