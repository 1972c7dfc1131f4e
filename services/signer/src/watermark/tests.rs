//! The machine by tables, and by random interleavings of two builders.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;
use preconf_primitives::{MAX_INDEX, PayloadId, Retracted, Retraction, RetractionCause};
use preconf_signing::v2::ContentHashes;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const START: Seed = Seed { epoch: Epoch::new(40), seq: Seq::new(6) };

/// A machine, its time, and the last answer of each kind: what a builder would remember.
#[derive(Clone)]
struct Bench {
    machine: Watermark,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        let bounds = LeaseBounds::new(SECOND, 60 * SECOND).unwrap();
        Self { machine: Watermark::new(bounds, START), now: Duration::ZERO }
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
            self.machine.commit(&record.clone().into(), self.now);
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

#[test]
fn numbers_go_on_from_the_seed() {
    let (mut bench, epoch, opened) = Bench::open();
    assert_eq!((epoch, opened.session.seq), (Epoch::new(41), Seq::new(7)));
    let second = bench.open_block(epoch, 101).unwrap();
    assert_eq!(second.session.seq, Seq::new(8));
}

#[test]
fn a_seed_from_a_later_clock_is_above_all_that_an_earlier_one_led_to() {
    let earlier = Seed::from_clock(UNIX_EPOCH + Duration::from_millis(1_800_000_000_000));
    let later = Seed::from_clock(UNIX_EPOCH + Duration::from_millis(1_800_000_002_000));
    assert_eq!(earlier.seq.get(), 1_800_000_000_000);
    assert_eq!((later.seq.get() - earlier.seq.get(), later.epoch.get()), (2000, later.seq.get()));
    assert_eq!(Seed::from_clock(UNIX_EPOCH - SECOND), Seed::default());
}

#[test]
fn a_running_lease_is_kept_from_everybody_else() {
    let (mut bench, epoch) = Bench::leased();
    bench.now = 10 * SECOND - Duration::from_nanos(1);
    assert_eq!(reason(bench.acquire("b")), Reason::LeaseHeld);
    bench.now = 10 * SECOND;
    assert_eq!(bench.acquire("b"), Ok(epoch.next().unwrap()));
}

#[test]
fn the_same_holder_gets_a_new_epoch_at_once_and_its_old_one_is_dead() {
    let (mut bench, old, opened) = Bench::open();
    let new = bench.acquire("a").unwrap();
    assert!(new > old);
    assert_eq!(reason(bench.open_block(old, 100)), Reason::LeaseLost);
    assert_eq!(reason(bench.renew(old)), Reason::LeaseLost);
    let seq = opened.session.seq;
    let request = flashblock(old, seq, 0, 1, Digest::ZERO);
    assert_eq!(reason(bench.sign(&request)), Reason::LeaseLost);
    assert!(bench.open_block(new, 100).is_ok());
}

#[test]
fn an_epoch_that_was_never_given_is_refused() {
    let mut bench = Bench::new();
    for epoch in [START.epoch, Epoch::new(0), Epoch::new(41), Epoch::new(u64::MAX)] {
        assert_eq!(reason(bench.open_block(epoch, 100)), Reason::LeaseLost, "{epoch}");
        assert_eq!(reason(bench.renew(epoch)), Reason::LeaseLost, "{epoch}");
    }
}

#[test]
fn a_lease_that_ran_out_signs_nothing_until_it_is_renewed() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    bench.now = 10 * SECOND;
    let request = flashblock(epoch, seq, 0, 1, Digest::ZERO);
    let list = retraction(Position::default(), 1);
    assert_eq!(reason(bench.sign(&request)), Reason::LeaseLost);
    assert_eq!(reason(bench.open_block(epoch, 101)), Reason::LeaseLost);
    assert_eq!(reason(bench.abandon(epoch, seq, AbandonReason::Expired)), Reason::LeaseLost);
    assert_eq!(reason(bench.seal(epoch, seq, B256::ZERO)), Reason::LeaseLost);
    assert_eq!(reason(bench.retract(epoch, &list)), Reason::LeaseLost);

