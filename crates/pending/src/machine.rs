//! The receiving machine: what it takes and what it says about it.
//!
//! The driver hands over what arrives, calls [`Machine::work`] until there is nothing to do, carries
//! out what [`Machine::poll_effect`] yields and reads the state that [`Machine::need`] names. The
//! rules, in the order in which they apply:
//!
//! * Every flashblock goes through [`Progress::succession`]. What does not follow is counted and
//!   changes nothing. What is missing is asked for, once, from the first missing position on; also
//!   what the digest before a new session, or a session that ended without a word, shows to be
//!   missing.
//! * A session is executed when what it builds upon is known: the canonical head, or a block of a
//!   session below whose own header has the hash that the sequencer sealed. Of two sessions on one
//!   block the newer counts. At most [`MAX_DEPTH`] blocks are pending.
//! * Before its first transaction its environment is checked by the rules of the chain. A session
//!   whose environment cannot follow, or that holds a transaction that cannot be executed, goes no
//!   further; what readers were shown before stays.
//! * A canonical block that is one of ours leaves the pending chain without being executed again.
//!   Any other drops what was built on its place.
//!
//! Invariants: only verified input is taken; the machine touches memory only; sessions and their
//! bytes are bounded by [`Limits`].

mod canonical;
mod report;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use alloy_primitives::B256;
use preconf_chain::{ChainSpec, Header};
use preconf_primitives::{
    Abandoned, Arrival, Digest, Position, Progress, Retracted, Sealed, Seq, Succession,
};
use preconf_signing::{SignedStatement, Verified};
use preconf_state::{Overlay, StateCache};

pub use canonical::{HeadRelation, HeadReport};
pub use report::{Effect, Evidence, Need, Reception, StatementReception, Step};

use crate::{
    execution::{Below, Progressed, Refusal},
    promises::Promises,
    received::Received,
    repair::Repair,
    session::{Finality, Session},
};

/// The most blocks of a pending chain.
pub const MAX_DEPTH: usize = 8;
/// How many statements are remembered to know a repeated one.
const MAX_STATEMENTS: usize = 64;

/// What the machine may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most sessions. Beyond it the oldest that nobody is shown are forgotten.
    pub sessions: usize,
    /// The most bytes of transactions in all sessions. As with sessions; a session that does not
    /// fit even so is refused.
    pub bytes: usize,
    /// The most bytes of transactions in one session.
    pub session_bytes: usize,
    /// The capacity of the cache of canonical state.
    pub cache: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 64,
            bytes: 128 * 1024 * 1024,
            session_bytes: 32 * 1024 * 1024,
            cache: 1 << 20,
        }
    }
}

/// A block of the canonical chain. The hash is that of the header; the caller has checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalHead {
    /// Its hash.
    pub hash: B256,
    /// Its header.
    pub header: Header,
}

/// The receiving machine.
#[derive(Debug)]
pub struct Machine {
    spec: Arc<ChainSpec>,
    limits: Limits,
    /// Whether the feed says nothing of how a session ended.
    is_unsealed: bool,
    progress: Progress,
    repair: Repair,
    sessions: BTreeMap<Seq, Session>,
    /// The canonical head and what is known of the state after it.
    canonical: Option<(CanonicalHead, StateCache)>,
    /// Hashes of the blocks below the canonical head, oldest first.
    ancestors: VecDeque<B256>,
    promises: Promises,
    statements: VecDeque<Digest>,
    shown: show::Shown,
    need: Option<Need>,
    needs: u64,
    effects: VecDeque<Effect>,
}

impl Machine {
    /// A machine that has received nothing.
    pub fn new(spec: Arc<ChainSpec>, limits: Limits) -> Self {
        Self {
            spec,
            limits,
            is_unsealed: false,
            progress: Progress::new(),
            repair: Repair::default(),
            sessions: BTreeMap::new(),
            canonical: None,
            ancestors: VecDeque::new(),
            promises: Promises::default(),
            statements: VecDeque::new(),
            shown: show::Shown::new(),
            need: None,
            needs: 0,
            effects: VecDeque::new(),
        }
    }

