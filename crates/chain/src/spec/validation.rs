//! Whether a header may follow its parent.
//!
//! Checks everything that the two headers alone can show. What needs the body or the state (the
//! roots, the bloom, the gas used and the requests) is checked by executing the block.

use std::fmt;

use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, MAXIMUM_EXTRA_DATA_SIZE};
use alloy_eips::{eip1559::GAS_LIMIT_BOUND_DIVISOR, eip4844::DATA_GAS_PER_BLOB};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use thiserror::Error;

use super::{ChainSpec, fees::MIN_GAS_LIMIT};
use crate::Header;

/// No client takes a higher gas limit.
const MAX_GAS_LIMIT: u64 = i64::MAX as u64;

/// A field that only some forks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderField {
    /// Since London.
    BaseFeePerGas,
    /// Since Shanghai.
    WithdrawalsRoot,
    /// Since Cancun.
    BlobGasUsed,
    /// Since Cancun.
    ExcessBlobGas,
    /// Since Cancun.
    ParentBeaconBlockRoot,
    /// Since Prague.
    RequestsHash,
    /// On Berachain, since Prague1.
    ParentProposerPubkey,
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BaseFeePerGas => "baseFeePerGas",
            Self::WithdrawalsRoot => "withdrawalsRoot",
            Self::BlobGasUsed => "blobGasUsed",
            Self::ExcessBlobGas => "excessBlobGas",
            Self::ParentBeaconBlockRoot => "parentBeaconBlockRoot",
            Self::RequestsHash => "requestsHash",
            Self::ParentProposerPubkey => "parentProposerPubkey",
        })
    }
}

/// Why a header cannot follow its parent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// It follows another block.
    #[error("parentHash is {got}, but the parent is {expected}")]
    ParentHash {
        /// The parent's hash.
        expected: B256,
        /// What the header says.
        got: B256,
    },
    /// Its number is not the next.
    #[error("number is {got}, after {parent}")]
    Number {
        /// The parent's.
        parent: u64,
        /// The header's.
        got: u64,
    },
    /// It is not later than its parent.
    #[error("timestamp is {got}, not after the parent's {parent}")]
    Timestamp {
        /// The parent's.
        parent: u64,
        /// The header's.
        got: u64,
    },
    /// Its gas limit moved too far, or is outside what any block may have.
    #[error("gasLimit is {got}, too far from the parent's {parent} or out of range")]
    GasLimit {
        /// What it may move from.
        parent: u64,
        /// The header's.
        got: u64,
    },
    /// It used more gas than it may.
    #[error("gasUsed is {used}, above the limit {limit}")]
    GasUsed {
        /// Its limit.
        limit: u64,
        /// What it used.
        used: u64,
    },
    /// Its extra data is too long.
    #[error("extraData has {bytes} bytes, more than {MAXIMUM_EXTRA_DATA_SIZE}")]
    ExtraData {
        /// Its length.
        bytes: usize,
    },
    /// Something that only miners set is set.
    #[error("{field} is that of a mined block")]
    Mined {
        /// `difficulty`, `nonce` or `sha3Uncles`.
        field: &'static str,
    },
    /// Its forks require a field.
    #[error("{0} is missing")]
    Missing(HeaderField),
    /// Its forks do not have a field.
    #[error("{0} is not a field of this fork")]
    Unexpected(HeaderField),
    /// Its base fee does not follow.
    #[error("baseFeePerGas is {got}, not {expected}")]
    BaseFee {
        /// What follows from the parent.
        expected: u64,
        /// The header's.
        got: u64,
    },
    /// Its blob gas is not that of whole blobs, or of too many.
    #[error("blobGasUsed is {got}, not whole blobs of at most {max}")]
    BlobGasUsed {
        /// What all blobs together may use.
        max: u64,
        /// The header's.
        got: u64,
    },
    /// Its excess blob gas does not follow.
    #[error("excessBlobGas is {got}, not {expected}")]
    ExcessBlobGas {
        /// What follows from the parent.
        expected: u64,
        /// The header's.
        got: u64,
    },
}

