//! Leases: who may build, for how long, under which number.

use super::*;

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
fn a_running_lease_is_kept_from_everybody_else_and_cannot_be_renewed_once_it_was_taken() {
    let (mut bench, epoch) = Bench::leased();
    bench.now = 10 * SECOND - Duration::from_nanos(1);
    assert_eq!(reason(bench.acquire("b")), Reason::LeaseHeld);
    bench.now = 10 * SECOND;
    assert_eq!(bench.acquire("b"), Ok(epoch.next().unwrap()));
    assert_eq!(reason(bench.renew(epoch)), Reason::LeaseLost);
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
fn a_lease_that_was_given_back_is_for_anyone_and_no_longer_for_who_had_it() {
    let (mut bench, epoch, opened) = Bench::open();
    bench.release(epoch).unwrap();
    assert_eq!(reason(bench.renew(epoch)), Reason::LeaseLost);
    assert_eq!(reason(bench.release(epoch)), Reason::LeaseLost);
    assert_eq!(reason(bench.open_block(epoch, 101)), Reason::LeaseLost);
    let request = flashblock(epoch, opened.session.seq, 0, 1, Digest::ZERO);
    assert_eq!(reason(bench.sign(&request)), Reason::LeaseLost);

    let next = bench.acquire("b").unwrap();
    assert_eq!(next, epoch.next().unwrap());
    assert_eq!(reason(bench.release(epoch)), Reason::LeaseLost);
    assert_eq!(reason(bench.acquire("a")), Reason::LeaseHeld);
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
