//! What may be signed: the machine that keeps the signer from contradicting itself (D4).
//!
//! Each question is answered by a decision and changes nothing; [`Watermark::commit`] then records
//! what was decided as new. Whoever drives the machine keeps the order: decide, commit, have the
//! record on disk if there is one, and only then sign. A machine that [`Watermark::apply`]s the same
//! records, at the same times, comes to the same state.
//!
//! Invariants:
//! * no position ever gets two contents, and no session two ends;
//! * session numbers and epochs only grow;
//! * only the newest session is continued, by the epoch that opened it, and not after its end;
//! * a lower epoch is refused for ever after a higher one was given;
//! * what a builder asks cannot keep the next one from signing for longer than a few blocks.
//!
//! Contents are compared by digest. The machine holds no key, does no IO and reads no clock: time
//! comes in as the duration since some fixed instant, and never goes back.

mod checkpoint;
mod history;
mod lease;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use preconf_primitives::{
    AbandonReason, Abandoned, Arrival, Digest, Epoch, Position, Progress, Sealed, Seq, Session,
    Succession,
};
use preconf_signing::{OpenSession, SignFlashblock, SignerRefusalReason as Reason, v2};

pub use checkpoint::Checkpoint;
pub use history::MAX_SESSIONS;
pub use lease::{Grant, Lease, LeaseBounds};
pub use record::{Contradiction, Decision, Entry, Opened, Record, Refused, RetractionList};

use history::{End, History, SessionLog};
use lease::Leases;

/// How many sessions may be open for one block number, of the last [`MAX_SESSIONS`].
pub const MAX_SESSIONS_PER_BLOCK: usize = 16;
/// How far above the highest block number of its lease a session may be opened at once.
///
/// A new lease begins anywhere: the mistakes of one builder do not bind the next one.
pub const MAX_STEP: u64 = 64;
/// How many blocks may be skipped for each second that passed since the highest one was opened, so
/// that a builder may come back after its chain went on without it. No chain is faster than this.
pub const MAX_BLOCKS_PER_SECOND: u64 = 10;
/// How many lists of retractions are remembered.
pub const MAX_RETRACTION_LISTS: usize = 64;

/// The numbers to go on from: the first lease and the first session get the ones that follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The highest epoch that may have been given before.
    pub epoch: Epoch,
    /// The highest session number that may have been used before.
    pub seq: Seq,
}

impl Seed {
    /// Takes both numbers from the clock, in milliseconds.
    ///
    /// A signer that is restarted without a record, or with an old copy of it, thereby goes on above
    /// the numbers it used, as long as the clock was not set back and it opened fewer than a thousand
    /// sessions a second.
    pub fn from_clock(now: SystemTime) -> Self {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        Self { epoch: Epoch::new(millis), seq: Seq::new(millis) }
    }
}

/// How far the signer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The newest epoch.
    pub epoch: Epoch,
    /// The newest session.
    pub last_seq: Seq,
    /// The last signed position.
    pub position: Option<Position>,
    /// The last signed digest, zero before the first.
    pub digest: Digest,
}

/// What was signed so far, and what may be signed next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    leases: Leases,
    last_seq: Seq,
    /// New sessions get numbers above it.
    floor: Seq,
    progress: Progress,
    history: History,
    highest: Option<Highest>,
    retracted: VecDeque<RetractionList>,
}

/// The highest block number that the newest epoch opened a session for, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Highest {
    /// The block number.
    pub block_number: u64,
    /// When its first session was opened.
    pub at: Duration,
}

impl Watermark {
    /// A machine that has signed nothing and goes on from `seed`.
    pub fn new(bounds: LeaseBounds, seed: Seed) -> Self {
        Self {
            leases: Leases::new(bounds, seed.epoch),
            last_seq: seed.seq,
            floor: Seq::default(),
            progress: Progress::new(),
            history: History::default(),
            highest: None,
            retracted: VecDeque::new(),
        }
    }

    /// Gives new leases and sessions numbers above `seed`. What is open stays open.
    pub fn continue_above(&mut self, seed: Seed) {
        self.leases.continue_above(seed.epoch);
        self.floor = self.floor.max(seed.seq);
    }