    assert_eq!(bench.renew(epoch), Ok(10 * SECOND));
    assert!(bench.sign(&request).is_ok());
}

#[test]
fn a_lease_that_somebody_else_took_cannot_be_renewed() {
    let (mut bench, epoch) = Bench::leased();
    bench.now = 10 * SECOND;
    bench.acquire("b").unwrap();
    assert_eq!(reason(bench.renew(epoch)), Reason::LeaseLost);
}

#[test]
fn a_lease_lasts_neither_shorter_nor_longer_than_the_bounds() {
    let machine = Bench::new().machine;
    for (asked, given) in [(0, 1), (1, 1), (30, 30), (60, 60), (61, 60), (u64::MAX, 60)] {
        let decided = machine.acquire_lease("a", Duration::from_secs(asked), Duration::ZERO);
        assert_eq!(decided.unwrap().get().duration, Duration::from_secs(given), "{asked} s");
    }
    assert_eq!(LeaseBounds::new(Duration::ZERO, SECOND), None);
    assert_eq!(LeaseBounds::new(2 * SECOND, SECOND), None);
}

#[test]
fn the_same_request_for_a_session_is_the_same_session_until_something_is_signed() {
    let (mut bench, epoch) = Bench::leased();
    let payload_id = PayloadId::repeat_byte(1);
    let request =
        OpenSession { epoch, block_number: 100, parent_hash: B256::repeat_byte(2), payload_id };
    let first = bench.open_session(&request).unwrap().into_inner();

    assert_eq!(bench.open_session(&request), Ok(Decision::Known(first)));

    bench.sign_next(epoch, first.session.seq, false);
    let Ok(Decision::New(second)) = bench.open_session(&request) else { panic!("a new session") };
    assert_eq!(second.session.seq, Seq::new(8));
    for other in [
        OpenSession { block_number: 101, ..request },
        OpenSession { parent_hash: B256::ZERO, ..request },
        OpenSession { payload_id: PayloadId::ZERO, ..request },
    ] {
        assert!(matches!(bench.open_session(&other), Ok(Decision::New(_))), "{other:?}");
    }
}

#[test]
fn a_session_links_to_the_last_flashblock_of_those_before() {
    let (mut bench, epoch, first) = Bench::open();
    assert_eq!(first.parent_digest, Digest::ZERO);
    let last = bench.sign_next(epoch, first.session.seq, false);

    let empty = bench.open_block(epoch, 101).unwrap();
    let third = bench.open_block(epoch, 102).unwrap();

    assert_eq!(empty.parent_digest, last.digest);
    assert_eq!(third.parent_digest, last.digest, "an empty session adds nothing to the chain");
}

#[test]
fn one_block_has_at_most_16_sessions() {
    let (mut bench, epoch) = Bench::leased();
    for _ in 0..16 {
        bench.open_block(epoch, 100).unwrap();
    }
    assert_eq!(reason(bench.open_block(epoch, 100)), Reason::TooManySessions);
    let epoch = bench.acquire("a").unwrap();
    assert_eq!(reason(bench.open_block(epoch, 100)), Reason::TooManySessions);
    assert!(bench.open_block(epoch, 101).is_ok());
    assert_eq!(reason(bench.open_block(epoch, 100)), Reason::TooManySessions);
}

#[test]
fn block_numbers_advance_in_bounded_steps() {
    let (mut bench, epoch, _) = Bench::open();
    for far in [165, 1_000_000, u64::MAX] {
        assert_eq!(reason(bench.open_block(epoch, far)), Reason::TooFar, "{far}");
    }
    assert!(bench.open_block(epoch, 164).is_ok());
    assert!(bench.open_block(epoch, 228).is_ok());
    assert!(bench.open_block(epoch, 1).is_ok(), "the head may go back");
    assert!(bench.open_block(epoch, 292).is_ok(), "going back does not lower the highest");
}

