//! The consumer's side of a chain: what it is told, in which order, and what it must make of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use alloy_primitives::{B256, Bytes};
use preconf_chain::Receipt;
use preconf_pending::{Audit, HeadRelation};
use preconf_primitives::RetractionCause;

use super::{Built, Place, hash, said};
use crate::{
    choices::Choices,
    feed::{
        Consumer, Heard, Known, Message, OpenSession, Sequencer, Split, base_of, compare, sendable,
        withdrawals_of,
    },
    random::{Tally, kind::Kind, world::World},
};

/// The most steps of the work on a session that is then abandoned, and one more.
const STEPS: u64 = 6;

/// A consumer, its sequencer, and what both must know.
pub(super) struct Receiver {
    world: &'static World,
    sequencer: Sequencer,
    consumer: Consumer,
    canonical: Place,
    /// The canonical block if it was promised, and its parent.
    newest: Option<(Place, Arc<Built>)>,
    /// Blocks above the canonical one, lowest first.
    waiting: VecDeque<Arc<Built>>,
    /// The session of the highest block.
    session: Option<OpenSession>,
    /// What was heard about blocks above the canonical one, with their numbers.
    heard: Vec<(u64, Heard)>,
}

impl Receiver {
    pub(super) fn new(world: &'static World, canonical: Place) -> Result<Self, String> {
        let sequencer = Sequencer::new(world.spec.chain_id());
        let consumer = Consumer::new(&world.spec, sequencer.public_key(), &canonical.known);
        let consumer = consumer.map_err(|error| said("starting a consumer", &error))?;
        let (waiting, heard) = (VecDeque::new(), Vec::new());
        let (newest, session) = (None, None);
        Ok(Self { world, sequencer, consumer, canonical, newest, waiting, session, heard })
    }

    /// The canonical block.
    pub(super) fn canonical(&self) -> &Place {
        &self.canonical
    }

    /// How many blocks are above it.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the lowest block above the canonical one.
    pub(super) fn take_promised(&mut self) -> Option<Arc<Built>> {
        self.waiting.pop_front()
    }

    /// Forgets the blocks above the canonical one. Says whether there were any.
    pub(super) fn drop_waiting(&mut self) -> bool {
        !mem::take(&mut self.waiting).is_empty()
    }

    /// Takes the canonical block, with its parent, if it was promised.
    pub(super) fn take_newest(&mut self) -> Option<(Place, Arc<Built>)> {
        self.newest.take()
    }

