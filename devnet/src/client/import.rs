//! Chains from a file: blocks in RLP, one behind the other, as `geth export` writes them.
//!
//! Decides in which way a block is executed: those from before the merge as mined ones, whose proof
//! of work is not checked. What is imported becomes canonical, safe and final at once: a file is
//! somebody's word, and there is no consensus client to ask.
//!
//! Memory: one block of at most [`MAX_BLOCK_BYTES`] is read at a time.

use std::io::{self, Read};
use std::sync::Arc;

use alloy_consensus::{Eip658Value, Receipt as RootReceipt, ReceiptWithBloom, TxReceipt as _};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use alloy_rlp::Decodable;
use alloy_rpc_types_engine::ForkchoiceState;
use alloy_trie::root::ordered_trie_root;
use preconf_chain::{Block, Receipt};
use preconf_evm::{NextBlock, Paused, TxError, execute_mined};

use super::chain::{BlockState, ChainBlock};
use super::validate::{Executed, Verdict, root_of, state_after, verdict};
use super::{ClientError, ExecutionClient};

/// The largest block that is read.
const MAX_BLOCK_BYTES: usize = 128 * 1024 * 1024;

/// Why a chain is not imported, or not further.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("reading the chain")]
    Read(#[source] io::Error),
    /// What is in the file is no block.
    #[error("decoding the block after {after} others")]
    Decode {
        /// How many were read before it.
        after: u64,
        /// What the decoder said.
        #[source]
        source: alloy_rlp::Error,
    },
    /// The block before it was not imported.
    #[error("the parent {parent} of block {number} is not known")]
    UnknownParent {
        /// The block's number.
        number: u64,
        /// Its parent.
        parent: B256,
    },
    /// Its execution does not show what its header says.
    #[error("block {number} ({hash}) is not valid: {reason}")]
    Invalid {
        /// The block's number.
        number: u64,
        /// Its hash.
        hash: B256,
        /// What is wrong.
        reason: String,
    },
    /// The client failed.
    #[error("importing block {number}")]
    Client {
        /// The block's number.
        number: u64,
        /// What failed.
        #[source]
        source: ClientError,
    },
}

/// The blocks of a file, read one after the other.
#[derive(Debug)]
pub struct RlpBlocks<R> {
    reader: R,
    read: u64,
}

impl<R: Read> RlpBlocks<R> {
    /// Nothing is read yet. The reader should be a buffered one.
    pub const fn new(reader: R) -> Self {
        Self { reader, read: 0 }
    }

    fn next_block(&mut self) -> Result<Option<Block>, ImportError> {
        let Some(encoded) = self.next_item()? else { return Ok(None) };
        let decoded = Block::decode(&mut encoded.as_slice());
        let block = decoded.map_err(|source| self.malformed(source))?;
        self.read += 1;
        Ok(Some(block))
    }

    /// The bytes of the next list, with its length before it.
    fn next_item(&mut self) -> Result<Option<Vec<u8>>, ImportError> {
        let mut item = vec![0];
        match self.reader.read_exact(&mut item) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(ImportError::Read(error)),
        }
        let length = match item[0] {
            short @ 0xc0..=0xf7 => usize::from(short - 0xc0),
            long @ 0xf8..=0xff => {
                let mut digits = [0; size_of::<u64>()];
                let start = digits.len() - usize::from(long - 0xf7);
                self.reader.read_exact(&mut digits[start..]).map_err(ImportError::Read)?;
                item.extend_from_slice(&digits[start..]);
                usize::try_from(u64::from_be_bytes(digits)).unwrap_or(usize::MAX)
            }
            _ => return Err(self.malformed(alloy_rlp::Error::UnexpectedString)),
        };
        if length > MAX_BLOCK_BYTES {
            return Err(self.malformed(alloy_rlp::Error::Overflow));
        }
        let head = item.len();
        item.resize(head + length, 0);
        self.reader.read_exact(&mut item[head..]).map_err(ImportError::Read)?;
        Ok(Some(item))
    }

    const fn malformed(&self, source: alloy_rlp::Error) -> ImportError {
        ImportError::Decode { after: self.read, source }
    }
}

impl<R: Read> Iterator for RlpBlocks<R> {
    type Item = Result<Block, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_block().transpose()
    }
}