#[test]
fn a_builder_that_was_away_may_come_back() {
    let (mut bench, epoch, _) = Bench::open();
    bench.now = 3600 * SECOND;
    bench.renew(epoch).unwrap();
    let missed = 3600 * MAX_BLOCKS_PER_SECOND;
    assert_eq!(reason(bench.open_block(epoch, 100 + missed + 65)), Reason::TooFar);
    assert!(bench.open_block(epoch, 100 + missed + 64).is_ok());
}

#[test]
fn a_new_lease_may_begin_anywhere() {
    let (mut bench, epoch, _) = Bench::open();
    bench.renew(epoch).unwrap();
    assert_eq!(reason(bench.open_block(epoch, 1_000_000)), Reason::TooFar, "renewed is not new");
    let epoch = bench.acquire("a").unwrap();
    assert!(bench.open_block(epoch, 1_000_000).is_ok());
    assert_eq!(reason(bench.open_block(epoch, 1_000_065)), Reason::TooFar);
}

#[test]
fn a_lying_builder_cannot_keep_the_next_one_from_signing() {
    for claimed in [1, 999, u64::MAX] {
        let (mut bench, liar) = Bench::leased();
        bench.open_block(liar, claimed).unwrap();
        for block_number in (900..1000).chain(1000..1010).chain((1..100).rev()) {
            while bench.open_block(liar, block_number).is_ok() {}
        }
        while bench.open_block(liar, 1000).is_ok() {}
        bench.now = 10 * SECOND;

        let honest = bench.acquire("honest").unwrap();

        let signed = (1000..1100).position(|block_number| {
            let Ok(opened) = bench.open_block(honest, block_number) else { return false };
            bench.sign_next(honest, opened.session.seq, true).is_last
        });
        let lost = signed.unwrap();
        assert!(lost <= MAX_SESSIONS / MAX_SESSIONS_PER_BLOCK, "{lost} blocks after {claimed}");
    }
}

#[test]
fn the_next_position_is_signed_and_every_other_is_refused() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let first = bench.sign_next(epoch, seq, false);
    let second = bench.sign_next(epoch, seq, false);
    assert_eq!(second.parent_digest, first.digest);
    let expected = Some(Position::new(seq, 2));
    let at = |seq, index, parent| flashblock(epoch, seq, index, 1, parent);
    for (request, reason, evidence, expected) in [
        (at(seq, 3, second.digest), Reason::OutOfOrder, None, expected),
        (at(seq, u64::MAX, second.digest), Reason::OutOfOrder, None, expected),
        (at(seq, 2, first.digest), Reason::WrongParent, Some(Box::new(second)), expected),
        (at(seq, 2, Digest::ZERO), Reason::WrongParent, Some(Box::new(second)), expected),
        (at(Seq::new(8), 0, second.digest), Reason::NotOpen, None, None),
        (at(Seq::new(6), 0, second.digest), Reason::NotOpen, None, None),
        (at(Seq::new(0), 0, second.digest), Reason::NotOpen, None, None),
    ] {
        let position = request.position;
        assert_eq!(bench.sign(&request), Err(Refused { reason, evidence, expected }), "{position}");
    }
}

#[test]
fn the_first_flashblock_has_index_0_and_names_the_digest_before() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let refused = bench.sign(&flashblock(epoch, seq, 1, 1, Digest::ZERO)).unwrap_err();
    assert_eq!(refused, out_of_order(Position::new(seq, 0)));
    let parent = Digest::new(B256::repeat_byte(1));
    let refused = bench.sign(&flashblock(epoch, seq, 0, 1, parent)).unwrap_err();
    let expected = Some(Position::new(seq, 0));
    assert_eq!(refused, Refused { reason: Reason::WrongParent, evidence: None, expected });
}

