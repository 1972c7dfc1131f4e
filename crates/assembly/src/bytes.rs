//! How long a block may become (EIP-7934).
//!
//! A block that is longer than its fork allows is not valid however good its transactions are, so
//! their bytes are counted before they are promised. What the header and the withdrawals take is
//! known when the block begins; where a length of RLP is not known yet, its longest form counts.

use preconf_chain::ChainSpec;
use preconf_evm::NextBlock;

/// Below this no transaction fits: the shortest ones have about a hundred bytes.
const LEAST_BYTES: usize = 100;
/// Header fields without `extra_data`, with their longest integers, and the lists of the block.
const HEADER_BYTES: usize = 1_024;
/// Four integers of at most 8 bytes and an address, each with its length, and the list.
const WITHDRAWAL_BYTES: usize = 3 * 9 + 21 + 9 + 2;
/// The longest length of a string of RLP.
const LENGTH_BYTES: usize = 5;

/// How many bytes a block has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BytesLeft(Option<usize>);

impl BytesLeft {
    /// Of a block without transactions.
    pub(crate) fn of(spec: &ChainSpec, block: &NextBlock) -> Self {
        let limit = spec.max_block_bytes_at(block.timestamp);
        let taken = HEADER_BYTES
            + block.extra_data.len()
            + block.withdrawals.len().saturating_mul(WITHDRAWAL_BYTES);
        Self(limit.map(|limit| limit.saturating_sub(taken)))
    }

    /// Whether a transaction with an encoding this long fits.
    pub(crate) fn fits(self, encoded: usize) -> bool {
        self.0.is_none_or(|left| encoded.saturating_add(LENGTH_BYTES) <= left)
    }

    /// It is in the block.
    pub(crate) fn take(&mut self, encoded: usize) {
        if let Some(left) = &mut self.0 {
            *left = left.saturating_sub(encoded + LENGTH_BYTES);
        }
    }

    /// Whether no transaction fits any more.
    pub(crate) fn are_none(self) -> bool {
        !self.fits(LEAST_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{osaka, prague};

    #[test]
    fn before_osaka_a_block_is_as_long_as_its_gas_allows() {
        let mut left = BytesLeft::of(&prague(), &NextBlock::default());
        assert!(left.fits(usize::MAX - LENGTH_BYTES));
        left.take(1 << 40);
        assert!(!left.are_none());
    }

    #[test]
    fn from_osaka_on_what_is_in_a_block_leaves_less_room() {
        let mut left = BytesLeft::of(&osaka(), &NextBlock::default());
        let most = (8 << 20) - HEADER_BYTES - LENGTH_BYTES;
        assert!(left.fits(most) && !left.fits(most + 1));
        left.take(most - LENGTH_BYTES - LEAST_BYTES);
        assert!(left.fits(LEAST_BYTES) && !left.fits(LEAST_BYTES + 1) && !left.are_none());
        left.take(LEAST_BYTES);
        assert!(left.are_none());
    }
}
