//! Flashblocks: one content at one position, in order, and nothing after the end.

use super::*;

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

    let (mut bench, epoch, empty) = Bench::open();
    bench.open_block(epoch, 101).unwrap();
    let request = flashblock(epoch, empty.session.seq, 0, 1, Digest::ZERO);
    assert_eq!(reason(bench.sign(&request)), Reason::NotOpen, "even its first flashblock");
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