    /// Tells the consumer a block, flashblock by flashblock, and compares what it shows.
    pub(super) fn receive(
        &mut self,
        choices: &mut Choices<'_>,
        tally: &mut Tally,
        parent: &Known,
        built: &Arc<Built>,
    ) -> Result<(), String> {
        let header = &built.block.header;
        let number = header.number;
        let transactions = sendable(&built.block);
        if choices.once_in(6) {
            self.abandon(choices, tally, built, &transactions)?;
        }
        let mut session = self.sequencer.open(base_of(header), withdrawals_of(&built.block));
        let pieces = Split::Random.pieces(choices, transactions.len());
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            let heard = self.cut(&mut session, &transactions[piece], at == last)?;
            self.take(number, heard)?;
            tally.flashblocks += 1;
            if choices.once_in(10) {
                self.start_anew()?;
                tally.restarts += 1;
            }
        }
        let shown = self.consumer.whole(number).map_err(|error| said("received", &error))?;
        let (_, found) = compare(&self.world.spec, &parent.state, shown, header);
        if let Some(mismatch) = found.first() {
            return Err(format!("received, {mismatch}"));
        }
        self.waiting.push_back(built.clone());
        self.session = Some(session);
        Ok(())
    }

    /// Says which block the newest session has become, so that the next can be built on it.
    pub(super) fn seal(&mut self) -> Result<(), String> {
        let (Some(session), Some(built)) = (&self.session, self.waiting.back()) else {
            return Ok(());
        };
        let known = &built.place.known;
        let sealed = Message::Sealed(self.sequencer.sealed(session, known));
        let heard = self.hear(sealed)?;
        self.take(known.header.number, heard)
    }

    /// Begins a block and does not end it, or ends it and takes it back. The consumer may not have
    /// executed all of it by then.
    fn abandon(
        &mut self,
        choices: &mut Choices<'_>,
        tally: &mut Tally,
        built: &Built,
        transactions: &[Bytes],
    ) -> Result<(), String> {
        let number = built.block.header.number;
        let mut base = base_of(&built.block.header);
        base.prev_randao = hash(choices);
        let promised = choices.roll(transactions.len() as u64 + 1) as usize;
        let mut session = self.sequencer.open(base, withdrawals_of(&built.block));
        let is_last = choices.roll(2) == 1;
        let pieces = Split::Random.pieces(choices, promised);
        let last = pieces.len() - 1;
        if last > 0 {
            tally.note(Kind::AbandonedLate);
        }
        for (at, piece) in pieces.into_iter().enumerate() {
            let is_end = at == last;
            let heard = self.cut(&mut session, &transactions[piece], is_last && is_end)?;
            tally.flashblocks += 1;
            if is_end && choices.roll(2) == 1 {
                self.heard.push((number, heard.clone()));
                let steps = choices.roll(STEPS);
                let done = self.consumer.take_partly(heard, steps);
                if !done.map_err(|error| said("receiving in part", &error))? {
                    tally.note(Kind::AbandonedMidway);
                }
            } else {
                self.take(number, heard)?;
            }
        }
        tally.abandoned += 1;
        if choices.roll(2) == 1 {
            let abandoned = self.hear(Message::Abandoned(self.sequencer.abandoned(&session)))?;
            self.take(number, abandoned)?;
        }
        Ok(())
    }

    fn cut(
        &mut self,
        session: &mut OpenSession,
        transactions: &[Bytes],
        is_last: bool,
    ) -> Result<Heard, String> {
        let signed = self.sequencer.flashblock(session, transactions.to_vec(), is_last);
        let signed = signed.map_err(|error| said("cutting", &error))?;
        self.hear(Message::Flashblock(signed.into()))
    }

    fn hear(&self, message: Message) -> Result<Heard, String> {
        self.consumer.hear(message).map_err(|error| said("receiving", &error))
    }

    fn take(&mut self, number: u64, heard: Heard) -> Result<(), String> {
        self.heard.push((number, heard.clone()));
        self.consumer.take(heard).map_err(|error| said("receiving", &error))
    }

    /// Another consumer, which is told everything from the canonical block on.
    fn start_anew(&mut self) -> Result<(), String> {
        let failed = |error| said("receiving again", &error);
        let (spec, key) = (&self.world.spec, self.sequencer.public_key());
        self.consumer = Consumer::new(spec, key, &self.canonical.known).map_err(failed)?;
        for (_, heard) in &self.heard {
            self.consumer.take(heard.clone()).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes every block canonical that was promised.
    pub(super) fn catch_up(&mut self) -> Result<(), String> {
        while let Some(built) = self.waiting.pop_front() {
            let report = self.consumer.head(&built.place.known);
            let report = report.map_err(|error| said("becoming canonical", &error))?;
            if report.relation != HeadRelation::Ours {
                let relation = report.relation.as_str();
                return Err(format!("the canonical block is taken as {relation}"));
            }
            let kept = built.promised().count() as u64;
            let expected = Audit { kept, ..Audit::default() };
            if report.audit != expected {
                return Err(format!("the audit is {:?}, not {expected:?}", report.audit));
            }
            let below = self.go_to(built.place.clone());
            self.newest = Some((below, built));
        }
        Ok(())
    }

    /// Makes a block canonical in place of one that was promised, and checks what readers are told
    /// of the promises.
    pub(super) fn stand_in(
        &mut self,
        promised: &Built,
        other: Arc<Built>,
    ) -> Result<Place, String> {
        // What was taken back earlier is not news.
        self.consumer.take_retracted();
        let known = &other.place.known;
        let heard = self.consumer.head_with(known, other.content().collect());
        let (report, audit) = heard.map_err(|error| said("standing in", &error))?;
        let canonical: BTreeMap<B256, Receipt> = other.content().collect();
        let mut expected = Audit::default();
        let (mut altered, mut missing) = (BTreeSet::new(), BTreeSet::new());
        for (transaction, receipt) in promised.promised() {
            match canonical.get(&transaction) {
                Some(same) if *same == receipt => expected.kept += 1,
                Some(_) => drop(altered.insert(transaction)),
                None => drop(missing.insert(transaction)),
            }
        }
        let is_promised = promised.promised().next().is_some();
        let relation = if is_promised { HeadRelation::Foreign } else { HeadRelation::Unpromised };
        if report.relation != relation || audit.is_some() != is_promised {
            let (got, expected) = (report.relation.as_str(), relation.as_str());
            return Err(format!("a block in place of a promised one is {got}, not {expected}"));
        }
        let audit = audit.unwrap_or_default();
        // What was announced before is not missing, but retracted.
        let lost = missing.len() as u64;
        (expected.altered, expected.retracted) = (altered.len() as u64, audit.retracted);
        expected.missing = lost.saturating_sub(audit.retracted);
        if audit != expected {
            return Err(format!("standing in, the audit is {audit:?}, not {expected:?}"));
        }
        self.check_news(&altered, &missing, expected.missing)?;
        self.newest = None;
        self.waiting.clear();
        self.go_to(other.place.clone());
        Ok(other.place.clone())
    }

    /// Whether readers were told what they had to be, and nothing else.
    fn check_news(
        &mut self,
        altered: &BTreeSet<B256>,
        missing: &BTreeSet<B256>,
        new: u64,
    ) -> Result<(), String> {
        let mut told = 0;
        for retraction in self.consumer.take_retracted() {
            let is_so = match retraction.cause {
                RetractionCause::BlockReplaced => {
                    told += 1;
                    missing.contains(&retraction.transaction)
                }
                RetractionCause::OutcomeChanged => altered.contains(&retraction.transaction),
                RetractionCause::NoLongerValid | RetractionCause::NoRoom => false,
            };
            if !is_so {
                return Err(format!("standing in, {retraction:?} is told"));
            }
        }
        if told == new { Ok(()) } else { Err(format!("{told} of {new} lost promises are told")) }
    }

    /// Takes a block for the canonical one. Returns the one that was it.
    fn go_to(&mut self, place: Place) -> Place {
        // What was said before it, of blocks that went with those they stood on, too: a feed has no
        // holes.
        let settled = |(number, _): &(u64, Heard)| *number <= place.known.header.number;
        let after = self.heard.iter().rposition(settled).map_or(0, |last| last + 1);
        self.heard.drain(..after);
        mem::replace(&mut self.canonical, place)
    }
}

impl Built {
    /// Its transactions with their receipts.
    fn content(&self) -> impl Iterator<Item = (B256, Receipt)> + '_ {
        let transactions = self.block.body.transactions.iter();
        let hashes = transactions.map(|transaction| *transaction.hash());
        hashes.zip(self.receipts.iter().cloned())
    }

    /// What readers were promised of it: not the chain's own transaction.
    fn promised(&self) -> impl Iterator<Item = (B256, Receipt)> + '_ {
        self.content().skip(usize::from(self.block.header.prev_proposer_pubkey.is_some()))
    }
}
