//! Where a block is cut into flashblocks.

use std::{num::NonZeroUsize, ops::Range, str::FromStr};

use crate::choices::Choices;

/// The most flashblocks of a block that is cut at random.
const MOST_PIECES: u64 = 4;

/// How blocks are cut. A piece may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Into so many pieces, as even as can be.
    Even(NonZeroUsize),
    /// Anywhere.
    Random,
}

/// Text that is no way to cut a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a split is a number of flashblocks above zero, or \"random\"")]
pub struct BadSplit;

impl FromStr for Split {
    type Err = BadSplit;

    fn from_str(text: &str) -> Result<Self, BadSplit> {
        if text == "random" {
            return Ok(Self::Random);
        }
        text.parse().map(Self::Even).map_err(|_| BadSplit)
    }
}

impl Split {
    /// The pieces of a block with so many transactions, in order; at least one.
    pub fn pieces(self, choices: &mut Choices<'_>, transactions: usize) -> Vec<Range<usize>> {
        let mut cuts: Vec<usize> = match self {
            Self::Even(pieces) => {
                let pieces = pieces.get();
                (1..pieces).map(|piece| transactions * piece / pieces).collect()
            }
            Self::Random => {
                let pieces = 1 + choices.roll(MOST_PIECES);
                (1..pieces).map(|_| choices.roll(transactions as u64 + 1) as usize).collect()
            }
        };
        cuts.sort_unstable();
        cuts.push(transactions);
        let mut from = 0;
        cuts.into_iter().map(|to| std::mem::replace(&mut from, to)..to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_any_split_are_the_whole() {
        let mut choices = Choices::of_seed(1);
        for split in ["1", "3", "8", "random"] {
            let split: Split = split.parse().unwrap();
            for transactions in 0..20 {
                let pieces = split.pieces(&mut choices, transactions);
                let covered: Vec<usize> = pieces.into_iter().flatten().collect();
                assert_eq!(covered, (0..transactions).collect::<Vec<_>>());
            }
        }
        assert_eq!("3".parse::<Split>().unwrap().pieces(&mut choices, 0).len(), 3);
        for text in ["0", "-1", "", "some"] {
            assert_eq!(text.parse::<Split>(), Err(BadSplit), "{text}");
        }
    }
}
