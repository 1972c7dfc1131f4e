//! A flashblock: what a sequencer added to its block since the last one.

use alloy_primitives::{Address, B256, Bytes, FixedBytes};

use crate::{Digest, MAX_INDEX, PayloadId, Position, Seq, Traceparent};

/// A flashblock is cut early when its transactions have this many bytes (D6). What was promised
/// before may take several such flashblocks; the first shorter one has the last of it.
pub const CUT_BYTES: usize = 2 * 1024 * 1024;

/// The most transaction bytes one flashblock carries (D6 cuts early at 2 MiB).
///
/// One transaction of the largest size may arrive when the flashblock is almost full.
pub const MAX_FLASHBLOCK_TRANSACTION_BYTES: usize = 2 * 1024 * 1024 + 128 * 1024;
/// The most transactions one flashblock carries.
pub const MAX_FLASHBLOCK_TRANSACTIONS: usize = 16_384;
/// The most withdrawals a block carries (EIP-4895: 16 on Ethereum; room for other chains).
pub const MAX_WITHDRAWALS: usize = 256;
/// The most bytes of a header's `extraData`.
pub const MAX_EXTRA_DATA_BYTES: usize = 32;

/// The compressed BLS public key of a proposer (48 bytes).
pub type PublicKeyBytes = FixedBytes<48>;

/// A validator withdrawal (EIP-4895).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Monotonically increasing index, given by the consensus layer.
    pub index: u64,
    /// The validator that withdraws.
    pub validator_index: u64,
    /// The address that receives.
    pub address: Address,
    /// The amount in gwei.
    pub amount_gwei: u64,
}

/// What is fixed about a block before its first transaction: the environment it executes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The parent's beacon block root (EIP-4788).
    pub parent_beacon_block_root: B256,
    /// The hash of the parent block.
    pub parent_hash: B256,
    /// Who receives the priority fees.
    pub fee_recipient: Address,
    /// The beacon chain's randomness (EIP-4399).
    pub prev_randao: B256,
    /// The number of the block.
    pub block_number: u64,
    /// The gas limit of the block.
    pub gas_limit: u64,
    /// The block's time in seconds since the Unix epoch.
    pub timestamp: u64,
    /// The header's extra data, at most [`MAX_EXTRA_DATA_BYTES`].
    pub extra_data: Bytes,
    /// The base fee per gas in wei (EIP-1559).
    pub base_fee_per_gas: u64,
    /// The public key of the previous block's proposer (BRIP-0004), on chains that have it.
    pub prev_proposer_pubkey: Option<PublicKeyBytes>,
}

/// What the first flashblock of a session carries besides transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The environment of the block.
    pub base: Base,
    /// All withdrawals of the block.
    pub withdrawals: Vec<Withdrawal>,
}

/// The fields of a flashblock before they are known to be consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlashblockParts {
    /// The session's id on the wire.
    pub payload_id: PayloadId,
    /// Session and index.
    pub position: Position,
    /// The number of the block that the session builds.
    pub block_number: u64,
    /// Base and withdrawals: present at index 0 and only there.
    pub opening: Option<Opening>,
    /// The transactions that are new in this flashblock, EIP-2718 encoded.
    pub transactions: Vec<Bytes>,
    /// Whether the session ends here.
    pub is_last: bool,
    /// When the sequencer published it, in milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// The trace it belongs to (W3C Trace Context).
    pub traceparent: Option<Traceparent>,
    /// The digest of the flashblock before: index − 1, or the last of the session before.
    pub parent_digest: Digest,
}

/// A flashblock whose fields are consistent with each other and within their bounds.
///
/// Whether it is signed is another question, see `signing::Verified`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flashblock(FlashblockParts);

