//! The file: what is read back, what is cut off and what is refused.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use preconf_primitives::{AbandonReason, Epoch, PayloadId, Position, Retracted, Seq};
use preconf_signing::{OpenSession, SignFlashblock, v2};
use preconf_telemetry::Registry;
use tempfile::TempDir;

use super::*;
use crate::{SigningKey, metrics::Metrics, watermark::Decision};

const SECOND: Duration = Duration::from_secs(1);
const CHAIN: u64 = 80094;

fn bounds() -> LeaseBounds {
    LeaseBounds::new(SECOND, 60 * SECOND).unwrap()
}

fn identity(key: u8) -> Identity {
    let public_key = SigningKey::parse(&format!("{key:064x}")).unwrap().public_key();
    Identity { chain_id: CHAIN, public_key }
}

/// A machine, what it committed, and a place for its record.
struct Bench {
    directory: TempDir,
    machine: Watermark,
    lines: Vec<Line>,
}

impl Bench {
    /// A machine that committed one record of each kind.
    fn new() -> Self {
        let seed = Seed { epoch: Epoch::new(40), seq: Seq::new(6) };
        let mut bench = Self {
            directory: tempfile::tempdir().unwrap(),
            machine: Watermark::new(bounds(), seed),
            lines: Vec::new(),
        };
        let epoch = bench.decide(|machine, now| machine.acquire_lease("é", SECOND, now)).epoch;
        for (block_number, is_sealed) in [(100, true), (101, false)] {
            let seq = bench.session(epoch, block_number);
            for index in 0..2 {
                bench.sign(epoch, Position::new(seq, index), index == 1 && is_sealed);
            }
            if is_sealed {
                let (hash, root) = (B256::repeat_byte(1), B256::repeat_byte(2));
                bench.decide(|machine, now| machine.seal(epoch, seq, hash, root, now));
            } else {
                let reason = AbandonReason::Passthrough;
                bench.decide(|machine, now| machine.abandon(epoch, seq, reason, now));
            }
            let at = Position::new(seq, 0);
            let list = Retracted { at, block_number, retractions: Vec::new() };
            let digest = v2::retracted_digest(&list);
            bench.decide(|machine, now| machine.retract(epoch, at, digest, now));
        }
        let seq = bench.session(epoch, 102);
        bench.sign(epoch, Position::new(seq, 0), false);
        bench.decide(|machine, _| machine.release_lease(epoch));
        bench
    }

    fn decide<T: Clone + Into<Record>>(
        &mut self,
        ask: impl FnOnce(&Watermark, Duration) -> Result<Decision<T>, crate::watermark::Refused>,
    ) -> T {
        let at = Duration::from_millis(1_800_000_000_000 + 10 * self.lines.len() as u64);
        let Decision::New(decided) = ask(&self.machine, at).unwrap() else { panic!("was known") };
        let record = decided.clone().into();
        self.machine.commit(&record, at);
        self.lines.push(Line { at, record });
        decided
    }

    fn session(&mut self, epoch: Epoch, block_number: u64) -> Seq {
        let (parent_hash, payload_id) = (B256::repeat_byte(3), PayloadId::repeat_byte(4));
        let request = OpenSession { epoch, block_number, parent_hash, payload_id };
        self.decide(|machine, now| machine.open_session(&request, now)).session.seq
    }

