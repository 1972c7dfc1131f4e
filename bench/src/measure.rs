//! Samples: taken in turns, so that whatever disturbs the machine disturbs both sides, and told by
//! their median.

use std::{fmt, num::ParseIntError, str::FromStr, time::Duration};

/// The least number of rounds that a median is taken of.
const LEAST_ROUNDS: usize = 5;
/// What is measured unless told otherwise.
const USUAL_ROUNDS: usize = 9;

/// How often each side is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rounds(usize);

/// Not a usable number of rounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRounds {
    #[error("not a number")]
    NotANumber(#[source] ParseIntError),
    #[error("a median needs {LEAST_ROUNDS} rounds or more")]
    TooFew,
}

/// Ours and the limit did not come to the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ours and the limit differ in {0}")]
pub(crate) struct Wrong(pub(crate) String);

impl Rounds {
    pub(crate) const fn get(self) -> usize {
        self.0
    }

    /// Measures ours, the limit, ours, … after one round of each that does not count.
    pub(crate) fn interleave<A, B>(
        self,
        mut ours: impl FnMut() -> Result<A, Wrong>,
        mut limit: impl FnMut() -> Result<B, Wrong>,
    ) -> Result<(Vec<A>, Vec<B>), Wrong> {
        ours()?;
        limit()?;
        let mut samples = (Vec::new(), Vec::new());
        for _ in 0..self.0 {
            samples.0.push(ours()?);
            samples.1.push(limit()?);
        }
        Ok(samples)
    }
}

impl Default for Rounds {
    fn default() -> Self {
        Self(USUAL_ROUNDS)
    }
}

impl FromStr for Rounds {
    type Err = BadRounds;

    fn from_str(text: &str) -> Result<Self, BadRounds> {
        let rounds = text.parse().map_err(BadRounds::NotANumber)?;
        if rounds < LEAST_ROUNDS { Err(BadRounds::TooFew) } else { Ok(Self(rounds)) }
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The samples of one field.
pub(crate) fn each<T>(runs: &[T], field: impl Fn(&T) -> Duration) -> Vec<Duration> {
    runs.iter().map(field).collect()
}

/// The middle of the samples; of an even number, the lower of the two.
pub(crate) fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Fails unless both sides came to the same.
pub(crate) fn same<T: PartialEq>(
    what: impl fmt::Display,
    ours: &T,
    limit: &T,
) -> Result<(), Wrong> {
    if ours == limit { Ok(()) } else { Err(Wrong(what.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_sample_and_not_moved_by_one_outlier() {
        let milliseconds = |all: [u64; 5]| all.map(Duration::from_millis);
        assert_eq!(median(&milliseconds([3, 1, 900, 2, 4])), Duration::from_millis(3));
        assert_eq!(median(&milliseconds([3, 1, 900, 2, 4])[..2]), Duration::from_millis(1));
        assert_eq!(median(&[]), Duration::ZERO);
    }

    #[test]
    fn both_sides_take_turns_and_the_first_round_does_not_count() {
        let turns = std::cell::RefCell::new(Vec::new());
        let turn = |name| {
            turns.borrow_mut().push(name);
            Ok(turns.borrow().len())
        };
        let (ours, limit) = Rounds(2).interleave(|| turn("ours"), || turn("limit")).unwrap();
        assert_eq!(turns.into_inner(), ["ours", "limit"].repeat(3));
        assert_eq!((ours, limit), (vec![3, 5], vec![4, 6]));
    }

    #[test]
    fn too_few_rounds_for_a_median_are_refused() {
        assert_eq!("4".parse::<Rounds>(), Err(BadRounds::TooFew));
        assert_eq!("5".parse::<Rounds>(), Ok(Rounds(5)));
    }
}
