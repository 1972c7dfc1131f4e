//! Statements: how a session ends, and what is taken back.

use super::*;

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