impl ExecutionClient {
    /// Executes a block on its parent, compares it with its header, and makes it the head, safe and
    /// final. One that is canonical already changes nothing.
    ///
    /// # Errors
    ///
    /// If its parent is not known or it is not valid.
    pub fn import(&self, block: Block) -> Result<B256, ImportError> {
        let (hash, number) = (block.header.hash_slow(), block.header.number);
        let parent = block.header.parent_hash;
        let (parent, state) = {
            let tree = self.tree.read();
            if tree.block(&hash).is_some_and(|known| tree.is_canonical(known)) {
                return Ok(hash);
            }
            let found = tree.block(&parent).cloned().zip(tree.state(&parent));
            found.ok_or(ImportError::UnknownParent { number, parent })?
        };
        let executed = if self.spec.is_paris_active_at_block(number) {
            self.execute(hash, block, &parent, state, None)
        } else {
            self.execute_mined(hash, block, &parent, state)
        };
        let Executed { block, diff, full } = executed.map_err(|verdict| match verdict {
            Verdict::Invalid(reason) => ImportError::Invalid { number, hash, reason },
            Verdict::Failed(source) => ImportError::Client { number, source },
        })?;
        {
            let _turn = self.changes.lock();
            self.tree.write().insert(Arc::new(block), diff, full);
        }
        let state = ForkchoiceState {
            head_block_hash: hash,
            safe_block_hash: hash,
            finalized_block_hash: hash,
        };
        let moved = self.fork_choice_updated(state, None);
        moved.map_err(|source| ImportError::Client { number, source })?;
        Ok(hash)
    }

    fn execute_mined(
        &self,
        hash: B256,
        block: Block,
        parent: &ChainBlock,
        state: BlockState,
    ) -> Result<Executed, Verdict> {
        let outcome =
            execute_mined(&self.spec, parent.header(), &block, state.clone()).map_err(verdict)?;
        let intermediate_roots = if self.spec.is_byzantium_active_at_block(block.header.number) {
            Vec::new()
        } else {
            self.intermediate_roots(&block, &outcome.transactions, &state)?
        };
        let roots_hash = ordered_trie_root(&with_roots(&outcome.receipts, &intermediate_roots));
        if !intermediate_roots.is_empty() && roots_hash != block.header.receipts_root {
            return Err(Verdict::Invalid("mismatched receipts root".to_owned()));
        }
        Executed::new(hash, block, intermediate_roots, outcome, &state)
    }

    /// The state roots between the transactions, which receipts held before Byzantium. The block
    /// was executed before and is valid.
    fn intermediate_roots(
        &self,
        block: &Block,
        transactions: &[preconf_chain::Transaction],
        state: &BlockState,
    ) -> Result<Vec<B256>, Verdict> {
        let failed = |source| Verdict::Failed(ClientError::Execution(source));
        let next = NextBlock::from_header(&block.header, Vec::new());
        let paused = Paused::begin(self.spec.clone(), next, state.clone()).map_err(failed)?;
        let mut running = paused.resume();
        let mut roots = Vec::with_capacity(transactions.len());
        for (index, transaction) in transactions.iter().enumerate() {
            running.execute(transaction).map_err(|source: TxError| {
                let hash = *transaction.hash();
                Verdict::Failed(ClientError::Transaction { index, hash, source })
            })?;
            roots.push(root_of(&state_after(state, &running.overlay().block_diff())));
        }
        Ok(roots)
    }
}

/// Receipts as they were before Byzantium: with the state root after their transaction.
pub(crate) fn with_roots(
    receipts: &[Receipt],
    roots: &[B256],
) -> Vec<ReceiptWithBloom<RootReceipt>> {
    let receipts = receipts.iter().zip(roots);
    receipts
        .map(|(receipt, root)| {
            let receipt = RootReceipt {
                status: Eip658Value::PostState(*root),
                cumulative_gas_used: receipt.cumulative_gas_used,
                logs: receipt.logs.clone(),
            };
            receipt.into_with_bloom()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_within_a_block_is_refused() {
        let block = alloy_rlp::encode(Block::default());
        let whole = RlpBlocks::new(block.as_slice()).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(whole, [Block::default()]);
        for length in 1..block.len() {
            let refused = RlpBlocks::new(&block[..length]).next().unwrap().unwrap_err();
            assert!(matches!(refused, ImportError::Read(_)), "{length}: {refused:?}");
        }
    }

    #[test]
    fn what_is_no_list_or_too_long_is_refused_before_it_is_read() {
        let mut huge = vec![0xff];
        huge.extend(u64::MAX.to_be_bytes());
        for bytes in [vec![0x01], vec![0x80, 0x00], huge] {
            let refused = RlpBlocks::new(bytes.as_slice()).next().unwrap().unwrap_err();
            assert!(matches!(refused, ImportError::Decode { after: 0, .. }), "{refused:?}");
        }
    }
}
