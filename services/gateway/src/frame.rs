//! A message of the feed as it is sent: verified, encoded once, shared by all readers.
//!
//! A [`Frame`] can only be made by checking signatures, except for the gaps that we state ourselves.
//! Making one is CPU work of more than a millisecond and belongs off the runtime.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use preconf_primitives::{Abandoned, Arrival, Digest, Position, Sealed, Seq};
use preconf_signing::{Checked, Refusal, Signature, Verifier};
use preconf_wire::{
    feed::{EncodedItem, FeedItem},
    json,
};
use tokio::{sync::OnceCell, task::spawn_blocking};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// JSON up to this size is compressed where it is needed; larger JSON leaves the runtime.
const INLINE_COMPRESS_BYTES: usize = 32 * 1024;
/// What a frame costs besides its bytes.
const OVERHEAD_BYTES: usize = 512;

/// A message that can be served.
#[derive(Debug)]
pub(crate) struct Frame {
    item: Arc<FeedItem>,
    subject: Subject,
    json: Utf8Bytes,
    brotli: OnceCell<Bytes>,
    protobuf: OnceLock<EncodedItem>,
}

/// What a message is about, as far as order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A flashblock.
    Flashblock(Sealing),
    /// The end of a session: sealed or abandoned.
    End(End),
    /// Something is taken back.
    Retraction(Digest),
    /// Something is missing here.
    Gap,
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) seq: Seq,
    /// The digest of the statement.
    pub(crate) digest: Digest,
    /// The last flashblock that there was, of this session or of one before.
    pub(crate) last_digest: Digest,
}

/// A flashblock's place and the proof that the sequencer put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealing {
    pub(crate) arrival: Arrival,
    pub(crate) seal: Signature,
}

/// A message that is not for us to verify or to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// A signature is missing or bad.
    Refused(Refusal),
    /// It is a hint, which is signed by nobody.
    Hint,
}

impl From<Refusal> for Unserved {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Frame {
    /// Checks every signature of a message and encodes it.
    pub(crate) fn verify(verifier: &Verifier, item: FeedItem) -> Result<Self, Unserved> {
        let (subject, item) = match item {
            FeedItem::Flashblock(signed) => {
                let verified = verifier.flashblock(signed, Checked::Both)?;
                let sealing = Sealing {
                    arrival: Arrival::of(verified.flashblock(), verified.digest()),
                    seal: verified.get().seal,
                };
                (Subject::Flashblock(sealing), FeedItem::Flashblock(verified.into_inner()))
            }
            FeedItem::Abandoned(signed) => {
                let verified = verifier.abandoned(signed)?;
                let Abandoned { seq, last_digest, .. } = verified.get().statement;
                let end = End { seq, digest: verified.digest(), last_digest };
                (Subject::End(end), FeedItem::Abandoned(verified.into_inner()))
            }
            FeedItem::Sealed(signed) => {
                let verified = verifier.sealed(signed)?;
                let Sealed { seq, last_digest, .. } = verified.get().statement;
                let end = End { seq, digest: verified.digest(), last_digest };
                (Subject::End(end), FeedItem::Sealed(verified.into_inner()))
            }
            FeedItem::Retracted(signed) => {
                let verified = verifier.retracted(signed)?;
                let digest = verified.digest();
                (Subject::Retraction(digest), FeedItem::Retracted(verified.into_inner()))
            }
            FeedItem::Gap { .. } | FeedItem::Goodbye { .. } => return Err(Unserved::Hint),
        };
        Ok(Self::new(subject, item))
    }

    /// States that what was between `wanted` and `next` is not to be had here.
    pub(crate) fn gap(wanted: Position, next: Position) -> Self {
        Self::new(Subject::Gap, FeedItem::Gap { wanted, next })
    }

    fn new(subject: Subject, item: FeedItem) -> Self {
        let json = json::encode(&item).into();
        let (brotli, protobuf) = (OnceCell::new(), OnceLock::new());
        Self { item: Arc::new(item), subject, json, brotli, protobuf }
    }