/// Why fields do not make a flashblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFlashblock {
    /// Index 0 must say what block it opens.
    #[error("index 0 has no base")]
    MissingBase,
    /// Only index 0 may say what block it opens.
    #[error("index {index} has a base or withdrawals, which belong to index 0")]
    UnexpectedBase {
        /// The index that carried them.
        index: u64,
    },
    /// The two block numbers of index 0 differ.
    #[error("base.block_number {base} is not metadata.block_number {metadata}")]
    BlockNumberMismatch {
        /// The number in `base`.
        base: u64,
        /// The number in `metadata`.
        metadata: u64,
    },
    /// The genesis block is nobody's to build.
    #[error("block 0 cannot be built")]
    GenesisBlock,
    /// A field is larger than the protocol allows.
    #[error("{field} is {actual}, over the limit of {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its size or value.
        actual: u64,
        /// The most it may be.
        limit: u64,
    },
    /// A transaction has no bytes.
    #[error("transaction {index} is empty")]
    EmptyTransaction {
        /// Its place in the flashblock.
        index: usize,
    },
}

impl Flashblock {
    /// Checks that the fields are consistent and within bounds.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn new(parts: FlashblockParts) -> Result<Self, InvalidFlashblock> {
        let index = parts.position.index;
        within("index", index, MAX_INDEX)?;
        if parts.block_number == 0 {
            return Err(InvalidFlashblock::GenesisBlock);
        }
        match &parts.opening {
            None if index == 0 => return Err(InvalidFlashblock::MissingBase),
            Some(_) if index > 0 => return Err(InvalidFlashblock::UnexpectedBase { index }),
            Some(opening) => check_opening(opening, parts.block_number)?,
            None => {}
        }
        check_transactions(&parts.transactions)?;
        Ok(Self(parts))
    }

    /// The session's id on the wire.
    pub const fn payload_id(&self) -> PayloadId {
        self.0.payload_id
    }

    /// Session and index.
    pub const fn position(&self) -> Position {
        self.0.position
    }

    /// The session.
    pub const fn seq(&self) -> Seq {
        self.0.position.seq
    }

    /// The index inside the session.
    pub const fn index(&self) -> u64 {
        self.0.position.index
    }

    /// The number of the block that the session builds.
    pub const fn block_number(&self) -> u64 {
        self.0.block_number
    }

    /// Base and withdrawals, at index 0.
    pub const fn opening(&self) -> Option<&Opening> {
        self.0.opening.as_ref()
    }

    /// The transactions that are new in this flashblock.
    pub fn transactions(&self) -> &[Bytes] {
        &self.0.transactions
    }

    /// Whether the session ends here.
    pub const fn is_last(&self) -> bool {
        self.0.is_last
    }

    /// When the sequencer published it, in milliseconds since the Unix epoch.
    pub const fn published_at_ms(&self) -> u64 {
        self.0.published_at_ms
    }

    /// The trace it belongs to.
    pub const fn traceparent(&self) -> Option<&Traceparent> {
        self.0.traceparent.as_ref()
    }

    /// The digest of the flashblock before.
    pub const fn parent_digest(&self) -> Digest {
        self.0.parent_digest
    }

    /// The bytes of all its transactions together.
    pub fn transaction_bytes(&self) -> usize {
        self.0.transactions.iter().map(|transaction| transaction.len()).sum()
    }

    /// The fields again.
    pub fn into_parts(self) -> FlashblockParts {
        self.0
    }
}

fn check_opening(opening: &Opening, block_number: u64) -> Result<(), InvalidFlashblock> {
    let base = &opening.base;
    if base.block_number != block_number {
        return Err(InvalidFlashblock::BlockNumberMismatch {
            base: base.block_number,
            metadata: block_number,
        });
    }
    within("base.extra_data", base.extra_data.len() as u64, MAX_EXTRA_DATA_BYTES as u64)?;
    within("diff.withdrawals", opening.withdrawals.len() as u64, MAX_WITHDRAWALS as u64)
}

