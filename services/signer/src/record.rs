//! The signer's record on disk: what it decided, written and synced before a signature leaves (D4).
//!
//! One process has the file at a time. It is a header and the decisions in the order in which the
//! machine committed them, so that a machine that applies them again comes to the same state: it
//! remembers what was signed, goes on in the session that is open, and gives no number twice.
//!
//! Invariants:
//! * nothing that follows from a decision leaves the process before the decision is on the disk;
//! * after a write or a sync that failed nothing is written any more, and nothing is signed;
//! * what is intact is never changed in place: it is appended to, or a file beside it takes its place;
//! * a file that is not understood to its end is refused and left as it is.
//!
//! The header: sixteen bytes that say what the file is and in which version, the chain (u64), the
//! public key (48 bytes), the length of the file when it took its place (u64), and the keccak256 of
//! these. Each record: the length of its body and the
//! complement of that (u32 each), the body ([`codec`]), and the keccak256 of the hash before and the
//! body. All numbers are big endian. So a record that was changed, left out or moved is found, and so
//! is a length that was; that records are missing at the end is not, and an old copy of the file
//! cannot be told from the newest one. Therefore new numbers also stay above the clock's
//! ([`Seed`](crate::Seed)).
//!
//! A file that ends before its last record does was cut short by a crash: whoever waited for that
//! record never had an answer. It is left out. So is what ends in zeros from the beginning of a record
//! or of a disk sector: a file system may have made the file longer before a loss of power and not have
//! written what was appended (ext4 does). As a disk that forgets looks the same, nobody goes on with the
//! lease then. Everything else that does not fit is damage.
//!
//! Bounds: at the start, and whenever it is longer than [`LONG`], the file is written anew with what
//! the machine still holds ([`Watermark::condensed`]).

mod codec;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use alloy_primitives::{B256, FixedBytes, Keccak256, keccak256};
use preconf_chassis::ConfigError;
use preconf_signing::PublicKey;

use crate::{
    Seed,
    watermark::{Contradiction, LeaseBounds, Record, Watermark},
};

pub(crate) use writer::{Recorder, Room, start};

/// When the file is written anew, or when it is twice as long as it was then, if that is more.
const LONG: u64 = 8 * 1024 * 1024;
/// The largest file that is read: twice what the machine can hold is less than half of it.
const MAX_READ: u64 = 64 * 1024 * 1024;
/// The largest body: a checkpoint with all its lists of retractions has little more than half of it.
const MAX_BODY: usize = 4096;
/// What a disk writes as a whole, or not at all.
const SECTOR: usize = 512;
const MAGIC: [u8; 16] = *b"preconf-signer\0\x01";
const CHAIN_ID: usize = MAGIC.len();
const PUBLIC_KEY: usize = CHAIN_ID + 8;
const WHOLE: usize = PUBLIC_KEY + 48;
const HEADER_HASH: usize = WHOLE + 8;
const HEADER: usize = HEADER_HASH + HASH;
/// A length and its complement.
const HEAD: usize = 8;
const HASH: usize = 32;

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The chain that signatures are for.
    pub(crate) chain_id: u64,
    /// The key that signs.
    pub(crate) public_key: PublicKey,
}

/// A decision and the machine's time when it was committed, in whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Duration,
    pub(crate) record: Record,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// The machine that its records lead to; none if the file is new.
    pub(crate) machine: Option<Watermark>,
    /// When the last one was committed.
    pub(crate) until: Duration,
    /// How many bytes at its end are no whole record.
    pub(crate) torn: usize,
    /// Whether these end in zeros.
    pub(crate) zeros: bool,
}

/// A file that was read, and is locked until another one takes its place.
#[derive(Debug)]
pub(crate) struct Claimed {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

/// A file that is appended to.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    identity: Identity,
    file: File,
    bytes: u64,
    /// When it is written anew: [`LONG`].
    long: u64,
    /// How long it was when it was last written anew.
    anew: u64,
    /// The hash of the last record.
    last: B256,
}