    /// The machine for a feed that carries flashblocks and no statements: that nothing is said of a
    /// session's end does not show that something is missing. A session then becomes a block only
    /// when its block is canonical, so that one block is pending at a time.
    #[must_use]
    pub const fn unsealed(mut self) -> Self {
        self.is_unsealed = true;
        self
    }

    /// Takes a flashblock.
    pub fn flashblock(&mut self, received: Received, now: Instant) -> Reception {
        let arrival = Arrival::of(received.flashblock(), received.digest());
        match self.progress.succession(&arrival) {
            succession @ (Succession::NewSession | Succession::Rewind) => {
                let missing = self.missing_before(&arrival, succession);
                if let Some(missing) = missing.filter(|at| !self.repair.was_in_vain(*at)) {
                    self.ask_for(missing, now);
                    return Reception::Gap(missing);
                }
                if succession == Succession::Rewind {
                    self.take_back_above(arrival.block_number);
                }
                self.accept(&arrival);
                self.open(received)
            }
            Succession::Next => {
                self.accept(&arrival);
                self.extend(received)
            }
            Succession::Duplicate => Reception::Duplicate,
            Succession::Stale => Reception::Stale,
            Succession::AfterLast => Reception::AfterLast,
            Succession::Equivocation => Reception::Equivocation(Box::new(self.evidence(received))),
            Succession::Gap(missing) => {
                self.ask_for(missing, now);
                Reception::Gap(missing)
            }
        }
    }

    /// Takes the statement that a session became a block.
    pub fn sealed(
        &mut self,
        signed: Verified<SignedStatement<Sealed>>,
        now: Instant,
    ) -> StatementReception {
        let sealed = &signed.get().statement;
        let session = match self.stated(sealed.seq, sealed.block_number, sealed.last_digest, now) {
            Ok(session) => session,
            Err(reception) => return reception,
        };
        if !session.is_ended() {
            return StatementReception::Contradiction;
        }
        if session.is_settled() {
            return match session.sealed() {
                Some(known) if known == sealed => StatementReception::Duplicate,
                Some(_) | None => StatementReception::Contradiction,
            };
        }
        let reception = match session.seal(sealed.clone()) {
            Finality::Confirmed | Finality::Open => StatementReception::Accepted,
            Finality::Diverged(refusal) => StatementReception::Diverged(refusal),
        };
        self.publish();
        reception
    }

    /// Takes the statement that a session ended without a block.
    pub fn abandoned(
        &mut self,
        signed: Verified<SignedStatement<Abandoned>>,
        now: Instant,
    ) -> StatementReception {
        let abandoned = &signed.get().statement;
        let Abandoned { seq, block_number, last_digest, .. } = *abandoned;
        match self.stated(seq, block_number, last_digest, now) {
            Ok(session) if session.sealed().is_some() => StatementReception::Contradiction,
            Ok(session) if session.is_settled() => StatementReception::Duplicate,
            Ok(session) => {
                session.abandon();
                StatementReception::Accepted
            }
            Err(reception) => reception,
        }
    }

    /// Takes the statement that transactions are no longer promised, and passes it on. What was
    /// promised anew after it was said stays promised: statements can be replayed.
    pub fn retracted(
        &mut self,
        signed: Verified<SignedStatement<Retracted>>,
    ) -> StatementReception {
        if self.statements.contains(&signed.digest()) {
            return StatementReception::Duplicate;
        }
        if self.statements.len() == MAX_STATEMENTS {
            self.statements.pop_front();
        }
        self.statements.push_back(signed.digest());
        let Retracted { at, block_number, retractions } = &signed.get().statement;
        let later = self.sessions.range(at.seq..).map(|(_, session)| session);
        let anew: BTreeSet<B256> = later.flat_map(|session| session.executed_after(*at)).collect();
        let meant = retractions.iter().filter(|said| !anew.contains(&said.transaction));
        self.promises.take_back(&meant.copied().collect::<Vec<_>>(), *block_number);
        self.publish();
        StatementReception::Accepted
    }