impl ChainSpec {
    /// Checks that a header may follow its parent, as far as the two can show.
    ///
    /// The parent is trusted. Proof of work is not checked.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn validate_header(&self, header: &Header, parent: &Header) -> Result<(), HeaderError> {
        check_link(header, parent)?;
        self.check_gas(header, parent)?;
        self.check_stake(header)?;
        self.check_fields(header)?;
        self.check_base_fee(header, parent)?;
        self.check_blobs(header, parent)
    }

    fn check_gas(&self, header: &Header, parent: &Header) -> Result<(), HeaderError> {
        let from = self.effective_parent_gas_limit(parent);
        let got = header.gas_limit;
        let moved = got.abs_diff(from);
        let allowed = (MIN_GAS_LIMIT..=MAX_GAS_LIMIT).contains(&got);
        if !allowed || (moved > 0 && moved >= from / GAS_LIMIT_BOUND_DIVISOR) {
            return Err(HeaderError::GasLimit { parent: from, got });
        }
        if header.gas_used > got {
            return Err(HeaderError::GasUsed { limit: got, used: header.gas_used });
        }
        Ok(())
    }

    /// Since the merge nothing is mined (EIP-3675).
    fn check_stake(&self, header: &Header) -> Result<(), HeaderError> {
        if !self.is_paris_active_at_block(header.number) {
            return Ok(());
        }
        for (field, mined) in [
            ("difficulty", !header.difficulty.is_zero()),
            ("nonce", !header.nonce.is_zero()),
            ("sha3Uncles", header.ommers_hash != EMPTY_OMMER_ROOT_HASH),
        ] {
            if mined {
                return Err(HeaderError::Mined { field });
            }
        }
        Ok(())
    }

    fn check_fields(&self, header: &Header) -> Result<(), HeaderError> {
        use HeaderField as F;
        let london = self.is_london_active_at_block(header.number);
        let shanghai = self.is_shanghai_active_at_timestamp(header.timestamp);
        let cancun = self.is_cancun_active_at_timestamp(header.timestamp);
        let prague = self.is_prague_active_at_timestamp(header.timestamp);
        let prague1 = self.is_prague1_active_at_timestamp(header.timestamp);
        for (field, required, present) in [
            (F::BaseFeePerGas, london, header.base_fee_per_gas.is_some()),
            (F::WithdrawalsRoot, shanghai, header.withdrawals_root.is_some()),
            (F::BlobGasUsed, cancun, header.blob_gas_used.is_some()),
            (F::ExcessBlobGas, cancun, header.excess_blob_gas.is_some()),
            (F::ParentBeaconBlockRoot, cancun, header.parent_beacon_block_root.is_some()),
            (F::RequestsHash, prague, header.requests_hash.is_some()),
            (F::ParentProposerPubkey, prague1, header.prev_proposer_pubkey.is_some()),
        ] {
            match (required, present) {
                (true, false) => return Err(HeaderError::Missing(field)),
                (false, true) => return Err(HeaderError::Unexpected(field)),
                (true, true) | (false, false) => (),
            }
        }
        Ok(())
    }

    fn check_base_fee(&self, header: &Header, parent: &Header) -> Result<(), HeaderError> {
        let Some(got) = header.base_fee_per_gas else { return Ok(()) };
        let expected = self.next_base_fee(parent);
        if got == expected { Ok(()) } else { Err(HeaderError::BaseFee { expected, got }) }
    }

    fn check_blobs(&self, header: &Header, parent: &Header) -> Result<(), HeaderError> {
        let Some(params) = self.blob_params_at(header.timestamp) else { return Ok(()) };
        let max = params.max_blob_gas_per_block();
        let used = header.blob_gas_used.unwrap_or_default();
        if used > max || !used.is_multiple_of(DATA_GAS_PER_BLOB) {
            return Err(HeaderError::BlobGasUsed { max, got: used });
        }
        let expected = self.next_excess_blob_gas(parent, header.timestamp).unwrap_or_default();
        let got = header.excess_blob_gas.unwrap_or_default();
        if got == expected { Ok(()) } else { Err(HeaderError::ExcessBlobGas { expected, got }) }
    }
}

fn check_link(header: &Header, parent: &Header) -> Result<(), HeaderError> {
    if parent.number.checked_add(1) != Some(header.number) {
        return Err(HeaderError::Number { parent: parent.number, got: header.number });
    }
    let expected = parent.hash_slow();
    if header.parent_hash != expected {
        return Err(HeaderError::ParentHash { expected, got: header.parent_hash });
    }
    if header.timestamp <= parent.timestamp {
        return Err(HeaderError::Timestamp { parent: parent.timestamp, got: header.timestamp });
    }
    let bytes = header.extra_data.len();
    if bytes > MAXIMUM_EXTRA_DATA_SIZE {
        return Err(HeaderError::ExtraData { bytes });
    }
    Ok(())
}