    /// Nobody has the right to build: who had it has to take it again, under a new epoch.
    pub fn forget_lease(&mut self) {
        self.leases.forget();
    }

    /// How far the signer has come.
    pub fn tip(&self) -> Tip {
        Tip {
            epoch: self.leases.newest(),
            last_seq: self.last_seq,
            position: self.progress.position(),
            digest: self.last_digest(),
        }
    }

    /// What was signed at a position, if it is remembered.
    pub fn evidence(&self, position: Position) -> Option<Entry> {
        self.history.get(position.seq)?.entry(position.index).copied()
    }

    /// Gives the right to build, under a new epoch: to anyone if nobody has it, and to the same
    /// holder at once, whose old epoch then ends.
    ///
    /// # Errors
    /// `LeaseHeld` while the lease of another holder runs.
    pub fn acquire_lease(
        &self,
        holder: &str,
        duration: Duration,
        now: Duration,
    ) -> Result<Decision<Grant>, Refused> {
        self.leases.acquire(holder, duration, now)
    }

    /// Lets a lease last for its whole duration again, even if it ran out.
    ///
    /// # Errors
    /// `LeaseLost` if the epoch is not the newest.
    pub fn renew_lease(&self, epoch: Epoch) -> Result<Decision<Grant>, Refused> {
        self.leases.renew(epoch)
    }

    /// Gives the right to build back: anyone may have it at once, under a new epoch.
    ///
    /// # Errors
    /// `LeaseLost` if the epoch is not the newest, or was given back before.
    pub fn release_lease(&self, epoch: Epoch) -> Result<Decision<Grant>, Refused> {
        self.leases.release(epoch)
    }

    /// Opens a session. The same request again, before anything was signed, is the same session.
    ///
    /// # Errors
    /// `LeaseLost`, `TooManySessions` for this block number, or `TooFar` above the highest one.
    pub fn open_session(
        &self,
        request: &OpenSession,
        now: Duration,
    ) -> Result<Decision<Opened>, Refused> {
        let OpenSession { epoch, block_number, parent_hash, payload_id } = *request;
        self.leases.require(epoch, now)?;
        let session = |seq| Session { epoch, seq, block_number, parent_hash, payload_id };
        let repeated = self.history.newest().filter(|newest| {
            newest.is_untouched() && *newest.session() == session(newest.session().seq)
        });
        if let Some(newest) = repeated {
            return Ok(Decision::Known(newest.opened()));
        }
        if self.history.sessions_for(block_number) >= MAX_SESSIONS_PER_BLOCK {
            return Err(Refused::new(Reason::TooManySessions));
        }
        if self.highest.is_some_and(|highest| highest.is_too_far(block_number, now)) {
            return Err(Refused::new(Reason::TooFar));
        }
        let seq =
            self.last_seq.max(self.floor).next().ok_or(Refused::new(Reason::TooManySessions))?;
        let parent_digest = self.last_digest();
        Ok(Decision::New(Opened { session: session(seq), parent_digest }))
    }

    /// Decides about a flashblock.
    ///
    /// # Errors
    /// `LeaseLost`; `Equivocation` if another content was signed at this position; `NotOpen` if the
    /// session is not the newest or another epoch's; `Ended` after its end; `OutOfOrder` if the
    /// position is not the next one; `WrongParent` if it does not name the last digest.
    pub fn sign(
        &self,
        request: &SignFlashblock,
        now: Duration,
    ) -> Result<Decision<Entry>, Refused> {
        let SignFlashblock { epoch, position, hashes, published_at_ms, is_last, parent_digest } =
            *request;
        self.leases.require(epoch, now)?;
        let log = self.history.get(position.seq).ok_or(Refused::new(Reason::NotOpen))?;
        let &Session { block_number, payload_id, .. } = log.session();
        let entry = Entry::of(&v2::Content {
            position,
            block_number,
            payload_id,
            hashes,
            is_last,
            published_at_ms,
            parent_digest,
        });
        if let Some(recorded) = log.entry(position.index) {
            return if recorded.digest == entry.digest {
                Ok(Decision::Known(entry))
            } else {
                let evidence = Some(Box::new(*recorded));
                Err(Refused { evidence, ..Refused::new(Reason::Equivocation) })
            };
        }
        if log.has_ended() {
            return Err(log.refused(Reason::Ended));
        }
        if !self.is_newest(log) || log.session().epoch != epoch {
            return Err(Refused::new(Reason::NotOpen));
        }
        self.follow(entry, log)
    }

