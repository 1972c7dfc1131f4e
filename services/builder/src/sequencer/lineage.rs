//! The blocks between the head before and a new one.
//!
//! Decides how far a new head is followed back: to a block that is known to be canonical, over at
//! most [`MAX_BLOCKS`] blocks. Heads may come with gaps, after a pause of the consensus client or
//! of this process, and what was promised may have become canonical in a block that nobody showed
//! us.

use std::collections::VecDeque;

use alloy_primitives::{Address, B256};
use preconf_assembly::CanonicalBlock;
use preconf_chain::Header;

/// How many blocks are read for one new head, itself included.
pub(crate) const MAX_BLOCKS: usize = 64;
/// How many blocks of the canonical chain are known again.
const KEPT: usize = 2 * MAX_BLOCKS;

/// The end of the canonical chain, as far as the build thread knows what its blocks hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// Numbers and hashes, the newest last.
    blocks: VecDeque<(u64, B256)>,
}

/// A block, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    number: u64,
    hash: B256,
    parent: B256,
    /// Sender, nonce and hash of each transaction.
    used: Vec<(Address, u64, B256)>,
}

/// The way from a new head back to a known block.
#[derive(Debug)]
pub(super) struct Walk {
    /// The newest first, and never empty.
    links: Vec<Link>,
    joined: bool,
}

impl Lineage {
    /// A chain of which one block is known.
    pub(super) fn from(number: u64, hash: B256) -> Self {
        Self { blocks: VecDeque::from([(number, hash)]) }
    }

    fn holds(&self, hash: B256) -> bool {
        self.blocks.iter().any(|(_, known)| *known == hash)
    }

    /// Goes on to where a walk began. Blocks of another branch are forgotten.
    pub(super) fn follow(&mut self, walk: Walk) {
        let Some(oldest) = walk.links.last() else { return };
        while self.blocks.back().is_some_and(|(number, _)| *number >= oldest.number) {
            self.blocks.pop_back();
        }
        if !walk.joined {
            self.blocks.clear();
        }
        self.blocks.extend(walk.links.iter().rev().map(|link| (link.number, link.hash)));
        self.blocks.drain(..self.blocks.len().saturating_sub(KEPT));
    }
}

impl Link {
    pub(super) fn of(hash: B256, header: &Header, used: Vec<(Address, u64, B256)>) -> Self {
        Self { number: header.number, hash, parent: header.parent_hash, used }
    }
}

impl Walk {
    /// Begins at a new head.
    pub(super) fn from(head: Link) -> Self {
        Self { links: vec![head], joined: false }
    }

    /// Reads the blocks below until one is known. Stops where `fetch` finds nothing, and after
    /// [`MAX_BLOCKS`]; what was read so far is kept, also if this future is dropped.
    ///
    /// # Errors
    /// The first of `fetch`.
    pub(super) async fn back_to<E, F: Future<Output = Result<Option<Link>, E>>>(
        &mut self,
        lineage: &Lineage,
        fetch: impl Fn(B256) -> F,
    ) -> Result<(), E> {
        // Before the first head nothing was promised, and below block 0 there is nothing.
        self.joined = lineage.blocks.is_empty();
        while let Some(Link { number, hash, parent, .. }) = self.links.last() {
            self.joined |= *number == 0 || lineage.holds(*hash) || lineage.holds(*parent);
            if self.joined || self.links.len() >= MAX_BLOCKS {
                return Ok(());
            }
            match fetch(*parent).await? {
                Some(link) => self.links.push(link),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether everything between the head and what was known has been read.
    pub(super) fn has_joined(&self) -> bool {
        self.joined
    }

    /// How many blocks were read.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// What the blocks hold, in the order of the chain.
    pub(super) fn blocks(&self) -> Vec<CanonicalBlock> {
        let block = |Link { number, hash, used, .. }: &Link| CanonicalBlock {
            number: *number,
            hash: *hash,
            used: used.clone(),
        };
        self.links.iter().rev().map(block).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use super::*;

    fn hash(branch: u8, number: u64) -> B256 {
        B256::left_padding_from(&[&[branch][..], &number.to_be_bytes()].concat())
    }

    /// A block with one transaction, whose nonce is its number.
    fn link(branch: u8, number: u64) -> Link {
        let parent = hash(branch, number.saturating_sub(1));
        let used = vec![(Address::ZERO, number, hash(branch, number))];
        Link { number, hash: hash(branch, number), parent, used }
    }

    /// Walks on branch 1, of which the client has the blocks from `oldest` on.
    async fn walk(lineage: &Lineage, head: u64, oldest: u64) -> Walk {
        let mut walk = Walk::from(link(1, head));
        let fetch = |wanted| {
            let mut kept = (oldest..head).map(|number| link(1, number));
            ready(Ok::<_, Infallible>(kept.find(|link| link.hash == wanted)))
        };
        let Ok(()) = walk.back_to(lineage, fetch).await;
        walk
    }

    fn nonces(walk: &Walk) -> Vec<u64> {
        let blocks = walk.blocks();
        blocks.iter().flat_map(|block| &block.used).map(|(_, nonce, _)| *nonce).collect()
    }

    #[tokio::test]
    async fn skipped_blocks_are_read_in_the_order_of_the_chain() {
        let lineage = Lineage::from(3, hash(1, 3));
        let walk = walk(&lineage, 6, 0).await;
        assert!(walk.has_joined());
        assert_eq!(nonces(&walk), [4, 5, 6]);
    }

    #[tokio::test]
    async fn the_next_block_needs_no_other() {
        let lineage = Lineage::from(3, hash(1, 3));
        assert_eq!(nonces(&walk(&lineage, 4, 9).await), [4]);
        assert_eq!(nonces(&walk(&Lineage::default(), 4, 9).await), [4]);
    }

    #[tokio::test]
    async fn a_walk_is_bounded_and_says_that_it_has_not_joined() {
        let lineage = Lineage::from(3, hash(1, 3));
        let far = walk(&lineage, 3 + MAX_BLOCKS as u64 + 1, 0).await;
        assert!(!far.has_joined());
        assert_eq!(far.len(), MAX_BLOCKS);
        let near = walk(&lineage, 3 + MAX_BLOCKS as u64, 0).await;
        assert!(near.has_joined());
        assert_eq!(near.len(), MAX_BLOCKS);
    }

    #[tokio::test]
    async fn what_the_client_forgot_ends_a_walk() {
        let lineage = Lineage::from(3, hash(1, 3));
        let walk = walk(&lineage, 9, 7).await;
        assert!(!walk.has_joined());
        assert_eq!(nonces(&walk), [7, 8, 9]);
    }

    #[tokio::test]
    async fn another_branch_is_followed_from_where_it_left_the_known_one() {
        let mut lineage = Lineage::from(3, hash(1, 3));
        lineage.blocks.extend([(4, hash(0, 4)), (5, hash(0, 5))]);
        let walk = walk(&lineage, 5, 0).await;
        assert!(walk.has_joined());
        assert_eq!(nonces(&walk), [4, 5]);
        lineage.follow(walk);
        assert_eq!(lineage.blocks, [(3, hash(1, 3)), (4, hash(1, 4)), (5, hash(1, 5))]);
    }

    #[tokio::test]
    async fn a_chain_of_any_length_is_remembered_by_its_end() {
        let mut lineage = Lineage::from(0, hash(1, 0));
        for number in 1..=3 * KEPT as u64 {
            let next = walk(&lineage, number, 0).await;
            assert_eq!(next.len(), 1);
            lineage.follow(next);
        }
        assert_eq!(lineage.blocks.len(), KEPT);
    }
}
