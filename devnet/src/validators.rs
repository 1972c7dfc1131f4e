//! What became of the validators' turns, by how they come to the sequencer's block.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    consensus::{CanonicalBlock, Kind, Source},
    samples::Samples,
};

/// The turns of all validators so far.
#[derive(Clone, Debug, Default)]
pub struct Turns(BTreeMap<Kind, OfKind>);

#[derive(Clone, Debug, Default)]
struct OfKind {
    fetched: u64,
    fallbacks: u64,
    misses: u64,
    waited: Samples,
}

/// What a report says of the validators of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OfValidators {
    /// Blocks of the sequencer that they proposed.
    pub fetched: u64,
    /// Blocks of their own client that they proposed instead.
    pub fallbacks: u64,
    /// Turns in which they proposed nothing that the others accept.
    pub misses: u64,
    /// From asking for the sequencer's block to having it, validated.
    pub latency_ms: Latency,
}

/// How long a proposer waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the times at most this.
    pub p50: Option<f64>,
    /// 99 of 100 times at most this.
    pub p99: Option<f64>,
}

impl Turns {
    /// Takes note of a block, and of the rounds that were missed before it.
    pub fn add(&mut self, block: &CanonicalBlock) {
        for kind in &block.missed {
            self.0.entry(*kind).or_default().misses += 1;
        }
        let kind = self.0.entry(block.kind).or_default();
        match block.source {
            Source::Builder => {
                kind.fetched += 1;
                kind.waited.add(block.waited.as_secs_f64() * 1_000.0);
            }
            Source::Fallback(_) => kind.fallbacks += 1,
        }
    }

    /// The sums.
    pub fn report(&self) -> BTreeMap<Kind, OfValidators> {
        let of_kind = |(kind, turns): (&Kind, &OfKind)| {
            let OfKind { fetched, fallbacks, misses, ref waited } = *turns;
            let waited = waited.percentiles();
            let latency_ms = Latency { p50: waited.p50, p99: waited.p99 };
            (*kind, OfValidators { fetched, fallbacks, misses, latency_ms })
        };
        self.0.iter().map(of_kind).collect()
    }
}

/// What speaks against validators of whom some have a sidecar and some have none.
pub fn objection(turns: &BTreeMap<Kind, OfValidators>) -> Option<String> {
    let misses = |kind| turns.get(&kind).map(|turns| turns.misses);
    let (with, without) = (misses(Kind::Sidecar)?, misses(Kind::Native)?);
    (with > without).then(|| {
        format!("validators with a sidecar missed {with} rounds, those without one {without}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alloy_primitives::B256;

    use super::*;

    fn block(kind: Kind, source: Source, missed: &[Kind]) -> CanonicalBlock {
        CanonicalBlock {
            number: 1,
            hash: B256::ZERO,
            transactions: Vec::new(),
            gas_used: 0,
            slot: 1,
            proposer: 0,
            kind,
            source,
            waited: Duration::from_millis(40),
            lost_rounds: 0,
            missed: missed.to_vec(),
        }
    }

    #[test]
    fn each_kind_has_its_own_sums() {
        let mut turns = Turns::default();
        turns.add(&block(Kind::Native, Source::Builder, &[]));
        turns.add(&block(Kind::Native, Source::Fallback(String::new()), &[Kind::Sidecar]));
        turns.add(&block(Kind::Sidecar, Source::Builder, &[Kind::Native, Kind::Native]));

        let report = turns.report();

        let latency_ms = Latency { p50: Some(40.0), p99: Some(40.0) };
        let native = OfValidators { fetched: 1, fallbacks: 1, misses: 2, latency_ms };
        assert_eq!(report[&Kind::Native], native);
        let sidecar = OfValidators { fetched: 1, fallbacks: 0, misses: 1, latency_ms };
        assert_eq!(report[&Kind::Sidecar], sidecar);
        assert_eq!(objection(&report), None);
    }

    #[test]
    fn a_sidecar_that_costs_rounds_speaks_against_it() {
        let mut turns = Turns::default();
        turns.add(&block(Kind::Sidecar, Source::Builder, &[Kind::Sidecar]));
        assert_eq!(objection(&turns.report()), None, "there is nothing to compare with");
        turns.add(&block(Kind::Native, Source::Builder, &[]));
        let expected = "validators with a sidecar missed 1 rounds, those without one 0";
        assert_eq!(objection(&turns.report()).as_deref(), Some(expected));
    }
}