/// A decision could not be put on the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// In the file that is there.
    #[error("writing to {path}")]
    Append {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// In the one that was to take its place.
    #[error("writing {path} anew")]
    Rewrite {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where and why a file is not the record of a signer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Damage {
    #[error("is not a signer's record, or one of another version")]
    NotARecord,
    #[error("is damaged in its header")]
    Header,
    #[error("is cut short: it has {found} bytes, and had {whole} from the beginning")]
    Short { found: usize, whole: u64 },
    #[error("is the record of chain {found}, and the signer is for {expected}")]
    Chain { found: u64, expected: u64 },
    #[error("is the record of the key {found}, and the signer has {expected}")]
    Key { found: FixedBytes<48>, expected: FixedBytes<48> },
    #[error("is damaged in the record at byte {offset}: its length makes no sense")]
    Length { offset: usize },
    #[error("is damaged in the record at byte {offset}: it does not follow from those before it")]
    Hash { offset: usize },
    #[error("holds what this version does not know in the record at byte {offset}")]
    Unknown { offset: usize },
    #[error("contradicts itself in the record at byte {offset}: {contradiction}")]
    Contradiction { offset: usize, contradiction: Contradiction },
}

impl Claimed {
    /// Opens the file, or makes it, and reads what it holds. Changes nothing that is in it.
    ///
    /// # Errors
    /// If it cannot be used; names it and says why.
    pub(crate) fn open(
        path: &Path,
        identity: Identity,
        bounds: LeaseBounds,
    ) -> Result<(Self, Found), ConfigError> {
        let unusable = |error: io::Error| ConfigError::file(path, "cannot be used").because(error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(unusable)?;
        lock(&file, path).map_err(unusable)?;
        let length = file.metadata().map_err(unusable)?.len();
        if length > MAX_READ {
            let reason = format!("has {length} bytes, which is more than a signer's record has");
            return Err(ConfigError::file(path, reason));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(unusable)?;
        let found =
            read(&content, identity, bounds).map_err(|damage| ConfigError::file(path, damage))?;
        Ok((Self { path: path.to_owned(), identity, _lock: file }, found))
    }
}

impl RecordFile {
    /// Puts a file with these records into the place of the one that was read.
    pub(crate) fn begin(
        claimed: Claimed,
        records: &[Record],
        at: Duration,
    ) -> Result<Self, RecordError> {
        let Claimed { path, identity, _lock } = claimed;
        write_anew(&path, identity, records, at)
            .map_err(|source| RecordError::Rewrite { path, source })
    }

    /// Puts a file with these records into the place of this one.
    pub(crate) fn rewrite(&mut self, records: &[Record], at: Duration) -> Result<(), RecordError> {
        let anew = write_anew(&self.path, self.identity, records, at)
            .map_err(|source| RecordError::Rewrite { path: self.path.clone(), source })?;
        *self = Self { long: self.long, ..anew };
        Ok(())
    }

    /// Appends all of them and returns when they are on the disk. After an error the file is of no
    /// more use: what of it is on the disk nobody knows.
    pub(crate) fn append(&mut self, lines: &[Line]) -> Result<(), RecordError> {
        let mut bytes = Vec::new();
        for Line { at, record } in lines {
            self.last = frame(&mut bytes, self.last, &codec::encode(*at, record));
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|source| RecordError::Append { path: self.path.clone(), source })?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes it has.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is time to write it anew.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes > self.long.max(2 * self.anew)
    }
}

/// Locks the file, if it is still the one at this path.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    let taken =
        || io::Error::new(io::ErrorKind::ResourceBusy, "another signer has it: there is one");
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => taken(),
        TryLockError::Error(error) => error,
    })?;
    // Whoever had it may have put another file into its place before the lock was free.
    let (locked, there) = (file.metadata()?, fs::metadata(path)?);
    let is_there = (locked.dev(), locked.ino()) == (there.dev(), there.ino());
    if is_there { Ok(()) } else { Err(taken()) }
}

/// Writes a file beside the one at `path`, and puts it into its place when it is on the disk.
fn write_anew(
    path: &Path,
    identity: Identity,
    records: &[Record],
    at: Duration,
) -> io::Result<RecordFile> {
    let bodies: Vec<_> = records.iter().map(|record| codec::encode(at, record)).collect();
    let whole = bodies.iter().fold(HEADER, |length, body| length + HEAD + body.len() + HASH);
    let mut bytes = header(identity, whole as u64).to_vec();
    let mut last = B256::from_slice(&bytes[HEADER_HASH..]);
    for body in &bodies {
        last = frame(&mut bytes, last, body);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside)?;
    lock(&file, &beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    let (path, bytes) = (path.to_owned(), bytes.len() as u64);
    Ok(RecordFile { path, identity, file, bytes, long: LONG, anew: bytes, last })
}

fn header(Identity { chain_id, public_key }: Identity, whole: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..CHAIN_ID].copy_from_slice(&MAGIC);
    header[CHAIN_ID..PUBLIC_KEY].copy_from_slice(&chain_id.to_be_bytes());
    header[PUBLIC_KEY..WHOLE].copy_from_slice(public_key.to_bytes().as_slice());
    header[WHOLE..HEADER_HASH].copy_from_slice(&whole.to_be_bytes());
    let hash = keccak256(&header[..HEADER_HASH]);
    header[HEADER_HASH..].copy_from_slice(hash.as_slice());
    header
}

/// Appends a record to `bytes`, and returns its hash.
fn frame(bytes: &mut Vec<u8>, before: B256, body: &[u8]) -> B256 {
    assert!(body.len() <= MAX_BODY, "a record of {} bytes could not be read again", body.len());
    let length = body.len() as u32;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&(!length).to_be_bytes());
    bytes.extend_from_slice(body);
    let hash = chained(before, body);
    bytes.extend_from_slice(hash.as_slice());
    hash
}