fn check_transactions(transactions: &[Bytes]) -> Result<(), InvalidFlashblock> {
    within("diff.transactions", transactions.len() as u64, MAX_FLASHBLOCK_TRANSACTIONS as u64)?;
    let mut bytes = 0;
    for (index, transaction) in transactions.iter().enumerate() {
        if transaction.is_empty() {
            return Err(InvalidFlashblock::EmptyTransaction { index });
        }
        bytes += transaction.len() as u64;
    }
    within("the bytes of diff.transactions", bytes, MAX_FLASHBLOCK_TRANSACTION_BYTES as u64)
}

const fn within(field: &'static str, actual: u64, limit: u64) -> Result<(), InvalidFlashblock> {
    if actual > limit {
        return Err(InvalidFlashblock::TooLarge { field, actual, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        Base {
            parent_beacon_block_root: B256::ZERO,
            parent_hash: B256::repeat_byte(1),
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
            block_number: 5,
            gas_limit: 30_000_000,
            timestamp: 1,
            extra_data: Bytes::new(),
            base_fee_per_gas: 7,
            prev_proposer_pubkey: None,
        }
    }

    fn first() -> FlashblockParts {
        FlashblockParts {
            payload_id: PayloadId::ZERO,
            position: Position::new(Seq::new(1), 0),
            block_number: 5,
            opening: Some(Opening { base: base(), withdrawals: vec![] }),
            transactions: vec![Bytes::from_static(&[2])],
            is_last: false,
            published_at_ms: 0,
            traceparent: None,
            parent_digest: Digest::ZERO,
        }
    }

    fn refused(change: impl FnOnce(&mut FlashblockParts)) -> InvalidFlashblock {
        let mut parts = first();
        change(&mut parts);
        Flashblock::new(parts).unwrap_err()
    }

    #[test]
    fn a_consistent_flashblock_is_accepted() {
        let flashblock = Flashblock::new(first()).unwrap();
        assert_eq!(flashblock.into_parts(), first());
    }

    #[test]
    fn index_0_without_base_is_refused() {
        assert_eq!(refused(|parts| parts.opening = None), InvalidFlashblock::MissingBase);
    }

    #[test]
    fn a_base_after_index_0_is_refused() {
        let refusal = refused(|parts| parts.position.index = 3);
        assert_eq!(refusal, InvalidFlashblock::UnexpectedBase { index: 3 });
    }

    #[test]
    fn two_block_numbers_are_refused() {
        let refusal = refused(|parts| parts.block_number = 6);
        assert_eq!(refusal, InvalidFlashblock::BlockNumberMismatch { base: 5, metadata: 6 });
    }

    #[test]
    fn block_0_is_refused() {
        assert_eq!(refused(|parts| parts.block_number = 0), InvalidFlashblock::GenesisBlock);
    }

    #[test]
    fn an_empty_transaction_is_refused() {
        let refusal = refused(|parts| parts.transactions.push(Bytes::new()));
        assert_eq!(refusal, InvalidFlashblock::EmptyTransaction { index: 1 });
    }

    #[test]
    fn every_bound_is_enforced() {
        let oversized: [fn(&mut FlashblockParts); 5] = [
            |parts| {
                parts.opening = None;
                parts.position.index = MAX_INDEX + 1;
            },
            |parts| parts.transactions = vec![Bytes::from_static(&[1]); 16_385],
            |parts| parts.transactions = vec![vec![1; MAX_FLASHBLOCK_TRANSACTION_BYTES + 1].into()],
            |parts| {
                let Some(opening) = &mut parts.opening else { return };
                opening.base.extra_data = vec![0; 33].into();
            },
            |parts| {
                let Some(opening) = &mut parts.opening else { return };
                let withdrawal = Withdrawal {
                    index: 0,
                    validator_index: 0,
                    address: Address::ZERO,
                    amount_gwei: 1,
                };
                opening.withdrawals = vec![withdrawal; MAX_WITHDRAWALS + 1];
            },
        ];
        for change in oversized {
            assert!(matches!(refused(change), InvalidFlashblock::TooLarge { .. }));
        }
    }
}
