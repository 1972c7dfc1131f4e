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
