//! Sessions: how they are numbered, linked and bounded.

use super::*;

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
