//! Measured durations, and what a report says of them.

use std::collections::VecDeque;

use serde::Serialize;

/// How many samples are kept; beyond that the oldest go. Many hours of traffic.
const KEPT: usize = 1_000_000;

/// Durations in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(VecDeque<f64>);

/// What a report says of samples; null where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the samples are at most this.
    pub p50: Option<f64>,
    /// Nine of ten are at most this.
    pub p90: Option<f64>,
    /// 99 of 100 are at most this.
    pub p99: Option<f64>,
    /// All are at most this.
    pub max: Option<f64>,
}

impl Samples {
    /// Adds a duration in milliseconds.
    pub fn add(&mut self, milliseconds: f64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(milliseconds);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The percentiles by nearest rank: each is a duration that was measured.
    pub fn percentiles(&self) -> Percentiles {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.checked_sub(1)?).copied()
        };
        Percentiles { p50: at(50), p90: at(90), p99: at(99), max: sorted.last().copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(samples: impl IntoIterator<Item = u32>) -> Percentiles {
        let mut all = Samples::default();
        samples.into_iter().for_each(|sample| all.add(sample.into()));
        all.percentiles()
    }

    #[test]
    fn percentiles_are_durations_that_were_measured() {
        let expected =
            Percentiles { p50: Some(50.0), p90: Some(90.0), p99: Some(99.0), max: Some(100.0) };
        assert_eq!(percentiles((1..=100).rev()), expected);
        let two = Percentiles { p50: Some(1.0), p90: Some(9.0), p99: Some(9.0), max: Some(9.0) };
        assert_eq!(percentiles([9, 1]), two);
    }

    #[test]
    fn nothing_measured_is_nothing_said() {
        assert_eq!(percentiles([]), Percentiles::default());
    }
}