    /// Takes the hint that the feed cannot replay what was wanted and goes on at `next`.
    pub fn not_replayed(&mut self, wanted: Position, next: Position) {
        self.repair.give_up(wanted, next);
    }

    /// Takes note that the state named by a need is in its cache.
    pub fn state_arrived(&mut self, id: u64) {
        self.need = self.need.take().filter(|need| need.id != id);
    }

    /// Does one thing: begins a session, executes a flashblock, or ends a session.
    pub fn work(&mut self) -> Step {
        let line = self.line();
        let Some((&seq, lower)) = line.split_last() else {
            self.need = None;
            return Step::Idle;
        };
        if self.need.as_ref().is_some_and(|need| need.seq == seq) {
            return Step::Waiting;
        }
        self.need = None;
        let is_waiting = self.sessions.get(&seq).is_some_and(Session::is_waiting);
        let below = if is_waiting { self.below(lower) } else { None };
        let Some(session) = self.sessions.get_mut(&seq) else { return Step::Idle };
        let progressed = session.step(&self.spec, below);
        self.progressed(seq, progressed)
    }

    /// Where the execution is: the first flashblock that is not executed of the session whose turn
    /// it is, received or not.
    pub fn next_position(&self) -> Option<Position> {
        let seq = *self.line().last()?;
        let executed = self.sessions.get(&seq)?.executed().len() as u64;
        Some(Position::new(seq, executed))
    }

    /// The state that the execution waits for.
    pub const fn need(&self) -> Option<&Need> {
        self.need.as_ref()
    }

    /// What the driver is to do next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Where to resume the feed: at what is missing; at what came last, so that what was said after
    /// it comes again; at first, where the feed begins, since the current session may build on a
    /// block that is not canonical yet either.
    pub fn cursor(&self) -> Position {
        self.repair.awaited().or_else(|| self.progress.position()).unwrap_or_default()
    }

    /// The canonical head.
    pub fn canonical(&self) -> Option<&CanonicalHead> {
        self.canonical.as_ref().map(|(head, _)| head)
    }

    /// The number of the block that the newest session builds.
    pub fn newest_number(&self) -> Option<u64> {
        self.progress.block_number()
    }

    /// How many sessions are held, and how many bytes of transactions.
    pub fn held(&self) -> (usize, usize) {
        (self.sessions.len(), self.sessions.values().map(|session| session.bytes).sum())
    }

    fn progressed(&mut self, seq: Seq, progressed: Progressed) -> Step {
        match progressed {
            Progressed::Idle => Step::Idle,
            Progressed::Opened => Step::Opened(seq),
            Progressed::Executed(executed) => {
                self.publish();
                Step::Executed(executed)
            }
            Progressed::Closed => {
                let finality = self.sessions.get_mut(&seq).map(Session::confirm);
                self.publish();
                match finality {
                    Some(Finality::Diverged(refusal)) => self.refused(seq, refusal),
                    Some(Finality::Confirmed | Finality::Open) | None => Step::Closed(seq),
                }
            }
            Progressed::Need(cache, keys) => {
                self.needs += 1;
                self.need = Some(Need { id: self.needs, cache, keys, seq });
                Step::Waiting
            }
            Progressed::Refused(refusal) => {
                self.publish();
                self.refused(seq, refusal)
            }
        }
    }

    fn refused(&self, seq: Seq, refusal: Refusal) -> Step {
        let executed = self.sessions.get(&seq).map_or(0, |session| session.executed().len());
        Step::Refused { position: Position::new(seq, executed as u64), refusal }
    }

    /// What a session on top of these is executed on.
    fn below(&self, lower: &[Seq]) -> Option<Below> {
        let (head, cache) = self.canonical.as_ref()?;
        let mut header = head.header.clone();
        let mut overlay = Overlay::new(cache.clone());
        for seq in lower {
            let session = self.sessions.get(seq)?;
            let (hash, own) = session.block()?;
            overlay.push_layer(session.closed()?.diff.clone());
            overlay.set_block_hash(session.number, *hash);
            header = own.clone();
        }
        Some(Below { header, overlay })
    }

    fn accept(&mut self, arrival: &Arrival) {
        self.progress.accept(arrival);
        self.repair.reached(arrival.position);
    }

