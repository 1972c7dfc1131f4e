//! What is remembered, and for how long.

use super::*;

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
        let seq = bench.open_block(epoch, block_number).unwrap().session.seq;
        bench.sign_next(epoch, seq, false);
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
fn the_last_flashblock_is_remembered_however_many_sessions_follow() {
    let (mut bench, epoch, opened) = Bench::open();
    let last = bench.sign_next(epoch, opened.session.seq, false);
    for block_number in 101..300 {
        bench.open_block(epoch, block_number).unwrap();
        bench.now += 10 * SECOND;
        bench.renew(epoch).unwrap();
    }

    assert_eq!(bench.machine.evidence(last.position), Some(last));
    assert_eq!(bench.machine.history.records().count(), MAX_SESSIONS + 1, "63 others, and it");
    let mut anew = Watermark::new(bounds(), Seed::default());
    for record in bench.machine.condensed() {
        anew.apply(&record, Duration::ZERO).unwrap();
    }
    assert_eq!(anew, bench.machine);
}

#[test]
fn numbers_continue_above_the_clock_and_the_open_session_goes_on() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    bench.sign_next(epoch, seq, false);

    bench.machine.continue_above(Seed { epoch: Epoch::new(1_000), seq: Seq::new(2_000) });

    bench.sign_next(epoch, seq, false);
    bench.renew(epoch).unwrap();
    assert_eq!(bench.open_block(epoch, 101).unwrap().session.seq, Seq::new(2_001));
    assert_eq!(bench.acquire("a"), Ok(Epoch::new(1_001)));
}

#[test]
fn a_record_that_follows_from_nothing_is_refused() {
    let (mut bench, epoch, opened) = Bench::open();
    let seq = opened.session.seq;
    let entry = bench.sign_next(epoch, seq, false);
    let next = |position| Entry { position, parent_digest: entry.digest, ..entry };
    let other = Seq::new(seq.get() + 1);
    let lease = Grant { epoch: START.epoch, holder: "b".to_owned(), duration: SECOND };
    let past = Entry { parent_digest: Digest::ZERO, ..next(Position::new(seq, 1)) };
    let Some(Record::Checkpoint(checkpoint)) = bench.machine.condensed().pop() else { panic!() };
    for (record, contradiction) in [
        (lease.into(), Contradiction::Epoch { epoch: START.epoch, newest: epoch }),
        (opened.into(), Contradiction::Session { seq, newest: seq }),
        (
            next(Position::new(seq, 2)).into(),
            Contradiction::Hole { found: Position::new(seq, 2), expected: Position::new(seq, 1) },
        ),
        (next(Position::new(other, 0)).into(), Contradiction::NotNewest(other)),
        (past.into(), Contradiction::Order(Position::new(seq, 1))),
        (
            Record::Checkpoint(Checkpoint { last_seq: START.seq, ..checkpoint }),
            Contradiction::Session { seq: START.seq, newest: seq },
        ),
    ] {
        let refused = bench.machine.clone().apply(&record, bench.now);
        assert_eq!(refused, Err(contradiction), "{record:?}");
    }
    bench.abandon(epoch, seq, AbandonReason::Expired).unwrap();
    let late = bench.machine.apply(&next(Position::new(seq, 1)).into(), bench.now);
    assert_eq!(late, Err(Contradiction::Ended(seq)));
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
            let position = Position::new(Seq::new(seq), index);
            history.append(Entry { position, ..entry }).unwrap();
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