#[test]
fn identical_content_is_known_and_different_content_is_equivocation() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let request = flashblock(epoch, seq, 0, 1, Digest::ZERO);
    let first = bench.sign(&request).unwrap().into_inner();
    let second = bench.sign_next(epoch, seq, false);
    assert_eq!(bench.sign(&request), Ok(Decision::Known(first)));

    let changes: [fn(&mut SignFlashblock); 7] = [
        |request| request.hashes.base = B256::repeat_byte(9),
        |request| request.hashes.transactions = B256::repeat_byte(9),
        |request| request.hashes.withdrawals = B256::repeat_byte(9),
        |request| request.hashes.traceparent = B256::repeat_byte(9),
        |request| request.published_at_ms += 1,
        |request| request.is_last = true,
        |request| request.parent_digest = Digest::new(B256::repeat_byte(9)),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut other = request;
        change(&mut other);
        let refused = bench.sign(&other).unwrap_err();
        assert_eq!(refused.reason, Reason::Equivocation, "change {at}");
        assert_eq!(refused.evidence.as_deref(), Some(&first), "change {at}");
    }

    bench.open_block(epoch, 101).unwrap();
    assert_eq!(bench.sign(&request), Ok(Decision::Known(first)), "in an older session, too");
    let other = flashblock(epoch, seq, 1, 2, first.digest);
    assert_eq!(bench.sign(&other).unwrap_err().evidence.as_deref(), Some(&second));
}

#[test]
fn nothing_is_signed_after_the_last_flashblock() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let last = bench.sign_next(epoch, seq, true);
    for index in [1, 2] {
        let refused = bench.sign(&flashblock(epoch, seq, index, 1, last.digest)).unwrap_err();
        assert_eq!((refused.reason, refused.evidence.as_deref()), (Reason::Ended, Some(&last)));
    }
    let ends: [fn(&mut Bench, Epoch, Seq); 2] = [
        |bench, epoch, seq| assert!(bench.seal(epoch, seq, B256::ZERO).is_ok()),
        |bench, epoch, seq| assert!(bench.abandon(epoch, seq, AbandonReason::SealFailed).is_ok()),
    ];
    for end in ends {
        end(&mut bench.clone(), epoch, seq);
    }
}

#[test]
fn nothing_is_signed_after_a_session_was_ended() {
    let ends: [fn(&mut Bench, Epoch, Seq); 2] = [
        |bench, epoch, seq| assert!(bench.seal(epoch, seq, B256::ZERO).is_ok()),
        |bench, epoch, seq| assert!(bench.abandon(epoch, seq, AbandonReason::Expired).is_ok()),
    ];
    for end in ends {
        let (mut bench, epoch, opened) = Bench::open();
        let seq = opened.session.seq;
        let first = bench.sign_next(epoch, seq, false);
        end(&mut bench, epoch, seq);

        let refused = bench.sign(&flashblock(epoch, seq, 1, 1, first.digest)).unwrap_err();

        assert_eq!((refused.reason, refused.evidence.as_deref()), (Reason::Ended, Some(&first)));
        let next = bench.open_block(epoch, 101).unwrap();
        assert_eq!(next.parent_digest, first.digest);
        bench.sign_next(epoch, next.session.seq, false);
    }
}

#[test]
fn a_session_that_a_newer_one_replaced_is_neither_continued_nor_ended() {
    let (mut bench, epoch, old) = Bench::open();
    let seq = old.session.seq;
    let first = bench.sign_next(epoch, seq, false);
    bench.open_block(epoch, 100).unwrap();
    let request = flashblock(epoch, seq, 1, 1, first.digest);
    assert_eq!(reason(bench.sign(&request)), Reason::NotOpen);
    assert_eq!(reason(bench.abandon(epoch, seq, AbandonReason::HeadChanged)), Reason::NotOpen);
    assert_eq!(reason(bench.seal(epoch, seq, B256::ZERO)), Reason::NotOpen);
}

#[test]
fn an_empty_session_that_was_replaced_takes_no_first_flashblock() {
    let (mut bench, epoch, empty) = Bench::open();
    bench.open_block(epoch, 101).unwrap();
    for index in [0, 1] {
        let request = flashblock(epoch, empty.session.seq, index, 1, Digest::ZERO);
        assert_eq!(reason(bench.sign(&request)), Reason::NotOpen);
    }
}