    /// Ends the newest session without a block.
    ///
    /// # Errors
    /// `LeaseLost`; `Ended` if it has ended in another way; `NotOpen` if it is not the newest.
    pub fn abandon(
        &self,
        epoch: Epoch,
        seq: Seq,
        reason: AbandonReason,
        now: Duration,
    ) -> Result<Decision<Abandoned>, Refused> {
        self.leases.require(epoch, now)?;
        let log = self.history.get(seq).ok_or(Refused::new(Reason::NotOpen))?;
        let block_number = log.session().block_number;
        let abandoned = Abandoned { seq, block_number, last_digest: log.last_digest(), reason };
        if log.end_record() == Some(&End::Abandoned(abandoned.clone())) {
            return Ok(Decision::Known(abandoned));
        }
        self.require_unended(log)?;
        Ok(Decision::New(abandoned))
    }

    /// Ends the newest session with a block.
    ///
    /// # Errors
    /// `LeaseLost`; `Ended` if it has ended in another way; `NotOpen` if it is not the newest;
    /// `OutOfOrder` if nothing was signed in it.
    pub fn seal(
        &self,
        epoch: Epoch,
        seq: Seq,
        block_hash: B256,
        state_root: B256,
        now: Duration,
    ) -> Result<Decision<Sealed>, Refused> {
        self.leases.require(epoch, now)?;
        let log = self.history.get(seq).ok_or(Refused::new(Reason::NotOpen))?;
        let block_number = log.session().block_number;
        let last_digest = log.last_digest();
        let sealed = Sealed { seq, block_number, last_digest, block_hash, state_root };
        if log.end_record() == Some(&End::Sealed(sealed.clone())) {
            return Ok(Decision::Known(sealed));
        }
        self.require_unended(log)?;
        if log.last().is_none() {
            return Err(out_of_order(log.next_position()));
        }
        Ok(Decision::New(sealed))
    }

    /// Decides about a list of retractions, by its digest and the position it names.
    ///
    /// # Errors
    /// `LeaseLost`; `NotOpen` or `OutOfOrder` if the feed has not come as far as the list says.
    pub fn retract(
        &self,
        epoch: Epoch,
        at: Position,
        digest: Digest,
        now: Duration,
    ) -> Result<Decision<RetractionList>, Refused> {
        self.leases.require(epoch, now)?;
        let list = RetractionList { digest };
        if self.retracted.contains(&list) {
            return Ok(Decision::Known(list));
        }
        if at.seq > self.last_seq {
            return Err(Refused::new(Reason::NotOpen));
        }
        // A session that is forgotten, or was before a restart, is taken at the builder's word.
        match self.history.get(at.seq) {
            Some(log) if log.entry(at.index).is_none() => Err(out_of_order(log.next_position())),
            Some(_) | None => Ok(Decision::New(list)),
        }
    }

    /// Records what was decided as new.
    ///
    /// # Panics
    /// If it was not decided on the present state: the record would contradict itself.
    pub fn commit(&mut self, record: &Record, now: Duration) {
        if let Err(contradiction) = self.apply(record, now) {
            panic!("what is committed was decided on the present state: {contradiction}");
        }
    }

