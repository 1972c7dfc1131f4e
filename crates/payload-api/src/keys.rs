//! Who a validator is: its public key, and the address that CometBFT makes of it.
//!
//! A public key is 48 bytes here, not a point: beacon-kit's files are checked for their form only,
//! and a key that is no point simply never has an address, so it is never the proposer.

use std::{fmt, str::FromStr};

use alloy_primitives::{FixedBytes, hex};
use preconf_signing::PublicKey;
use sha2::{Digest, Sha256};

/// The compressed BLS12-381 public key of a validator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValidatorPubkey(pub [u8; 48]);

/// The address that CometBFT knows a validator by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValidatorAddress(pub [u8; 20]);

/// A text that is no public key or no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The prefix is mandatory.
    #[error("a public key begins with 0x")]
    Prefix,
    /// The rest is not what it should be.
    #[error("a public key is 0x and 96 hex digits")]
    Pubkey,
    /// The text is no address.
    #[error("a validator's address is 40 hex digits")]
    Address,
    /// The bytes of the key are no point, so it has no address.
    #[error("the public key is not a point of BLS12-381's G1")]
    NotAPoint,
}

impl ValidatorPubkey {
    /// The address: the first 20 bytes of SHA-256 over the uncompressed key.
    ///
    /// # Errors
    /// If the key is no point of the curve's subgroup.
    pub fn address(&self) -> Result<ValidatorAddress, KeyError> {
        let point = PublicKey::from_bytes(FixedBytes(self.0)).map_err(|_| KeyError::NotAPoint)?;
        let digest = Sha256::digest(point.to_uncompressed());
        let mut address = [0; 20];
        address.copy_from_slice(&digest[..20]);
        Ok(ValidatorAddress(address))
    }
}

impl FromStr for ValidatorPubkey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let mut bytes = [0; 48];
        let digits = digits.ok_or(KeyError::Prefix)?;
        decode(digits, &mut bytes).ok_or(KeyError::Pubkey)?;
        Ok(Self(bytes))
    }
}

impl FromStr for ValidatorAddress {
    type Err = KeyError;

    /// As CometBFT writes it: hex digits of either case, without a prefix; with one, too.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 20];
        decode(text.strip_prefix("0x").unwrap_or(text), &mut bytes).ok_or(KeyError::Address)?;
        Ok(Self(bytes))
    }
}

/// Digits only: the library would accept a second prefix.
fn decode(digits: &str, bytes: &mut [u8]) -> Option<()> {
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (plain && digits.len() == 2 * bytes.len()).then_some(())?;
    hex::decode_to_slice(digits, bytes).ok()
}

impl fmt::Display for ValidatorPubkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_prefixed(self.0))
    }
}

impl fmt::Debug for ValidatorPubkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ValidatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ValidatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
