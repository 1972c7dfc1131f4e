//! What goes wrong in a run, and when: read from a file, drawn from a seed.
//!
//! ```toml
//! # At the second block, 700 ms after the one before it: the builder is killed, and started again
//! # after 300 ms.
//! [[at]]
//! block = 2
//! after_ms = 700
//! do = "kill"
//! target = "builder"
//! for_ms = 300
//!
//! # And from the fifth block on, one of these every 3 to 6 blocks.
//! [chaos]
//! from = 5
//! every = [3, 6]
//! [[chaos.faults]]
//! do = "pause"
//! target = "gateway"
//! for_ms = [100, 900]
//! weight = 2
//! ```
//!
//! Decides nothing about how it is done: a [`Plan`] says which [`Fault`]s belong to a block. The same
//! file and seed say the same.

use std::{fs, io, ops::RangeInclusive, path::Path, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;

use crate::wiring::Line;

/// The largest scenario that is read.
const MAX_BYTES: u64 = 1024 * 1024;
/// How late in its block a drawn fault may come.
const DRAWN_AFTER_MS: RangeInclusive<u64> = 0..=1_500;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From the block before being settled, for what happens to a service.
    pub after: Duration,
    /// What happens.
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A service is killed, and started again after a while.
    Kill(Target, Duration),
    /// It is asked to stop, and started again at once.
    Restart(Target),
    /// It stands still for a while.
    Pause(Target, Duration),
    /// The builder is switched to passthrough for a while.
    Passthrough(Duration),
    /// A line between two services is cut for a while.
    Cut(Line, Duration),
    /// Everything on a line takes so much longer, each way, for a while.
    Slow(Line, Duration, Duration),
    /// The proposer of the block does not propose: the round is lost, and the next one proposes.
    FailProposer,
    /// The proposer is on no whitelist: the sequencer is not asked for the block.
    Outsider,
    /// The sequencer learns so much later of the block before.
    LateHead(Duration),
    /// It is told that the block before is the head so much earlier than it gets that block.
    LatePayload(Duration),
    /// It does not process the proposal of the block before, and learns of it when it is final, so
    /// much later.
    SkippedProposal(Duration),
    /// The sequencer is shown a block that then is not agreed on: another one takes its place.
    Reorg,
    /// What the payload server says is altered on its way to validators, for a while.
    Wrong(Duration),
}