    /// Takes over what was recorded at `now` by a machine in this state.
    ///
    /// # Errors
    /// If no machine in this state decided it. What the machine then holds is worth nothing.
    pub fn apply(&mut self, record: &Record, now: Duration) -> Result<(), Contradiction> {
        match record {
            Record::Lease(grant) => {
                self.highest = self.highest.filter(|_| grant.epoch == self.leases.newest());
                self.leases.grant(grant, now)
            }
            Record::Session(opened) => self.open(*opened, now),
            Record::Flashblock(entry) => self.append(*entry),
            Record::Abandoned(abandoned) => {
                self.history.end(abandoned.seq, End::Abandoned(abandoned.clone()))
            }
            Record::Sealed(sealed) => self.history.end(sealed.seq, End::Sealed(sealed.clone())),
            Record::Retracted(list) => {
                self.retracted.truncate(MAX_RETRACTION_LISTS - 1);
                self.retracted.push_front(*list);
                Ok(())
            }
            Record::Checkpoint(checkpoint) => self.restore(checkpoint),
        }
    }

    /// Whether `entry` follows all that was signed, by the one rule of order.
    fn follow(&self, entry: Entry, log: &SessionLog) -> Result<Decision<Entry>, Refused> {
        match self.progress.succession(&arrival(&entry)) {
            Succession::Next | Succession::NewSession | Succession::Rewind
                if entry.parent_digest == self.last_digest() =>
            {
                Ok(Decision::New(entry))
            }
            // Nothing is recorded at this position: what differs is its past.
            Succession::Next
            | Succession::NewSession
            | Succession::Rewind
            | Succession::Equivocation => Err(self.wrong_parent(log)),
            Succession::Gap(expected) => Err(out_of_order(expected)),
            Succession::AfterLast => Err(log.refused(Reason::Ended)),
            // The history was asked before, and knows the newest session; better safe than sorry.
            Succession::Duplicate | Succession::Stale => Err(log.refused(Reason::NotOpen)),
        }
    }

    fn open(&mut self, opened: Opened, now: Duration) -> Result<(), Contradiction> {
        let Session { seq, block_number, .. } = opened.session;
        if seq <= self.last_seq {
            return Err(Contradiction::Session { seq, newest: self.last_seq });
        }
        self.last_seq = seq;
        if self.highest.is_none_or(|highest| block_number > highest.block_number) {
            self.highest = Some(Highest { block_number, at: now });
        }
        self.history.open(opened);
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> Result<(), Contradiction> {
        self.history.append(entry)?;
        let arrival = arrival(&entry);
        match self.progress.succession(&arrival) {
            Succession::Next | Succession::NewSession | Succession::Rewind => {
                self.progress.accept(&arrival);
                Ok(())
            }
            Succession::Duplicate
            | Succession::Equivocation
            | Succession::AfterLast
            | Succession::Gap(_)
            | Succession::Stale => Err(Contradiction::Order(entry.position)),
        }
    }

    fn is_newest(&self, log: &SessionLog) -> bool {
        log.session().seq == self.last_seq
    }

    /// A session that ended itself with `is_last` has yet to be sealed or abandoned.
    fn require_unended(&self, log: &SessionLog) -> Result<(), Refused> {
        if log.end_record().is_some() {
            return Err(log.refused(Reason::Ended));
        }
        if self.is_newest(log) { Ok(()) } else { Err(Refused::new(Reason::NotOpen)) }
    }

    fn last_digest(&self) -> Digest {
        self.progress.digest().unwrap_or_default()
    }

    fn last_entry(&self) -> Option<Entry> {
        self.evidence(self.progress.position()?)
    }

    /// Shows the flashblock that should have been named as the parent.
    fn wrong_parent(&self, log: &SessionLog) -> Refused {
        Refused {
            reason: Reason::WrongParent,
            evidence: self.last_entry().map(Box::new),
            expected: Some(log.next_position()),
        }
    }
}

impl Highest {
    fn is_too_far(self, block_number: u64, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs();
        let room = passed.saturating_mul(MAX_BLOCKS_PER_SECOND).saturating_add(MAX_STEP);
        block_number > self.block_number.saturating_add(room)
    }
}

fn arrival(entry: &Entry) -> Arrival {
    let Entry { position, block_number, parent_digest, digest, is_last, .. } = *entry;
    Arrival { position, digest, parent_digest, block_number, is_last }
}

fn out_of_order(expected: Position) -> Refused {
    Refused { expected: Some(expected), ..Refused::new(Reason::OutOfOrder) }
}
