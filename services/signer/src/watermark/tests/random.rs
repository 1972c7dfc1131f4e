//! Random interleavings of two builders.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What a builder may ask, right or wrong.
#[derive(Clone, Debug)]
enum Ask {
    Acquire,
    Renew,
    Open {
        block_number: u64,
    },
    /// The position relative to the next one, and which of two contents.
    Sign {
        session: usize,
        index: u64,
        content: u64,
        is_last: bool,
        linked: bool,
    },
    Abandon {
        session: usize,
        reason: usize,
    },
    Seal {
        session: usize,
        block_hash: u8,
    },
    Retract {
        session: usize,
        transaction: u8,
    },
    Release,
    Pass {
        seconds: u64,
    },
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        1 => Just(Ask::Acquire),
        1 => Just(Ask::Renew),
        3 => (98u64..104).prop_map(|block_number| Ask::Open { block_number }),
        12 => (0usize..3, 0u64..4, 0u64..2, prop::bool::weighted(0.1), prop::bool::weighted(0.9))
            .prop_map(|(session, index, content, is_last, linked)| Ask::Sign {
                session, index, content, is_last, linked
            }),
        1 => (0usize..2, 0usize..2).prop_map(|(session, reason)| Ask::Abandon { session, reason }),
        1 => (0usize..2, 0u8..2)
            .prop_map(|(session, block_hash)| Ask::Seal { session, block_hash }),
        1 => (0usize..2, 0u8..2)
            .prop_map(|(session, transaction)| Ask::Retract { session, transaction }),
        1 => Just(Ask::Release),
        1 => (0u64..8).prop_map(|seconds| Ask::Pass { seconds }),
    ]
}

/// What two builders did to one machine, and what must stay true of it.
struct World {
    bench: Bench,
    /// The epoch each of the two builders believes it holds.
    epochs: [Epoch; 2],
    seqs: Vec<Seq>,
    signed: BTreeMap<Position, (SignFlashblock, Entry)>,
    ended: BTreeMap<Seq, End>,
    dead: BTreeSet<Epoch>,
}

impl World {
    fn new() -> Self {
        let (bench, epoch) = Bench::leased();
        Self {
            bench,
            epochs: [epoch, START.epoch],
            seqs: Vec::new(),
            signed: BTreeMap::new(),
            ended: BTreeMap::new(),
            dead: BTreeSet::new(),
        }
    }

    /// The `back`-th newest session.
    fn seq(&self, back: usize) -> Seq {
        let at = self.seqs.len().checked_sub(back + 1);
        at.map_or(START.seq, |at| self.seqs[at])
    }

    fn ask(&mut self, who: usize, ask: &Ask) -> Result<(), TestCaseError> {
        let epoch = self.epochs[who];
        match *ask {
            Ask::Acquire => {
                if let Ok(given) = self.bench.acquire(["a", "b"][who]) {
                    prop_assert!(self.epochs.iter().all(|&old| old < given));
                    self.dead.extend(self.epochs);
                    self.epochs[who] = given;
                }
            }
            Ask::Renew => {
                let renewed = self.bench.renew(epoch).is_ok();
                prop_assert!(!renewed || !self.dead.contains(&epoch));
            }
            Ask::Open { block_number } => {
                if let Ok(opened) = self.bench.open_block(epoch, block_number) {
                    prop_assert!(!self.dead.contains(&epoch));
                    let seq = opened.session.seq;
                    prop_assert!(self.seqs.last().is_none_or(|&last| last < seq));
                    self.seqs.push(seq);
                }
            }
            Ask::Sign { session, index, content, is_last, linked } => {
                let seq = self.seq(session);
                let next =
                    self.bench.machine.history.get(seq).map_or(0, |log| log.next_position().index);
                let parent_digest =
                    if linked { self.bench.machine.tip().digest } else { Digest::ZERO };
                // One past the next position, the next one, and two before it.
                let index = (next + 1).saturating_sub(index);
                let request = SignFlashblock {
                    is_last,
                    ..flashblock(epoch, seq, index, content, parent_digest)
                };
                self.sign(request)?;
                self.repeat()?;
            }
            Ask::Abandon { session, reason } => {
                let seq = self.seq(session);
                if let Ok(done) = self.bench.abandon(epoch, seq, AbandonReason::ALL[reason]) {
                    self.end(epoch, seq, End::Abandoned(done.into_inner()))?;
                }
            }
            Ask::Seal { session, block_hash } => {
                let seq = self.seq(session);
                if let Ok(done) = self.bench.seal(epoch, seq, B256::repeat_byte(block_hash)) {
                    self.end(epoch, seq, End::Sealed(done.into_inner()))?;
                }
            }
            Ask::Retract { session, transaction } => {
                let at = Position::new(self.seq(session), 0);
                let signed = self.bench.retract(epoch, &retraction(at, transaction)).is_ok();
                prop_assert!(!signed || !self.dead.contains(&epoch));
            }
            Ask::Release => {
                if self.bench.release(epoch).is_ok() {
                    prop_assert!(self.dead.insert(epoch), "a dead epoch was given back");
                }
            }
            Ask::Pass { seconds } => self.bench.now += Duration::from_secs(seconds),
        }
        Ok(())
    }

