//! How a decision is written: a number for its kind, the time (u64, milliseconds), and its fields.
//!
//! Numbers are big endian and of fixed width, what may be missing has a byte 0 or 1 before it. There
//! is one way to write a decision; bytes that are not that way mean nothing. A kind or a field is
//! never given another meaning: what changes gets a new kind.

use std::time::Duration;

use alloy_primitives::{B256, FixedBytes};
use preconf_primitives::{
    AbandonReason, Abandoned, Digest, Epoch, PayloadId, Position, Sealed, Seq, Session,
};

use super::Line;
use crate::watermark::{
    Checkpoint, Entry, Grant, Highest, Lease, MAX_RETRACTION_LISTS, Opened, Record, RetractionList,
};

const LEASE: u8 = 1;
const SESSION: u8 = 2;
const FLASHBLOCK: u8 = 3;
const ABANDONED: u8 = 4;
const SEALED: u8 = 5;
const RETRACTED: u8 = 6;
const CHECKPOINT: u8 = 7;

/// The body of a record.
pub(super) fn encode(at: Duration, record: &Record) -> Vec<u8> {
    let body = |kind| Body(vec![kind]).time(at);
    let Body(bytes) = match record {
        Record::Lease(Grant { epoch, holder, duration }) => {
            body(LEASE).number(epoch.get()).time(*duration).text(holder)
        }
        Record::Session(Opened { session, parent_digest }) => {
            let Session { epoch, seq, block_number, parent_hash, payload_id } = *session;
            body(SESSION)
                .number(epoch.get())
                .number(seq.get())
                .number(block_number)
                .bytes(parent_hash)
                .bytes(payload_id)
                .bytes(parent_digest.get())
        }
        Record::Flashblock(entry) => flashblock(body(FLASHBLOCK), entry),
        Record::Abandoned(Abandoned { seq, block_number, last_digest, reason }) => body(ABANDONED)
            .number(seq.get())
            .number(*block_number)
            .bytes(last_digest.get())
            .byte(reason.number()),
        Record::Sealed(Sealed { seq, block_number, last_digest, block_hash, state_root }) => {
            body(SEALED)
                .number(seq.get())
                .number(*block_number)
                .bytes(last_digest.get())
                .bytes(*block_hash)
                .bytes(*state_root)
        }
        Record::Retracted(RetractionList { digest }) => body(RETRACTED).bytes(digest.get()),
        Record::Checkpoint(state) => checkpoint(body(CHECKPOINT), state),
    };
    bytes
}

fn flashblock(body: Body, entry: &Entry) -> Body {
    let Entry {
        position: Position { seq, index },
        block_number,
        payload_id,
        transactions,
        parent_digest,
        digest,
        is_last,
    } = *entry;
    body.number(seq.get())
        .number(index)
        .number(block_number)
        .bytes(payload_id)
        .bytes(transactions)
        .bytes(parent_digest.get())
        .bytes(digest.get())
        .byte(is_last.into())
}

fn checkpoint(body: Body, state: &Checkpoint) -> Body {
    let Checkpoint { epoch, last_seq, lease, highest, retracted } = state;
    let body = body.number(epoch.get()).number(last_seq.get());
    let body = match lease {
        Some(Lease { holder, duration, expires_at }) => {
            body.byte(1).time(*duration).time(*expires_at).text(holder)
        }
        None => body.byte(0),
    };
    let body = match highest {
        Some(Highest { block_number, at }) => body.byte(1).number(*block_number).time(*at),
        None => body.byte(0),
    };
    let body = body.number(retracted.len() as u64);
    retracted.iter().fold(body, |body, list| body.bytes(list.digest.get()))
}

/// What a body says; none if it is not one that [`encode`] writes.
pub(super) fn decode(body: &[u8]) -> Option<Line> {
    let (&kind, rest) = body.split_first()?;
    let mut fields = Fields(rest);
    let at = fields.time()?;
    let record = match kind {
        LEASE => Record::Lease(Grant {
            epoch: fields.epoch()?,
            duration: fields.time()?,
            holder: fields.text()?,
        }),
        SESSION => Record::Session(fields.opened()?),
        FLASHBLOCK => Record::Flashblock(fields.entry()?),
        ABANDONED => Record::Abandoned(Abandoned {
            seq: fields.seq()?,
            block_number: fields.number()?,
            last_digest: fields.digest()?,
            reason: AbandonReason::from_number(fields.byte()?)?,
        }),
        SEALED => Record::Sealed(Sealed {
            seq: fields.seq()?,
            block_number: fields.number()?,
            last_digest: fields.digest()?,
            block_hash: fields.hash()?,
            state_root: fields.hash()?,
        }),
        RETRACTED => Record::Retracted(RetractionList { digest: fields.digest()? }),
        CHECKPOINT => Record::Checkpoint(fields.checkpoint()?),
        _ => return None,
    };
    fields.0.is_empty().then_some(Line { at, record })
}

/// A body that is being written.
struct Body(Vec<u8>);

impl Body {
    fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn byte(self, byte: u8) -> Self {
        self.bytes([byte])
    }

    fn number(self, number: u64) -> Self {
        self.bytes(number.to_be_bytes())
    }

    fn time(self, time: Duration) -> Self {
        self.number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn text(self, text: &str) -> Self {
        self.number(text.len() as u64).bytes(text)
    }
}

/// What is left of a body that is being read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    fn epoch(&mut self) -> Option<Epoch> {
        self.number().map(Epoch::new)
    }

    fn seq(&mut self) -> Option<Seq> {
        self.number().map(Seq::new)
    }

    fn hash(&mut self) -> Option<B256> {
        self.array().map(FixedBytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.hash().map(Digest::new)
    }

    fn payload_id(&mut self) -> Option<PayloadId> {
        self.array().map(FixedBytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn opened(&mut self) -> Option<Opened> {
        let session = Session {
            epoch: self.epoch()?,
            seq: self.seq()?,
            block_number: self.number()?,
            parent_hash: self.hash()?,
            payload_id: self.payload_id()?,
        };
        Some(Opened { session, parent_digest: self.digest()? })
    }

    fn entry(&mut self) -> Option<Entry> {
        Some(Entry {
            position: Position::new(self.seq()?, self.number()?),
            block_number: self.number()?,
            payload_id: self.payload_id()?,
            transactions: self.hash()?,
            parent_digest: self.digest()?,
            digest: self.digest()?,
            is_last: self.flag()?,
        })
    }

    fn checkpoint(&mut self) -> Option<Checkpoint> {
        let (epoch, last_seq) = (self.epoch()?, self.seq()?);
        let lease = if self.flag()? { Some(self.lease()?) } else { None };
        let highest = if self.flag()? { Some(self.highest()?) } else { None };
        let lists = usize::try_from(self.number()?).ok()?;
        if lists > MAX_RETRACTION_LISTS {
            return None;
        }
        let list = |_| self.digest().map(|digest| RetractionList { digest });
        let retracted = (0..lists).map(list).collect::<Option<_>>()?;
        Some(Checkpoint { epoch, last_seq, lease, highest, retracted })
    }

    fn lease(&mut self) -> Option<Lease> {
        let (duration, expires_at) = (self.time()?, self.time()?);
        Some(Lease { duration, expires_at, holder: self.text()? })
    }

    fn highest(&mut self) -> Option<Highest> {
        Some(Highest { block_number: self.number()?, at: self.time()? })
    }
}
