//! The builder as its users have it: with a signer, an execution client and a consensus client that
//! asks for blocks, over their sockets, all in this process.
//!
//! * [`cadence`] — how late a flashblock is cut, and how long it takes to be published.
//! * [`fetch`] — how long a validator waits for its block.
//! * [`payload`] — how long the consensus client waits for its block.

pub(crate) mod cadence;
pub(crate) mod fetch;
pub(crate) mod payload;
mod system;

use std::{error::Error, time::Duration};

use crate::measure::Wrong;

/// Runs a bench that waits for others.
fn block_on<T>(bench: impl Future<Output = Result<T, Wrong>>) -> Result<T, Wrong> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| wrong("starting", &error))?.block_on(bench)
}

/// Something did not work at all.
fn wrong(step: &str, error: &dyn Error) -> Wrong {
    let mut text = format!("{step}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Wrong(text)
}

/// The sample below which this share of them is.
fn quantile(samples: &[Duration], share: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&samples, 0.5), Duration::from_millis(100));
        assert_eq!(quantile(&samples, 0.99), Duration::from_millis(198));
        assert_eq!(quantile(&samples[..1], 0.99), Duration::from_millis(200));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