    fn sign(&mut self, request: SignFlashblock) -> Result<(), TestCaseError> {
        let Position { seq, index } = request.position;
        let Ok(decision) = self.bench.sign(&request) else { return Ok(()) };
        prop_assert!(!self.dead.contains(&request.epoch), "a dead epoch signed {}:{}", seq, index);
        let entry = *decision.get();
        if let Some((_, before)) = self.signed.get(&request.position) {
            prop_assert_eq!(before.digest, entry.digest, "two contents at one position");
            prop_assert!(matches!(decision, Decision::Known(_)));
            return Ok(());
        }
        prop_assert!(matches!(decision, Decision::New(_)));
        prop_assert!(!self.ended.contains_key(&seq), "signed after the end");
        prop_assert_eq!(Some(&seq), self.seqs.last(), "only the newest session is continued");
        let last = self.signed.values().next_back().map(|(_, last)| *last);
        prop_assert_eq!(entry.parent_digest, last.map_or(Digest::ZERO, |last| last.digest));
        prop_assert!(last.is_none_or(|last| last.position < entry.position));
        match index.checked_sub(1) {
            Some(before) => {
                let (_, before) = self.signed[&Position::new(seq, before)];
                prop_assert!(!before.is_last, "signed after the last one");
            }
            None => prop_assert!(last.is_none_or(|last| last.position.seq < seq)),
        }
        self.signed.insert(request.position, (request, entry));
        Ok(())
    }

    /// Whatever was signed by the living epoch gets the same answer again.
    fn repeat(&mut self) -> Result<(), TestCaseError> {
        let newest = self.bench.machine.tip().epoch;
        for (request, entry) in self.signed.values() {
            let again = self.bench.machine.sign(request, self.bench.now);
            if let Ok(again) = again {
                prop_assert_eq!(again, Decision::Known(*entry));
            } else {
                prop_assert_eq!(reason(again), Reason::LeaseLost);
            }
            let survives = SignFlashblock { epoch: newest, ..*request };
            if self.bench.machine.leases.require(newest, self.bench.now).is_ok() {
                let again = self.bench.machine.sign(&survives, self.bench.now);
                prop_assert_eq!(again, Ok(Decision::Known(*entry)));
            }
        }
        Ok(())
    }

    fn end(&mut self, epoch: Epoch, seq: Seq, end: End) -> Result<(), TestCaseError> {
        prop_assert!(!self.dead.contains(&epoch));
        let first = self.ended.entry(seq).or_insert_with(|| end.clone());
        prop_assert_eq!(&*first, &end, "a session has two ends");
        Ok(())
    }
}

proptest! {
    /// Two builders that both believe they hold the lease, in any order: whatever they ask, what
    /// is signed is one chain.
    #[test]
    fn no_interleaving_of_two_builders_makes_the_signer_contradict_itself(
        asks in prop::collection::vec((0usize..2, ask()), 0..120)
    ) {
        let mut world = World::new();
        for (who, ask) in &asks {
            world.ask(*who, ask)?;
        }
    }

    /// A signer that is killed anywhere and started again is the one that was never stopped, and so
    /// is one whose record was written anew in between.
    #[test]
    fn a_machine_rebuilt_from_its_record_is_the_one_that_was_never_stopped(
        asks in prop::collection::vec((0usize..2, ask()), 0..120),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        for (who, ask) in &asks {
            world.ask(*who, ask)?;
        }
        let Bench { machine, lines, .. } = world.bench;
        let (before, after) = lines.split_at(cut.index(lines.len() + 1));
        let mut rebuilt = Bench::new().machine;
        for (record, at) in before {
            prop_assert_eq!(rebuilt.apply(record, *at), Ok(()));
        }
        let mut anew = Watermark::new(bounds(), Seed::default());
        for record in rebuilt.condensed() {
            prop_assert_eq!(anew.apply(&record, Duration::from_secs(1_000_000)), Ok(()));
        }
        prop_assert_eq!(&anew, &rebuilt);
        for (record, at) in after {
            prop_assert_eq!(anew.apply(record, *at), Ok(()));
        }
        prop_assert_eq!(anew, machine);
    }
}