    fn open(&mut self, received: Received) -> Reception {
        let head = self.canonical().map_or(0, |head| head.header.number);
        if received.flashblock().block_number() <= head {
            return Reception::Late;
        }
        let bytes = received.flashblock().transaction_bytes();
        if !self.make_room(1, bytes) {
            return Reception::NoRoom;
        }
        if let Some(session) = Session::open(received) {
            self.sessions.insert(session.seq, session);
        }
        Reception::Accepted
    }

    fn extend(&mut self, received: Received) -> Reception {
        let seq = received.flashblock().seq();
        let bytes = received.flashblock().transaction_bytes();
        if !self.sessions.contains_key(&seq) {
            return Reception::Late;
        }
        let has_room = self.make_room(0, bytes);
        let limit = self.limits.session_bytes;
        let Some(session) = self.sessions.get_mut(&seq) else { return Reception::NoRoom };
        if !has_room || session.bytes + bytes > limit {
            session.refuse(Refusal::TooLarge);
            return Reception::NoRoom;
        }
        session.push(received);
        Reception::Accepted
    }

    /// Forgets the oldest sessions that nobody is shown until there is room for so many more
    /// sessions and bytes. Says whether there is.
    fn make_room(&mut self, sessions: usize, bytes: usize) -> bool {
        let newest = self.progress.position().map(|position| position.seq);
        loop {
            let (count, held) = self.held();
            if count + sessions <= self.limits.sessions && held + bytes <= self.limits.bytes {
                return true;
            }
            let spare = self.sessions.values().find(|session| {
                !self.shown.has(session.seq) && session.promised == 0 && Some(session.seq) != newest
            });
            let Some(seq) = spare.map(|session| session.seq) else { return false };
            self.sessions.remove(&seq);
        }
    }

    /// What the beginning of a new session shows to be missing before it.
    fn missing_before(&self, arrival: &Arrival, succession: Succession) -> Option<Position> {
        let last = self.progress.position()?;
        if self.progress.digest() != Some(arrival.parent_digest) {
            return Some(Position::new(last.seq, last.index + 1));
        }
        // A block is followed by a higher one only if it was sealed, and that is said first.
        let is_silent = !self.is_unsealed
            && self.progress.is_ended()
            && succession == Succession::NewSession
            && self.sessions.get(&last.seq).is_some_and(|session| !session.is_settled());
        is_silent.then_some(last)
    }

    fn ask_for(&mut self, missing: Position, now: Instant) {
        if self.repair.ask(missing, now) {
            self.effects.push_back(Effect::RequestReplay(missing));
        }
    }

    /// The session that a statement is about, if it fits to what was received of it.
    fn stated(
        &mut self,
        seq: Seq,
        number: u64,
        last_digest: Digest,
        now: Instant,
    ) -> Result<&mut Session, StatementReception> {
        let is_newest = self.progress.position().filter(|position| position.seq == seq);
        let Some(session) = self.sessions.get(&seq) else {
            return Err(StatementReception::Unknown);
        };
        let is_whole = session.last_digest() == Some(last_digest) && session.number == number;
        if !is_whole {
            if session.is_ended() {
                return Err(StatementReception::Contradiction);
            }
            let Some(last) = is_newest else { return Err(StatementReception::Unknown) };
            let missing = Position::new(seq, last.index + 1);
            self.ask_for(missing, now);
            return Err(StatementReception::Gap(missing));
        }
        self.sessions.get_mut(&seq).ok_or(StatementReception::Unknown)
    }

    /// A newer session builds this block anew: what was built on the old one is void.
    fn take_back_above(&mut self, number: u64) {
        for session in self.sessions.values_mut().filter(|session| session.number > number) {
            session.is_void = true;
        }
    }

    fn evidence(&self, other: Received) -> Evidence {
        let Position { seq, index } = other.flashblock().position();
        let session = self.sessions.get(&seq);
        let at = |index| session.and_then(|session| session.flashblock(index)).cloned();
        let known = at(index).or_else(|| at(index.checked_sub(1)?));
        Evidence { known, other }
    }
}