    pub(crate) const fn item(&self) -> &Arc<FeedItem> {
        &self.item
    }

    pub(crate) const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Where it stands, if it is a flashblock.
    pub(crate) const fn position(&self) -> Option<Position> {
        match &self.subject {
            Subject::Flashblock(sealing) => Some(sealing.arrival.position),
            Subject::End(_) | Subject::Retraction(_) | Subject::Gap => None,
        }
    }

    pub(crate) const fn json(&self) -> &Utf8Bytes {
        &self.json
    }

    /// The JSON as brotli, computed when the first reader wants it.
    pub(crate) async fn brotli(&self) -> Bytes {
        let compressed = self.brotli.get_or_init(|| async {
            if self.json.len() <= INLINE_COMPRESS_BYTES {
                return json::compress(self.json.as_ref()).into();
            }
            let json = self.json.clone();
            let work = spawn_blocking(move || json::compress(json.as_ref()));
            work.await.expect("compressing does not panic and is not aborted").into()
        });
        compressed.await.clone()
    }

    /// The message as it goes over gRPC, encoded when the first subscriber wants it.
    pub(crate) fn protobuf(&self) -> EncodedItem {
        self.protobuf.get_or_init(|| EncodedItem::new(&self.item)).clone()
    }

    /// The bytes it keeps, in all forms, whether or not they are there yet.
    pub(crate) fn weight(&self) -> usize {
        let decoded = match self.item.as_ref() {
            FeedItem::Flashblock(signed) => signed.flashblock.transaction_bytes(),
            FeedItem::Abandoned(_)
            | FeedItem::Sealed(_)
            | FeedItem::Retracted(_)
            | FeedItem::Gap { .. }
            | FeedItem::Goodbye { .. } => 0,
        };
        self.json.len() + self.json.len() / 2 + 2 * decoded + OVERHEAD_BYTES
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use preconf_primitives::AbandonReason;
    use preconf_signing::SignedStatement;

    use super::*;

    /// A frame that claims to be a flashblock at `arrival`; its bytes are something else.
    pub(crate) fn flashblock(arrival: Arrival, bytes: usize) -> Arc<Frame> {
        let sealing = Sealing { arrival, seal: Signature::ZERO };
        Arc::new(Frame {
            json: "x".repeat(bytes).into(),
            subject: Subject::Flashblock(sealing),
            ..abandoned(arrival.position.seq)
        })
    }

    /// A frame that claims to be the end of a session.
    pub(crate) fn end(seq: Seq, digest: Digest) -> Arc<Frame> {
        let end = End { seq, digest, last_digest: Digest::ZERO };
        Arc::new(Frame { subject: Subject::End(end), ..abandoned(seq) })
    }

    fn abandoned(seq: Seq) -> Frame {
        let statement = Abandoned {
            seq,
            block_number: 1,
            last_digest: Digest::ZERO,
            reason: AbandonReason::Expired,
        };
        let signed = SignedStatement { statement, seal: Signature::ZERO };
        Frame::new(Subject::Retraction(Digest::ZERO), FeedItem::Abandoned(signed))
    }

    #[tokio::test]
    async fn a_frame_is_compressed_once_and_reads_back() {
        for bytes in [10, INLINE_COMPRESS_BYTES + 1] {
            let frame = Frame { json: "{".repeat(bytes).into(), ..abandoned(Seq::new(1)) };

            let (first, second) = tokio::join!(frame.brotli(), frame.brotli());

            assert_eq!(first.as_ptr(), second.as_ptr(), "both readers share the same bytes");
            let mut json = json::decompress(&first).unwrap().into_owned();
            json.truncate(bytes);
            assert_eq!(json, frame.json().as_bytes());
        }
    }

    #[test]
    fn a_hint_is_not_served() {
        let hint = FeedItem::Gap { wanted: Position::default(), next: Position::default() };
        let verifier = Verifier::new(1, vec![]);
        assert_eq!(Frame::verify(&verifier, hint).unwrap_err(), Unserved::Hint);
    }
}