fn chained(before: B256, body: &[u8]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(before);
    hasher.update(body);
    hasher.finalize()
}

/// What the content of a file leads to.
fn read(content: &[u8], identity: Identity, bounds: LeaseBounds) -> Result<Found, Damage> {
    if content.is_empty() {
        return Ok(Found { machine: None, until: Duration::ZERO, torn: 0, zeros: false });
    }
    let (mut last, whole) = read_header(content, identity)?;
    let mut machine = Watermark::new(bounds, Seed::default());
    let (mut offset, mut until) = (HEADER, Duration::ZERO);
    let zeros = loop {
        let (body, hash) = match next_record(content, offset, last) {
            Ok(Some(next)) => next,
            Ok(None) => break false,
            // All that was there when the file took its place had been synced.
            Err(_) if offset as u64 >= whole && has_zeros(content, offset) => break true,
            Err(damage) => return Err(damage),
        };
        let Line { at, record } = codec::decode(body).ok_or(Damage::Unknown { offset })?;
        machine
            .apply(&record, at)
            .map_err(|contradiction| Damage::Contradiction { offset, contradiction })?;
        (last, until) = (hash, until.max(at));
        offset += HEAD + body.len() + HASH;
    };
    Ok(Found { machine: Some(machine), until, torn: content.len() - offset, zeros })
}

/// Whether there are only zeros from the beginning of the record at `offset`, or of a sector in it.
fn has_zeros(content: &[u8], offset: usize) -> bool {
    let data = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let from = if data <= offset { offset } else { data.next_multiple_of(SECTOR) };
    let head = content[offset..].first_chunk::<HEAD>();
    let body = head.and_then(body_length).unwrap_or_default();
    from < content.len().min(offset + HEAD + body + HASH)
}

/// The hash that the first record follows, and how long the file was when it took its place.
fn read_header(content: &[u8], identity: Identity) -> Result<(B256, u64), Damage> {
    if !content.starts_with(&MAGIC) {
        return Err(Damage::NotARecord);
    }
    let header: &[u8; HEADER] = content.first_chunk().ok_or(Damage::Header)?;
    let hash = keccak256(&header[..HEADER_HASH]);
    if header[HEADER_HASH..] != hash[..] {
        return Err(Damage::Header);
    }
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(number)
    };
    let (found, expected) = (number(CHAIN_ID), identity.chain_id);
    if found != expected {
        return Err(Damage::Chain { found, expected });
    }
    let found = FixedBytes::from_slice(&header[PUBLIC_KEY..WHOLE]);
    let expected = identity.public_key.to_bytes();
    if found != expected {
        return Err(Damage::Key { found, expected });
    }
    let (found, whole) = (content.len(), number(WHOLE));
    if (found as u64) < whole { Err(Damage::Short { found, whole }) } else { Ok((hash, whole)) }
}

/// Body and hash of the record at `offset`, which follows `last`; none if the file ends before it does.
fn next_record(content: &[u8], offset: usize, last: B256) -> Result<Option<(&[u8], B256)>, Damage> {
    let Some((head, rest)) = content[offset..].split_first_chunk::<HEAD>() else { return Ok(None) };
    let body = body_length(head).ok_or(Damage::Length { offset })?;
    let Some(whole) = rest.get(..body + HASH) else { return Ok(None) };
    let (body, hash) = (&whole[..body], B256::from_slice(&whole[body..]));
    if chained(last, body) == hash { Ok(Some((body, hash))) } else { Err(Damage::Hash { offset }) }
}

fn body_length(&[a, b, c, d, e, f, g, h]: &[u8; HEAD]) -> Option<usize> {
    let (length, complement) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let body = length as usize;
    (complement == !length && body <= MAX_BODY).then_some(body)
}