#[test]
fn a_later_epoch_may_end_a_session_but_not_continue_it() {
    let (mut bench, old, opened) = Bench::open();
    let seq = opened.session.seq;
    let first = bench.sign_next(old, seq, false);
    let new = bench.acquire("a").unwrap();

    let request = flashblock(new, seq, 1, 1, first.digest);
    assert_eq!(reason(bench.sign(&request)), Reason::NotOpen);
    assert!(bench.clone().seal(new, seq, B256::ZERO).is_ok());
    assert!(bench.abandon(new, seq, AbandonReason::LeaseLost).is_ok());
}

#[test]
fn a_session_ends_once_and_the_same_end_again_is_known() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let last = bench.sign_next(epoch, seq, true);
    let mut abandoning = bench.clone();

    let sealed = bench.seal(epoch, seq, B256::repeat_byte(1)).unwrap().into_inner();
    assert_eq!((sealed.last_digest, sealed.block_number), (last.digest, 100));
    let again = bench.seal(epoch, seq, B256::repeat_byte(1));
    assert_eq!(again, Ok(Decision::Known(sealed)));
    assert_eq!(reason(bench.seal(epoch, seq, B256::repeat_byte(2))), Reason::Ended);
    assert_eq!(reason(bench.abandon(epoch, seq, AbandonReason::Expired)), Reason::Ended);

    let abandoned = abandoning.abandon(epoch, seq, AbandonReason::Expired).unwrap().into_inner();
    let again = abandoning.abandon(epoch, seq, AbandonReason::Expired);
    assert_eq!(again, Ok(Decision::Known(abandoned)));
    assert_eq!(reason(abandoning.abandon(epoch, seq, AbandonReason::Shutdown)), Reason::Ended);
    assert_eq!(reason(abandoning.seal(epoch, seq, B256::ZERO)), Reason::Ended);
}

#[test]
fn an_empty_session_can_be_abandoned_and_not_sealed() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let refused = bench.seal(epoch, seq, B256::ZERO).unwrap_err();
    assert_eq!(refused, out_of_order(Position::new(seq, 0)));
    let abandoned = bench.abandon(epoch, seq, AbandonReason::Expired).unwrap().into_inner();
    assert_eq!(abandoned.last_digest, Digest::ZERO);
}

#[test]
fn a_session_that_was_never_opened_cannot_be_ended() {
    let (mut bench, epoch, _) = Bench::open();
    for seq in [6, 8, u64::MAX] {
        let seq = Seq::new(seq);
        assert_eq!(reason(bench.abandon(epoch, seq, AbandonReason::Expired)), Reason::NotOpen);
        assert_eq!(reason(bench.seal(epoch, seq, B256::ZERO)), Reason::NotOpen);
    }
}

#[test]
fn a_session_is_full_at_the_highest_index() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    for _ in 0..=MAX_INDEX {
        bench.sign_next(epoch, seq, false);
    }
    let parent = bench.machine.tip().digest;
    let request = flashblock(epoch, seq, MAX_INDEX + 1, 1, parent);
    assert_eq!(reason(bench.sign(&request)), Reason::Ended);
    assert!(bench.seal(epoch, seq, B256::ZERO).is_ok());
}

#[test]
fn the_same_retraction_is_known_and_another_one_is_new() {
    let (mut bench, epoch, opened) = Bench::open();
    let at = bench.sign_next(epoch, opened.session.seq, false).position;
    let first = bench.retract(epoch, &retraction(at, 1)).unwrap().into_inner();
    assert_eq!(bench.retract(epoch, &retraction(at, 1)), Ok(Decision::Known(first)));
    assert!(matches!(bench.retract(epoch, &retraction(at, 2)), Ok(Decision::New(_))));
    for transaction in 3..=100 {
        bench.retract(epoch, &retraction(at, transaction)).unwrap();
    }
    assert_eq!(bench.machine.retracted.len(), MAX_RETRACTION_LISTS);
    let forgotten = bench.retract(epoch, &retraction(at, 1)).unwrap();
    assert_eq!(forgotten, Decision::New(first), "what is forgotten is signed again, the same");
}