    fn sign(&mut self, epoch: Epoch, position: Position, is_last: bool) {
        let parent_digest = self.machine.tip().digest;
        let byte = B256::repeat_byte;
        let hashes = v2::ContentHashes {
            base: byte(5),
            transactions: byte(6),
            withdrawals: byte(7),
            traceparent: byte(8),
        };
        let request =
            SignFlashblock { epoch, position, hashes, published_at_ms: 9, is_last, parent_digest };
        self.decide(|machine, now| machine.sign(&request, now));
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// The machine after the first so many lines.
    fn machine_after(&self, lines: usize) -> Watermark {
        let mut machine = Watermark::new(bounds(), Seed::default());
        let seed = Seed { epoch: Epoch::new(40), seq: Seq::new(6) };
        for record in Watermark::new(bounds(), seed).condensed() {
            machine.apply(&record, Duration::ZERO).unwrap();
        }
        for Line { at, record } in &self.lines[..lines] {
            machine.apply(record, *at).unwrap();
        }
        machine
    }

    /// Writes all lines, and returns where each record of the file begins, and where it ends.
    fn write(&self) -> Vec<usize> {
        let (claimed, found) = self.open().unwrap();
        assert!(found.machine.is_none(), "it is new");
        let at = Duration::ZERO;
        let begun = RecordFile::begin(claimed, &self.machine_after(0).condensed(), at);
        let mut file = begun.unwrap();
        let mut offsets = vec![HEADER, file.bytes() as usize];
        for lines in self.lines.chunks(2) {
            file.append(lines).unwrap();
        }
        let mut at = file.bytes() as usize;
        assert_eq!(fs::metadata(self.path()).unwrap().len() as usize, at);
        for Line { at: time, record } in &self.lines {
            let before = offsets[offsets.len() - 1];
            offsets.push(before + HEAD + codec::encode(*time, record).len() + HASH);
            at = offsets[offsets.len() - 1];
        }
        assert_eq!(file.bytes() as usize, at);
        offsets
    }

    fn open(&self) -> Result<(Claimed, Found), ConfigError> {
        Claimed::open(&self.path(), identity(1), bounds())
    }

    fn refusal(&self) -> String {
        let refused = self.open().map(|(_, found)| found).unwrap_err();
        preconf_chassis::Chain(&refused).to_string()
    }

    fn assert_refused(&self, reason: &str) {
        let expected = format!("{}: {reason}", self.path().display());
        assert_eq!(self.refusal(), expected);
    }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let bench = Bench::new();
    bench.write();
    let (_claimed, found) = bench.open().unwrap();
    assert_eq!(found.machine, Some(bench.machine_after(bench.lines.len())));
    assert_eq!(found.machine.unwrap().tip(), bench.machine.tip());
    assert_eq!((found.until, found.torn, found.zeros), (bench.lines.last().unwrap().at, 0, false));
}

#[test]
fn wherever_the_last_record_is_cut_short_those_before_it_count_and_nothing_is_changed() {
    let bench = Bench::new();
    let offsets = bench.write();
    let content = fs::read(bench.path()).unwrap();
    // Of each kind one.
    for last in 1..offsets.len() - 1 {
        let machine = Some(bench.machine_after(last - 1));
        for end in offsets[last]..offsets[last + 1] {
            let found = read(&content[..end], identity(1), bounds()).unwrap();
            assert_eq!(found.torn, end - offsets[last], "{end}");
            assert_eq!(found.machine, machine, "{end}");
        }
    }
    let torn = &content[..content.len() - 1];
    fs::write(bench.path(), torn).unwrap();
    let (_, found) = bench.open().unwrap();
    assert_eq!(fs::read(bench.path()).unwrap(), torn);

    let (claimed, _) = bench.open().unwrap();
    let machine = found.machine.unwrap();
    let mut file = RecordFile::begin(claimed, &machine.condensed(), found.until).unwrap();
    file.append(&bench.lines[bench.lines.len() - 1..]).unwrap();
    drop(file);
    let (_, found) = bench.open().unwrap();
    assert_eq!(found.machine, Some(bench.machine_after(bench.lines.len())));
}

#[test]
fn zeros_that_a_loss_of_power_left_are_torn_and_others_are_damage() {
    let bench = Bench::new();
    let offsets = bench.write();
    let content = fs::read(bench.path()).unwrap();
    let zeroed = |from: usize| {
        let mut zeroed = content.clone();
        zeroed[from..].fill(0);
        read(&zeroed, identity(1), bounds())
    };
    let mut sectors = 0;
    // The first record was synced before the file took its place.
    for (number, [begin, end]) in offsets.array_windows().enumerate().skip(1) {
        for from in *begin..*end {
            let is_sector = from % SECTOR == 0;
            if from == *begin || is_sector {
                let found = zeroed(from).unwrap();
                assert!(found.zeros, "{from}");
                assert_eq!(found.torn, content.len() - begin, "{from}");
                assert_eq!(found.machine, Some(bench.machine_after(number - 1)), "{from}");
                sectors += usize::from(is_sector);
            }
        }
    }
    assert!(sectors > 0, "the file is longer than a sector");
    assert!(zeroed(offsets[1] - 1).is_err());
    // One byte at the end is not a sector.
    let last = content.iter().rposition(|byte| *byte != 0).unwrap();
    assert_ne!((last + 1) % SECTOR, 0);
    assert_eq!(zeroed(last).unwrap_err(), Damage::Hash { offset: offsets[offsets.len() - 2] });
}

#[test]
fn a_file_that_is_shorter_than_when_it_took_its_place_is_refused() {
    let bench = Bench::new();
    let whole = bench.write()[1];
    let content = fs::read(bench.path()).unwrap();
    for end in 1..whole {
        let damage = read(&content[..end], identity(1), bounds()).map(|found| found.torn);
        let expected = match end {
            ..CHAIN_ID => Damage::NotARecord,
            CHAIN_ID..HEADER => Damage::Header,
            HEADER.. => Damage::Short { found: end, whole: whole as u64 },
        };
        assert_eq!(damage, Err(expected));
    }
    fs::write(bench.path(), &content[..HEADER]).unwrap();
    bench.assert_refused(&format!(
        "is cut short: it has {HEADER} bytes, and had {whole} from the beginning"
    ));
}

#[test]
fn a_bit_that_flipped_is_refused_with_the_offset_of_its_record() {
    let bench = Bench::new();
    let offsets = bench.write();
    let content = fs::read(bench.path()).unwrap();
    for byte in 0..content.len() {
        let mut damaged = content.clone();
        damaged[byte] ^= 1 << (byte % 8);
        let damage = read(&damaged, identity(1), bounds()).map(|found| found.torn).unwrap_err();
        let offset = offsets.iter().rev().find(|&&offset| offset <= byte);
        match (offset, damage) {
            (None, Damage::NotARecord) => assert!(byte < CHAIN_ID),
            (None, Damage::Header) => assert!(byte >= CHAIN_ID),
            (Some(&expected), Damage::Length { offset }) => {
                assert_eq!(offset, expected);
                assert!(byte < offset + HEAD);
            }
            (Some(&expected), Damage::Hash { offset }) => assert_eq!(offset, expected),
            (_, damage) => panic!("{byte}: {damage}"),
        }
    }
    let mut damaged = content;
    damaged[offsets[3] + HEAD] ^= 1;
    fs::write(bench.path(), &damaged).unwrap();
    let offset = offsets[3];
    bench.assert_refused(&format!(
        "is damaged in the record at byte {offset}: it does not follow from those before it"
    ));
    assert_eq!(fs::read(bench.path()).unwrap(), damaged, "it is left as it is");
}

#[test]
fn a_record_that_is_missing_or_comes_twice_is_refused() {
    let bench = Bench::new();
    let offsets = bench.write();
    let content = fs::read(bench.path()).unwrap();
    for [from, to] in offsets.array_windows() {
        let without = [&content[..*from], &content[*to..]].concat();
        let twice = [&content[..*to], &content[*from..]].concat();
        if *to < content.len() {
            assert!(read(&without, identity(1), bounds()).is_err(), "{from}");
        }
        assert!(read(&twice, identity(1), bounds()).is_err(), "{from}");
    }
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let bench = Bench::new();
    let (claimed, _) = bench.open().unwrap();
    let mut file = RecordFile::begin(claimed, &[], Duration::ZERO).unwrap();
    file.append(&bench.lines[..2]).unwrap();
    let offset = file.bytes();
    file.append(&bench.lines[1..2]).unwrap();
    drop(file);
    bench.assert_refused(&format!(
        "contradicts itself in the record at byte {offset}: session 7 was opened after 7"
    ));
}

#[test]
fn what_a_newer_version_wrote_is_refused() {
    let bench = Bench::new();
    bench.write();
    let mut content = fs::read(bench.path()).unwrap();
    let offset = content.len();
    let last = B256::from_slice(&content[offset - HASH..]);
    let mut longer = codec::encode(Duration::ZERO, &bench.lines[0].record);
    longer.push(0);
    for body in [&[99; 9][..], &longer, &[]] {
        content.truncate(offset);
        frame(&mut content, last, body);
        let damage = read(&content, identity(1), bounds()).map(|found| found.torn);
        assert_eq!(damage, Err(Damage::Unknown { offset }));
    }
}

#[test]
fn the_record_of_another_chain_or_key_is_refused_by_name_and_value() {
    let bench = Bench::new();
    bench.write();
    let open = |identity| {
        Claimed::open(&bench.path(), identity, bounds()).map(|_| ()).unwrap_err().to_string()
    };
    let path = bench.path().display().to_string();
    let other = Identity { chain_id: 1, ..identity(1) };
    let reason = "is the record of chain 80094, and the signer is for 1";
    assert_eq!(open(other), format!("{path}: {reason}"));
    let (ours, theirs) = (identity(2).public_key, identity(1).public_key);
    let reason = format!("is the record of the key {theirs}, and the signer has {ours}");
    assert_eq!(open(identity(2)), format!("{path}: {reason}"));
    fs::write(bench.path(), "0x1234").unwrap();
    bench.assert_refused("is not a signer's record, or one of another version");
}

#[test]
fn two_signers_do_not_share_a_record() {
    let bench = Bench::new();
    let taken = "cannot be used: another signer has it: there is one";
    let (claimed, _) = bench.open().unwrap();
    bench.assert_refused(taken);

    let early = File::open(bench.path()).unwrap();
    let mut file = RecordFile::begin(claimed, &[], Duration::ZERO).unwrap();
    bench.assert_refused(taken);
    file.rewrite(&[], Duration::ZERO).unwrap();
    bench.assert_refused(taken);
    // Opened before the file was replaced, locked after.
    assert_eq!(lock(&early, &bench.path()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
}

#[test]
fn a_record_written_anew_leads_to_the_same_state_in_fewer_bytes() {
    let mut bench = Bench::new();
    let epoch = bench.decide(|machine, now| machine.acquire_lease("b", 60 * SECOND, now)).epoch;
    for block_number in 200..264 {
        let seq = bench.session(epoch, block_number);
        bench.sign(epoch, Position::new(seq, 0), true);
    }
    bench.write();
    let before = fs::metadata(bench.path()).unwrap().len();
    let (claimed, found) = bench.open().unwrap();
    // A crash left one behind.
    fs::write(bench.path().with_file_name("record.new"), vec![0xff; 100_000]).unwrap();

    let file = RecordFile::begin(claimed, &bench.machine.condensed(), found.until).unwrap();

    assert!(file.bytes() < before, "{} is not less than {before}", file.bytes());
    assert!(!file.is_long());
    drop(file);
    let (_, found) = bench.open().unwrap();
    assert_eq!(found.machine, Some(bench.machine));
    assert_eq!(fs::read_dir(bench.directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_synced_is_in_the_file_however_often_it_is_written_anew() {
    let bench = Bench::new();
    let mut machine = bench.machine.clone();
    let at = bench.lines[bench.lines.len() - 1].at;
    let grant = machine.acquire_lease("b", SECOND, at + SECOND).unwrap().into_inner();
    let epoch = grant.epoch;
    machine.commit(&grant.into(), at);
    let machine = Arc::new(Mutex::new(machine));
    let (claimed, _) = bench.open().unwrap();
    let metrics = Metrics::new(&Registry::new("test"));
    let (recorder, mut writer) = start(claimed, Arc::clone(&machine), at, metrics).unwrap();
    let begun = writer.file.bytes();
    // Whenever it has doubled.
    writer.file.long = 0;
    let writing = thread::spawn(move || writer.run());

    for number in 0..100 {
        let room = recorder.room().await;
        let handed = {
            let mut machine = machine.lock().unwrap();
            let record: Record = machine.renew_lease(epoch).unwrap().into_inner().into();
            let at = at + Duration::from_millis(number);
            machine.commit(&record, at);
            room.hand_over(Line { at, record });
            recorder.handed()
        };
        if number % 7 == 0 {
            recorder.synced(handed).await;
            let content = fs::read(bench.path()).unwrap();
            let found = read(&content, identity(1), bounds()).unwrap();
            assert_eq!(found.machine.as_ref(), Some(&*machine.lock().unwrap()));
        }
    }
    drop(recorder);
    writing.join().unwrap().unwrap();

    let (_, found) = bench.open().unwrap();
    assert_eq!(found.machine.as_ref(), Some(&*machine.lock().unwrap()));
    assert_eq!(found.until, at + Duration::from_millis(99));
    let bytes = fs::metadata(bench.path()).unwrap().len();
    assert!(bytes < 3 * begun, "{bytes} from {begun}");
}

#[tokio::test]
async fn what_could_not_be_written_is_never_synced() {
    let bench = Bench::new();
    let Line { at, record } = bench.lines[bench.lines.len() - 1].clone();
    let machine = Arc::new(Mutex::new(bench.machine.clone()));
    let (claimed, _) = bench.open().unwrap();
    let metrics = Metrics::new(&Registry::new("test"));
    let (recorder, mut writer) = start(claimed, machine, at, metrics).unwrap();
    writer.file.file = File::open(bench.path()).unwrap();
    recorder.room().await.hand_over(Line { at, record });
    let ended = thread::spawn(move || writer.run()).join().unwrap();

    assert!(matches!(ended, Err(RecordError::Append { .. })), "it can only be read");
    recorder.ended().await;
    // Had it been synced, this would be known by now.
    let synced = std::pin::pin!(recorder.synced(recorder.handed()));
    let waker = std::task::Waker::noop();
    assert!(synced.poll(&mut std::task::Context::from_waker(waker)).is_pending());
}

#[test]
fn the_largest_checkpoint_can_be_read_again() {
    use crate::watermark::{Checkpoint, Highest, Lease, MAX_RETRACTION_LISTS, RetractionList};
    let list = RetractionList { digest: preconf_primitives::Digest::new(B256::repeat_byte(9)) };
    let record = Record::Checkpoint(Checkpoint {
        epoch: Epoch::new(u64::MAX),
        last_seq: Seq::new(u64::MAX),
        // A holder's name has 64 bytes at most on the wire.
        lease: Some(Lease { holder: "x".repeat(64), duration: SECOND, expires_at: SECOND }),
        highest: Some(Highest { block_number: u64::MAX, at: SECOND }),
        retracted: vec![list; MAX_RETRACTION_LISTS],
    });
    let body = codec::encode(SECOND, &record);
    assert!(body.len() < MAX_BODY, "{}", body.len());
    assert_eq!(codec::decode(&body), Some(Line { at: SECOND, record }));
}
