//! The fork of a payload, as the consensus client numbers them.

use std::{fmt, str::FromStr};

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::{FixedBytes, hex};
use preconf_chain::ChainSpec;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The version of a fork; a later fork has a greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForkVersion(pub [u8; 4]);

impl ForkVersion {
    /// Cancun, on chains other than Berachain's.
    pub const DENEB: Self = Self([4, 0, 0, 0]);
    /// Cancun on Berachain.
    pub const DENEB1: Self = Self([4, 1, 0, 0]);
    /// Prague.
    pub const ELECTRA: Self = Self([5, 0, 0, 0]);
    /// Berachain's Prague1.
    pub const ELECTRA1: Self = Self([5, 1, 0, 0]);
    /// Osaka.
    pub const FULU: Self = Self([6, 0, 0, 0]);

    /// The fork of a block of this time.
    #[must_use]
    pub fn at(spec: &ChainSpec, timestamp: u64) -> Self {
        if spec.is_osaka_active_at_timestamp(timestamp) {
            Self::FULU
        } else if spec.is_prague1_active_at_timestamp(timestamp) {
            Self::ELECTRA1
        } else if spec.is_prague_active_at_timestamp(timestamp) {
            Self::ELECTRA
        } else if spec.berachain().is_some() {
            Self::DENEB1
        } else {
            Self::DENEB
        }
    }

    /// Whether a payload of this fork has execution requests.
    #[must_use]
    pub fn has_requests(self) -> bool {
        self >= Self::ELECTRA
    }
}

impl fmt::Display for ForkVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_prefixed(self.0))
    }
}

impl fmt::Debug for ForkVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ForkVersion {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        text.parse::<FixedBytes<4>>().map(|bytes| Self(bytes.0))
    }
}

impl Serialize for ForkVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ForkVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
