//! What is published, written down before it is, so that a builder that was killed goes on with it.
//!
//! A flashblock is written before it is signed, and its signatures when they are there: whatever
//! the signer may have signed is known here, and can be published after a restart, because identical
//! content has identical signatures. Statements are written when they are signed.
//!
//! The file is a sequence of records: length (u32, little endian, of what follows the checksum),
//! checksum (the first four bytes of the keccak256 of the same), kind (u8), session and index (u64
//! each, big endian), and a message of the feed or two signatures. What is not whole or not intact
//! ends the file, as a torn write does; everything before it counts.
//!
//! It is not flushed to the disk: it survives the end of the process, not of the machine. After
//! that, a builder that listens to the feed (`--standby-feed`) hears what it has promised.
//!
//! Bounds: beyond [`LONG`] the file is written anew with what the feed keeps. It is read one record
//! after the other, of which whoever reads keeps what it wants. One process has it at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_primitives::{FixedBytes, keccak256};
use preconf_primitives::{Flashblock, Position, Seq};
use preconf_signing::{Signature, SignedFlashblock};
use preconf_wire::feed::{EncodedItem, FeedItem};

/// When the file is written anew, or when it is twice as long as it was then, if that is more. All
/// of it is read, and its senders recovered, before the first build after a start.
const LONG: u64 = 8 * 1024 * 1024;
/// The largest file that is read.
const MAX_READ: u64 = 512 * 1024 * 1024;
/// The largest record that makes sense: a message of the feed has 16 MiB at most.
const MAX_RECORD: usize = 17 * 1024 * 1024;
const HEAD: usize = 8;
/// Kind, session and index.
const PREFIX: usize = 17;
const SIGNATURE: usize = 96;

/// The journal of one builder.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// How long it was when it was last written anew.
    anew: u64,
}

/// What a journal holds besides what was signed.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The flashblock that may or may not have been signed.
    pub(crate) unsigned: Option<Flashblock>,
    /// How many bytes at the end make no sense.
    pub(crate) torn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flashblock = 1,
    Signatures = 2,
    Statement = 3,
}

impl Journal {
    /// Opens the file, or makes it, and reads what it holds: `keep` gets what was signed, each at the
    /// flashblock it is or follows, in order.
    ///
    /// # Errors
    /// If that cannot be done, or another process has it.
    pub(crate) fn open(
        path: &Path,
        keep: impl FnMut(Position, FeedItem),
    ) -> io::Result<(Self, Recovered)> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        lock(&file)?;
        let length = file.metadata()?.len();
        if length > MAX_READ {
            let reason = format!("{length} bytes are more than a journal has");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let (recovered, whole) = read(BufReader::new(&file), length, keep)?;
        // What is torn would hide what is written behind it.
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        Ok((Self { path: path.to_owned(), file, bytes: whole, anew: 0 }, recovered))
    }

    /// Writes down a flashblock that is about to be signed.
    pub(crate) fn flashblock(&mut self, flashblock: &Flashblock) -> io::Result<()> {
        let unsigned = SignedFlashblock {
            flashblock: flashblock.clone(),
            signature: Signature::ZERO,
            seal: Signature::ZERO,
        };
        let message = EncodedItem::new(&FeedItem::Flashblock(unsigned));
        self.append(&record(Kind::Flashblock, flashblock.position(), &[message.as_bytes()]))
    }

    /// Writes down the signatures of the last flashblock.
    pub(crate) fn signatures(
        &mut self,
        at: Position,
        signature: &Signature,
        seal: &Signature,
    ) -> io::Result<()> {
        self.append(&record(Kind::Signatures, at, &[signature.as_slice(), seal.as_slice()]))
    }

    /// Writes down a statement that follows the flashblock at `at`.
    pub(crate) fn statement(&mut self, at: Position, statement: &FeedItem) -> io::Result<()> {
        self.append(&record(Kind::Statement, at, &[EncodedItem::new(statement).as_bytes()]))
    }

    /// Whether it is time to write it anew.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes > LONG.max(2 * self.anew)
    }

    /// Writes it anew with what is kept, beside the old one, and puts it in its place.
    pub(crate) fn rewrite(&mut self, kept: &[(Position, Arc<FeedItem>)]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&beside)?;
        lock(&file)?;
        let mut bytes = 0;
        for (at, item) in kept {
            for record in records(*at, item) {
                file.write_all(&record)?;
                bytes += record.len() as u64;
            }
        }
        file.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        (self.file, self.bytes, self.anew) = (file, bytes, bytes);
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(record) {
            // A torn record would hide those behind it.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(error);
        }
        self.bytes += record.len() as u64;
        Ok(())
    }
}

fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open")
        }
        TryLockError::Error(error) => error,
    })
}

fn record(kind: Kind, at: Position, body: &[&[u8]]) -> Vec<u8> {
    let length = PREFIX + body.iter().map(|part| part.len()).sum::<usize>();
    let mut record = Vec::with_capacity(HEAD + length);
    // Messages are far below 4 GiB.
    record.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.push(kind as u8);
    record.extend_from_slice(&at.seq.get().to_be_bytes());
    record.extend_from_slice(&at.index.to_be_bytes());
    for part in body {
        record.extend_from_slice(part);
    }
    let checksum = checksum(&record[HEAD..]);
    record[4..HEAD].copy_from_slice(&checksum);
    record
}

fn records(at: Position, item: &FeedItem) -> Vec<Vec<u8>> {
    match item {
        FeedItem::Flashblock(SignedFlashblock { signature, seal, .. }) => vec![
            record(Kind::Flashblock, at, &[EncodedItem::new(item).as_bytes()]),
            record(Kind::Signatures, at, &[signature.as_slice(), seal.as_slice()]),
        ],
        FeedItem::Abandoned(_) | FeedItem::Sealed(_) | FeedItem::Retracted(_) => {
            vec![record(Kind::Statement, at, &[EncodedItem::new(item).as_bytes()])]
        }
        // Hints are not kept.
        FeedItem::Gap { .. } | FeedItem::Goodbye { .. } => Vec::new(),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = keccak256(bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// What the content means, which has `length` bytes, and how much of it does.
fn read(
    mut content: impl Read,
    length: u64,
    mut keep: impl FnMut(Position, FeedItem),
) -> io::Result<(Recovered, u64)> {
    let mut recovered = Recovered::default();
    let (mut whole, mut record) = (0, Vec::new());
    while next_record(&mut content, &mut record)? {
        let Some((kind, at, body)) = parse(&record) else { break };
        match kind {
            Kind::Flashblock => {
                // One that has no signatures was never published: only the last may have any.
                let Ok(Some(FeedItem::Flashblock(signed))) = EncodedItem::decode(body) else {
                    break;
                };
                recovered.unsigned = Some(signed.flashblock);
            }
            Kind::Signatures => {
                let Some(flashblock) = recovered.unsigned.take_if(|last| last.position() == at)
                else {
                    break;
                };
                let (signature, seal) = body.split_at(SIGNATURE);
                let signature = FixedBytes::from_slice(signature);
                let seal = FixedBytes::from_slice(seal);
                let signed = SignedFlashblock { flashblock, signature, seal };
                keep(at, FeedItem::Flashblock(signed));
            }
            Kind::Statement => match EncodedItem::decode(body) {
                Ok(Some(item)) => keep(at, item),
                // Written by a newer version.
                Ok(None) => {}
                Err(_) => break,
            },
        }
        whole += (HEAD + record.len()) as u64;
    }
    recovered.torn = length.saturating_sub(whole);
    Ok((recovered, whole))
}

/// Reads one record after its checksum. `false` where there is none that is whole and intact.
fn next_record(content: &mut impl Read, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; HEAD];
    if !fill(content, &mut head)? {
        return Ok(false);
    }
    let [a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MAX_RECORD {
        return Ok(false);
    }
    record.resize(length, 0);
    Ok(fill(content, record)? && checksum(record) == sum)
}

/// `false` if there is not as much.
fn fill(content: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match content.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Kind, position and body of a record.
fn parse(record: &[u8]) -> Option<(Kind, Position, &[u8])> {
    let (kind, record) = record.split_first()?;
    let (seq, record) = record.split_first_chunk()?;
    let (index, body) = record.split_first_chunk()?;
    let kind = match kind {
        1 => Kind::Flashblock,
        2 if body.len() == 2 * SIGNATURE => Kind::Signatures,
        3 => Kind::Statement,
        _ => return None,
    };
    let at = Position::new(Seq::new(u64::from_be_bytes(*seq)), u64::from_be_bytes(*index));
    Some((kind, at, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{abandoned, at, flashblock};

    const SIGNED: (Signature, Signature) = (Signature::repeat_byte(1), Signature::repeat_byte(2));

    fn signed(position: Position) -> (Position, FeedItem) {
        let (signature, seal) = SIGNED;
        let flashblock = flashblock(position);
        (position, FeedItem::Flashblock(SignedFlashblock { flashblock, signature, seal }))
    }

    type Items = Vec<(Position, FeedItem)>;

    fn open(path: &Path) -> io::Result<(Journal, Recovered, Items)> {
        let mut items = Items::new();
        let (journal, recovered) = Journal::open(path, |at, item| items.push((at, item)))?;
        Ok((journal, recovered, items))
    }

    fn write(journal: &mut Journal, position: Position) {
        journal.flashblock(&flashblock(position)).unwrap();
        journal.signatures(position, &SIGNED.0, &SIGNED.1).unwrap();
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, recovered, items) = open(&path).unwrap();
        assert!(items.is_empty() && recovered.unsigned.is_none());
        write(&mut journal, at(7, 0));
        journal.statement(at(7, 0), &abandoned(7)).unwrap();
        write(&mut journal, at(8, 0));
        journal.flashblock(&flashblock(at(8, 1))).unwrap();
        drop(journal);

        let (mut journal, recovered, items) = open(&path).unwrap();
        let expected = [signed(at(7, 0)), (at(7, 0), abandoned(7)), signed(at(8, 0))];
        assert_eq!(items, expected);
        assert_eq!(recovered.unsigned, Some(flashblock(at(8, 1))));
        assert_eq!(recovered.torn, 0);
        journal.signatures(at(8, 1), &SIGNED.0, &SIGNED.1).unwrap();
        drop(journal);
        assert_eq!(open(&path).unwrap().2[3], signed(at(8, 1)));
    }

    #[test]
    fn wherever_the_end_is_torn_or_damaged_what_is_before_it_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, ..) = open(&path).unwrap();
        write(&mut journal, at(7, 0));
        let whole = journal.bytes as usize;
        write(&mut journal, at(7, 1));
        drop(journal);
        let content = std::fs::read(&path).unwrap();
        for end in whole..content.len() {
            let mut damaged = content.clone();
            damaged[end] ^= 1;
            for content in [&content[..end], &damaged[..]] {
                let (length, mut items) = (content.len() as u64, Items::new());
                let keep = |at, item| items.push((at, item));
                let (recovered, read) = read(content, length, keep).unwrap();
                assert_eq!(items[..], [signed(at(7, 0))], "{end}");
                assert_eq!(read + recovered.torn, length, "{end}");
            }
        }
        std::fs::write(&path, &content[..content.len() - 1]).unwrap();
        let (mut journal, recovered, _) = open(&path).unwrap();
        assert!(recovered.torn > 0);
        write(&mut journal, at(8, 0));
        drop(journal);
        let items = open(&path).unwrap().2;
        assert_eq!(items, [signed(at(7, 0)), signed(at(8, 0))]);
    }

    #[test]
    fn a_journal_written_anew_holds_what_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, ..) = open(&path).unwrap();
        for index in 0..10 {
            write(&mut journal, at(7, index));
        }
        let before = journal.bytes;
        let kept = [signed(at(8, 0)), (at(8, 0), abandoned(8))];
        let kept = kept.map(|(at, item)| (at, Arc::new(item)));
        journal.rewrite(&kept).unwrap();
        assert!(journal.bytes < before);
        write(&mut journal, at(9, 0));
        drop(journal);
        let items = open(&path).unwrap().2;
        assert_eq!(items, [signed(at(8, 0)), (at(8, 0), abandoned(8)), signed(at(9, 0))]);
    }

    #[test]
    fn a_length_that_makes_no_sense_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, ..) = open(&path).unwrap();
        write(&mut journal, at(7, 0));
        let whole = journal.bytes;
        drop(journal);
        let mut content = std::fs::read(&path).unwrap();
        content.extend_from_slice(&[0xff; 64]);
        std::fs::write(&path, &content).unwrap();
        let (journal, recovered, items) = open(&path).unwrap();
        assert_eq!((items.len(), recovered.torn, journal.bytes), (1, 64, whole));
    }

    #[test]
    fn two_builders_do_not_share_a_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let _journal = open(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
}