#[test]
fn a_retraction_cannot_speak_of_a_position_that_was_not_signed() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let at = |seq, index| retraction(Position::new(seq, index), 1);
    let refused = bench.retract(epoch, &at(seq, 0)).unwrap_err();
    assert_eq!(refused, out_of_order(Position::new(seq, 0)));
    assert_eq!(reason(bench.retract(epoch, &at(Seq::new(8), 0))), Reason::NotOpen);
    assert!(bench.retract(epoch, &at(Seq::new(3), 9)).is_ok(), "before the memory begins");
}

#[test]
fn the_tip_tells_how_far_the_signer_has_come() {
    let mut bench = Bench::new();
    let Seed { epoch, seq } = START;
    let untouched = Tip { epoch, last_seq: seq, position: None, digest: Digest::ZERO };
    assert_eq!(bench.machine.tip(), untouched);

    let epoch = bench.acquire("a").unwrap();
    let last_seq = bench.open_block(epoch, 100).unwrap().session.seq;
    assert_eq!(bench.machine.tip(), Tip { epoch, last_seq, ..untouched });

    let Entry { position, digest, .. } = bench.sign_next(epoch, last_seq, false);
    let tip = Tip { epoch, last_seq, position: Some(position), digest };
    assert_eq!(bench.machine.tip(), tip);
}

#[test]
fn what_was_signed_is_remembered_for_64_sessions() {
    let (mut bench, epoch, opened) = Bench::open();
    let first = bench.sign_next(epoch, opened.session.seq, false);
    for block_number in 101..164 {
        bench.open_block(epoch, block_number).unwrap();
    }
    assert_eq!(bench.machine.evidence(first.position), Some(first));
    let unsigned = Position::new(opened.session.seq, 1);
    assert_eq!(bench.machine.evidence(unsigned), None);

    bench.open_block(epoch, 164).unwrap();

    assert_eq!(bench.machine.evidence(first.position), None);
    let request = flashblock(epoch, opened.session.seq, 0, 2, Digest::ZERO);
    assert_eq!(reason(bench.sign(&request)), Reason::NotOpen, "forgotten is not forgiven");
}

#[test]
fn memory_is_bounded_by_flashblocks_too() {
    let (mut bench, epoch, opened) = Bench::open();
    let entry = bench.sign_next(epoch, opened.session.seq, false);
    let mut history = History::default();
    let open = |history: &mut History, seq| {
        let session = Session { seq: Seq::new(seq), ..opened.session };
        history.open(Opened { session, ..opened });
    };
    for seq in 1..=8 {
        open(&mut history, seq);
        for index in 0..=MAX_INDEX {
            history.append(Entry { position: Position::new(Seq::new(seq), index), ..entry });
        }
    }

    open(&mut history, 9);

    let remembered: Vec<u64> =
        (1..=9).filter(|&seq| history.get(Seq::new(seq)).is_some()).collect();
    assert_eq!(remembered, [3, 4, 5, 6, 7, 8, 9], "80,000 flashblocks are more than are kept");
}

#[test]
fn committing_the_record_again_leads_to_the_same_state() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let mut records: Vec<Record> = vec![];
    let grant = Grant { epoch, holder: "a".to_owned(), duration: 10 * SECOND };
    records.push(grant.into());
    records.push(opened.into());
    records.push(bench.sign_next(epoch, seq, false).into());
    let last = bench.sign_next(epoch, seq, true);
    records.push(last.into());
    let list = bench.retract(epoch, &retraction(last.position, 1)).unwrap().into_inner();
    records.push(list.into());
    records.push(bench.seal(epoch, seq, B256::ZERO).unwrap().into_inner().into());

    let mut other = Bench::new();
    records.iter().for_each(|record| other.machine.commit(record, Duration::ZERO));

    assert_eq!(other.machine.tip(), bench.machine.tip());
    let (mine, theirs) = (bench.open_block(epoch, 101), other.open_block(epoch, 101));
    assert!(mine.is_ok());
    assert_eq!(mine, theirs);
}

#[test]
#[should_panic(expected = "was opened after")]
fn a_session_number_cannot_be_recorded_twice() {
    let (mut bench, _, opened) = Bench::open();
    bench.machine.commit(&opened.into(), Duration::ZERO);
}

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
}
