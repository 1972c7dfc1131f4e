//! The machine by tables, and by random interleavings of two builders: what they have in common.

mod flashblock;
mod lease;
mod memory;
mod random;
mod session;
mod statement;

use alloy_primitives::U256;
use preconf_primitives::{MAX_INDEX, PayloadId, Retracted, Retraction, RetractionCause};
use preconf_signing::v2::ContentHashes;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const START: Seed = Seed { epoch: Epoch::new(40), seq: Seq::new(6) };

/// A machine, its time, and the last answer of each kind: what a builder would remember.
#[derive(Clone)]
struct Bench {
    machine: Watermark,
    now: Duration,
    /// What was committed, and when.
    lines: Vec<(Record, Duration)>,
}

impl Bench {
    fn new() -> Self {
        Self { machine: Watermark::new(bounds(), START), now: Duration::ZERO, lines: Vec::new() }
    }

    /// A machine whose lease is held by `a`, which never runs out in a test that does not say so.
    fn leased() -> (Self, Epoch) {
        let mut bench = Self::new();
        let epoch = bench.acquire("a").unwrap();
        (bench, epoch)
    }

    /// A machine with one open session for block 100.
    fn open() -> (Self, Epoch, Opened) {
        let (mut bench, epoch) = Self::leased();
        let opened = bench.open_block(epoch, 100).unwrap();
        (bench, epoch, opened)
    }

    fn settle<T: Clone + Into<Record>>(
        &mut self,
        decided: Result<Decision<T>, Refused>,
    ) -> Result<Decision<T>, Refused> {
        if let Ok(Decision::New(record)) = &decided {
            let record = record.clone().into();
            self.machine.commit(&record, self.now);
            self.lines.push((record, self.now));
        }
        decided
    }

    fn acquire(&mut self, holder: &str) -> Result<Epoch, Refused> {
        let decided = self.machine.acquire_lease(holder, 10 * SECOND, self.now);
        self.settle(decided).map(|decision| decision.get().epoch)
    }

    fn renew(&mut self, epoch: Epoch) -> Result<Duration, Refused> {
        let decided = self.machine.renew_lease(epoch);
        self.settle(decided).map(|decision| decision.get().duration)
    }

    fn release(&mut self, epoch: Epoch) -> Result<(), Refused> {
        let decided = self.machine.release_lease(epoch);
        self.settle(decided).map(drop)
    }

    fn open_session(&mut self, request: &OpenSession) -> Result<Decision<Opened>, Refused> {
        let decided = self.machine.open_session(request, self.now);
        self.settle(decided)
    }

    /// Opens a session with a payload id that was not used before.
    fn open_block(&mut self, epoch: Epoch, block_number: u64) -> Result<Opened, Refused> {
        let payload_id = PayloadId::from(self.machine.last_seq.get().to_be_bytes());
        let request = OpenSession { epoch, block_number, parent_hash: B256::ZERO, payload_id };
        self.open_session(&request).map(Decision::into_inner)
    }

    fn sign(&mut self, request: &SignFlashblock) -> Result<Decision<Entry>, Refused> {
        let decided = self.machine.sign(request, self.now);
        self.settle(decided)
    }

    /// Signs what follows in `seq`, with content 1.
    fn sign_next(&mut self, epoch: Epoch, seq: Seq, is_last: bool) -> Entry {
        let index = self.machine.history.get(seq).unwrap().next_position().index;
        let parent_digest = self.machine.tip().digest;
        let request = SignFlashblock { is_last, ..flashblock(epoch, seq, index, 1, parent_digest) };
        match self.sign(&request).unwrap() {
            Decision::New(entry) => entry,
            Decision::Known(entry) => panic!("{} was known", entry.position),
        }
    }

    fn abandon(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        reason: AbandonReason,
    ) -> Result<Decision<Abandoned>, Refused> {
        let decided = self.machine.abandon(epoch, seq, reason, self.now);
        self.settle(decided)
    }

    fn seal(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        block_hash: B256,
    ) -> Result<Decision<Sealed>, Refused> {
        let decided = self.machine.seal(epoch, seq, block_hash, B256::ZERO, self.now);
        self.settle(decided)
    }

    fn retract(
        &mut self,
        epoch: Epoch,
        list: &Retracted,
    ) -> Result<Decision<RetractionList>, Refused> {
        let decided = self.machine.retract(epoch, list.at, v2::retracted_digest(list), self.now);
        self.settle(decided)
    }
}

fn bounds() -> LeaseBounds {
    LeaseBounds::new(SECOND, 60 * SECOND).unwrap()
}

fn flashblock(
    epoch: Epoch,
    seq: Seq,
    index: u64,
    content: u64,
    parent_digest: Digest,
) -> SignFlashblock {
    let hashes = ContentHashes {
        base: B256::ZERO,
        transactions: B256::from(U256::from(content)),
        withdrawals: B256::ZERO,
        traceparent: B256::ZERO,
    };
    let position = Position::new(seq, index);
    SignFlashblock { epoch, position, hashes, published_at_ms: 0, is_last: false, parent_digest }
}

fn retraction(at: Position, transaction: u8) -> Retracted {
    let transaction = B256::repeat_byte(transaction);
    let cause = RetractionCause::NoRoom;
    Retracted { at, block_number: 100, retractions: vec![Retraction { transaction, cause }] }
}

fn reason<T: std::fmt::Debug>(refused: Result<T, Refused>) -> Reason {
    refused.unwrap_err().reason
}
