//! A machine with everything around it: a chain, a sequencer, and a reader who follows.

use std::time::{Duration, Instant};

use alloy_primitives::B256;
use preconf_chain::Transaction;
use preconf_pending::{
    Audit, CanonicalHead, Current, Effect, HeadReport, Limits, Machine, Received, Reception,
    Refusal, StatementReception, Step,
    snapshot::{Snapshot, SnapshotStore},
};
use preconf_primitives::{Abandoned, Position, Retracted, Retraction, Sealed};
use preconf_signing::{Checked, SignedFlashblock, SignedStatement, Verifier};

use crate::support::{Building, Known, Sequencer, States, genesis};

pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) sequencer: Sequencer,
    pub(crate) genesis: Known,
    pub(crate) states: States,
    pub(crate) verifier: Verifier,
    pub(crate) now: Instant,
    /// What the machine asked to be replayed.
    pub(crate) replays: Vec<Position>,
    /// What the machine wants to know of canonical blocks.
    pub(crate) fetches: Vec<B256>,
    pub(crate) refusals: Vec<(Position, Refusal)>,
    pub(crate) retracted: Vec<Retraction>,
    /// How often flashblocks were executed, and how often the state was asked for.
    pub(crate) executed: usize,
    pub(crate) asked: usize,
    store: SnapshotStore,
    pub(crate) current: Current,
    pub(crate) snapshots: Vec<Snapshot>,
}

impl Rig {
    /// A machine that knows the genesis to be the head.
    pub(crate) fn new() -> Self {
        let mut rig = Self::without_head(Limits::default());
        rig.head(&rig.genesis.clone());
        rig
    }

    pub(crate) fn without_head(limits: Limits) -> Self {
        let (spec, genesis) = genesis();
        let sequencer = Sequencer::new(&spec, 1);
        let verifier = Verifier::new(spec.chain_id(), vec![sequencer.public_key()]);
        Self {
            machine: Machine::new(spec, limits),
            sequencer,
            genesis,
            states: States::default(),
            verifier,
            now: Instant::now(),
            replays: Vec::new(),
            fetches: Vec::new(),
            refusals: Vec::new(),
            retracted: Vec::new(),
            executed: 0,
            asked: 0,
            store: SnapshotStore::new(),
            current: Current::new(),
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn received(&self, signed: &SignedFlashblock) -> Received {
        Received::decode(self.verifier.flashblock(signed.clone(), Checked::Both).unwrap())
    }

    /// Delivers a flashblock and lets the machine work.
    pub(crate) fn deliver(&mut self, signed: &SignedFlashblock) -> Reception {
        let reception = self.machine.flashblock(self.received(signed), self.now);
        self.run();
        reception
    }

    pub(crate) fn sealed(&mut self, signed: &SignedStatement<Sealed>) -> StatementReception {
        let verified = self.verifier.sealed(signed.clone()).unwrap();
        let reception = self.machine.sealed(verified, self.now);
        self.run();
        reception
    }

    pub(crate) fn abandoned(&mut self, signed: &SignedStatement<Abandoned>) -> StatementReception {
        let verified = self.verifier.abandoned(signed.clone()).unwrap();
        let reception = self.machine.abandoned(verified, self.now);
        self.run();
        reception
    }

    pub(crate) fn take_back(&mut self, signed: &SignedStatement<Retracted>) -> StatementReception {
        let verified = self.verifier.retracted(signed.clone()).unwrap();
        let reception = self.machine.retracted(verified);
        self.run();
        reception
    }

    /// Tells the machine of a canonical block.
    pub(crate) fn head(&mut self, known: &Known) -> HeadReport {
        self.states.insert(known);
        let head = CanonicalHead { hash: known.hash, header: known.header.clone() };
        let report = self.machine.head(head);
        self.run();
        report
    }

    pub(crate) fn content(&mut self, known: &Known) -> Option<Audit> {
        let audit = self.machine.content(known.hash, Some(&known.content()));
        self.run();
        audit
    }

    /// Publishes a whole block in flashblocks of these transactions, ends it and seals it.
    pub(crate) fn whole_block(
        &mut self,
        parent: &Known,
        flashblocks: &[&[Transaction]],
    ) -> (Building, Known) {
        let mut building = self.sequencer.open(parent);
        for transactions in flashblocks {
            let signed = self.sequencer.flashblock(&mut building, transactions);
            self.deliver(&signed);
        }
        let last = self.sequencer.last(&mut building, &[]);
        self.deliver(&last);
        let (sealed, known) = self.sequencer.seal(&building);
        self.sealed(&sealed);
        (building, known)
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets the machine work, answers what it needs and follows what it publishes.
    pub(crate) fn run(&mut self) {
        loop {
            match self.machine.work() {
                Step::Idle => break,
                Step::Waiting => {
                    let need = self.machine.need().unwrap().clone();
                    self.states.fill(&need.cache, &need.keys);
                    self.asked += 1;
                    self.machine.state_arrived(need.id);
                }
                Step::Opened(_) | Step::Closed(_) => (),
                Step::Executed(_) => self.executed += 1,
                Step::Refused { position, refusal } => self.refusals.push((position, refusal)),
            }
        }
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::RequestReplay(position) => self.replays.push(position),
                Effect::FetchCanonical(hash) => self.fetches.push(hash),
                Effect::Publish(update) => {
                    self.retracted.extend(&update.retracted);
                    self.snapshots.push(self.store.apply(&update).unwrap());
                    self.current.apply(update);
                }
            }
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        self.snapshots.last().unwrap()
    }

    /// The transactions of the pending blocks that readers are shown.
    pub(crate) fn shown(&self) -> Vec<Vec<B256>> {
        let blocks = self.snapshot().blocks.iter();
        let hashes = |block: &preconf_pending::snapshot::PendingBlock| {
            block.transactions().map(|executed| *executed.transaction.hash()).collect()
        };
        blocks.map(hashes).collect()
    }
}