/// A service that things happen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Signs.
    Signer,
    /// Builds: with two builders the one that everybody is led to.
    Builder,
    /// The other one. Nothing happens if there is none.
    Standby,
    /// Distributes.
    Gateway,
    /// Executes.
    Consumer,
    /// Answers.
    RpcOverlay,
    /// Has blocks for validators. Nothing happens if there is none.
    PayloadServer,
    /// The first one of a validator. Nothing happens if there is none.
    Sidecar,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("reading it")]
    Read(#[source] io::Error),
    /// It is too long.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not TOML, or has a key that there is not.
    #[error("understanding it")]
    Parse(#[source] toml::de::Error),
    /// A fault lacks what belongs to it, or has what does not.
    #[error("{what}: {reason}")]
    Fault {
        /// Which one.
        what: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The faults of a run, by block.
#[derive(Debug)]
pub struct Plan {
    at: Vec<(u64, Fault)>,
    chaos: Option<Chaos>,
    random: StdRng,
    /// The next block that a fault is drawn for.
    next: u64,
}

#[derive(Clone, Debug)]
struct Chaos {
    every: RangeInclusive<u64>,
    faults: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    at: Vec<WrittenAt>,
    chaos: Option<WrittenChaos>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAt {
    block: u64,
    #[serde(default)]
    after_ms: u64,
    r#do: What,
    target: Option<Target>,
    line: Option<Line>,
    for_ms: Option<Span>,
    by_ms: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChaos {
    #[serde(default = "first")]
    from: u64,
    every: [u64; 2],
    faults: Vec<Written>,
}

const fn first() -> u64 {
    2
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#do: What,
    target: Option<Target>,
    line: Option<Line>,
    for_ms: Option<Span>,
    by_ms: Option<Span>,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Kill,
    Restart,
    Pause,
    Passthrough,
    Cut,
    Slow,
    FailProposer,
    Outsider,
    LateHead,
    LatePayload,
    SkippedProposal,
    Reorg,
    Wrong,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Span {
    Exactly(u64),
    Between([u64; 2]),
}

impl Plan {
    /// Reads a plan from a file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn read(path: &Path, seed: u64) -> Result<Self, ScenarioError> {
        if fs::metadata(path).map_err(ScenarioError::Read)?.len() > MAX_BYTES {
            return Err(ScenarioError::TooLong);
        }
        Self::parse(&fs::read_to_string(path).map_err(ScenarioError::Read)?, seed)
    }

    fn parse(text: &str, seed: u64) -> Result<Self, ScenarioError> {
        let File { at, chaos } = toml::from_str(text).map_err(ScenarioError::Parse)?;
        let mut random = StdRng::seed_from_u64(seed);
        let mut planned = Vec::new();
        for (number, written) in at.into_iter().enumerate() {
            let WrittenAt { block, after_ms, r#do, target, line, for_ms, by_ms } = written;
            let fault = Written { r#do, target, line, for_ms, by_ms, weight: 1 };
            let kind = fault.kind(&mut random).map_err(|reason| {
                let what = format!("[[at]] number {}", number + 1);
                ScenarioError::Fault { what, reason }
            })?;
            planned.push((block, Fault { after: Duration::from_millis(after_ms), kind }));
        }
        let next = chaos.as_ref().map_or(u64::MAX, |chaos| chaos.from);
        let chaos = chaos.map(|chaos| chaos.check(&mut random)).transpose()?;
        Ok(Self { at: planned, chaos, random, next })
    }

    /// What goes wrong while this block is being built. Blocks are asked for in order, each once.
    pub fn at(&mut self, block: u64) -> Vec<Fault> {
        let written = self.at.iter().filter(|(at, _)| *at == block);
        let mut faults: Vec<_> = written.map(|(_, fault)| fault.clone()).collect();
        let Some(chaos) = self.chaos.as_ref().filter(|_| block >= self.next) else { return faults };
        self.next = block + self.random.random_range(chaos.every.clone());
        let all: u32 = chaos.faults.iter().map(|fault| fault.weight).sum();
        let mut drawn = self.random.random_range(0..all.max(1));
        for fault in &chaos.faults {
            if drawn < fault.weight {
                let after = Duration::from_millis(self.random.random_range(DRAWN_AFTER_MS));
                // It was checked when the file was read.
                faults.extend(fault.kind(&mut self.random).map(|kind| Fault { after, kind }));
                break;
            }
            drawn -= fault.weight;
        }
        faults
    }
}

impl WrittenChaos {
    fn check(self, random: &mut StdRng) -> Result<Chaos, ScenarioError> {
        let wrong = |reason| ScenarioError::Fault { what: "[chaos]".to_owned(), reason };
        let Self { every: [least, most], faults, .. } = self;
        if least == 0 || least > most {
            return Err(wrong("every is [least, most], and least is at least 1"));
        }
        if faults.iter().all(|fault| fault.weight == 0) {
            return Err(wrong("it has no fault with a weight"));
        }
        for (number, fault) in faults.iter().enumerate() {
            fault.kind(random).map_err(|reason| {
                let what = format!("[[chaos.faults]] number {}", number + 1);
                ScenarioError::Fault { what, reason }
            })?;
        }
        Ok(Chaos { every: least..=most, faults })
    }
}

impl Written {
    fn kind(&self, random: &mut StdRng) -> Result<FaultKind, &'static str> {
        let target = || self.target.ok_or("it needs a target");
        let line = || self.line.ok_or("it needs a line");
        let mut drawn = |span| match span {
            Span::Between([least, most]) if least > most => Err("a span is [least, most]"),
            Span::Exactly(exactly) => Ok(Duration::from_millis(exactly)),
            Span::Between([least, most]) => {
                Ok(Duration::from_millis(random.random_range(least..=most)))
            }
        };
        let mut span = || drawn(self.for_ms.ok_or("it needs for_ms")?);
        let kind = match self.r#do {
            What::Kill => FaultKind::Kill(target()?, span()?),
            What::Pause => FaultKind::Pause(target()?, span()?),
            What::Restart => FaultKind::Restart(target()?),
            What::Passthrough => FaultKind::Passthrough(span()?),
            What::Cut => FaultKind::Cut(line()?, span()?),
            What::Slow => {
                let span = span()?;
                FaultKind::Slow(line()?, drawn(self.by_ms.ok_or("it needs by_ms")?)?, span)
            }
            What::FailProposer => FaultKind::FailProposer,
            What::Outsider => FaultKind::Outsider,
            What::LateHead => FaultKind::LateHead(span()?),
            What::LatePayload => FaultKind::LatePayload(span()?),
            What::SkippedProposal => FaultKind::SkippedProposal(span()?),
            What::Reorg => FaultKind::Reorg,
            What::Wrong => FaultKind::Wrong(span()?),
        };
        let of_service = matches!(self.r#do, What::Kill | What::Pause | What::Restart);
        let of_line = matches!(self.r#do, What::Cut | What::Slow);
        match () {
            () if !of_service && self.target.is_some() => Err("it has no target"),
            () if !of_line && self.line.is_some() => Err("it has no line"),
            () if self.r#do != What::Slow && self.by_ms.is_some() => Err("it has no by_ms"),
            () => Ok(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAOS: &str = r#"
        [[at]]
        block = 3
        after_ms = 700
        do = "kill"
        target = "builder"
        for_ms = 300
        [chaos]
        from = 5
        every = [2, 4]
        faults = [
            { do = "pause", target = "gateway", for_ms = [100, 200], weight = 3 },
            { do = "reorg" },
            { do = "restart", target = "rpc-overlay", weight = 0 },
        ]
    "#;

    fn faults(seed: u64) -> Vec<Vec<Fault>> {
        let mut plan = Plan::parse(CHAOS, seed).unwrap();
        (1..=60).map(|block| plan.at(block)).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn what_is_written_happens_at_its_block_and_chaos_keeps_its_distance() {
        let faults = faults(1);
        let kind = FaultKind::Kill(Target::Builder, Duration::from_millis(300));
        assert_eq!(faults[2], [Fault { after: Duration::from_millis(700), kind }]);
        let drawn: Vec<_> = (4..60).filter(|block| !faults[*block].is_empty()).collect();
        assert_eq!(drawn[0], 4);
        assert!(drawn.windows(2).all(|pair| (2..=4).contains(&(pair[1] - pair[0]))));
        for fault in faults[4..].iter().flatten() {
            if let FaultKind::Pause(Target::Gateway, span) = &fault.kind {
                assert!((100..=200).contains(&span.as_millis()), "{span:?}");
            } else {
                assert_eq!(fault.kind, FaultKind::Reorg);
            }
        }
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_with_the_place() {
        for (text, expected) in [
            ("[[at]]\nblock = 1\ndo = \"kill\"", "[[at]] number 1: it needs a target"),
            (
                "[[at]]\nblock = 1\ndo = \"pause\"\ntarget = \"signer\"",
                "[[at]] number 1: it needs for_ms",
            ),
            (
                "[[at]]\nblock = 1\ndo = \"reorg\"\ntarget = \"signer\"",
                "[[at]] number 1: it has no target",
            ),
            (
                "[[at]]\nblock = 1\ndo = \"slow\"\nline = \"feed\"\nfor_ms = 9",
                "[[at]] number 1: it needs by_ms",
            ),
            (
                "[[at]]\nblock = 1\ndo = \"cut\"\nline = \"feed\"\nfor_ms = [9, 8]",
                "[[at]] number 1: a span is [least, most]",
            ),
            (
                "[chaos]\nevery = [0, 1]\nfaults = [{ do = \"reorg\" }]",
                "[chaos]: every is [least, most], and least is at least 1",
            ),
            ("[chaos]\nevery = [1, 1]\nfaults = []", "[chaos]: it has no fault with a weight"),
        ] {
            let refused = Plan::parse(text, 1).map(drop).map_err(|error| error.to_string());
            assert_eq!(refused, Err(expected.to_owned()));
        }
        for text in ["colour = 1", "[[at]]\nblock = 1\ndo = \"explode\"", "[[at]]\ndo = \"reorg\""]
        {
            assert!(matches!(Plan::parse(text, 1), Err(ScenarioError::Parse(_))), "{text}");
        }
    }
}
