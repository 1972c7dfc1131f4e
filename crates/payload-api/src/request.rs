//! The request: which block is wanted.
//!
//! It is decoded as beacon-kit's server does it: the first JSON value counts and what follows is
//! ignored, unknown fields are ignored, missing ones are zero, names are compared without regard to
//! case, and the last of several counts. The value is read to its end before any field is looked at:
//! of one that is cut short, nothing else is said.

use std::{borrow::Cow, fmt};

use alloy_primitives::{B256, hex};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use crate::{MAX_REQUEST_BYTES, error_body::line};

/// Which block is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct PayloadRequest {
    /// The slot: the height of the consensus block that it is for.
    #[serde(serialize_with = "quantity")]
    pub slot: u64,
    /// The root of the beacon block before it. It is not a hash of the execution chain.
    pub parent_block_root: B256,
}

/// Why bytes are not a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is nothing.
    #[error("EOF")]
    Empty,
    /// There is only the beginning of something.
    #[error("unexpected EOF")]
    Truncated,
    /// It is something else.
    #[error("malformed request")]
    Malformed(#[source] serde_json::Error),
    /// Its end is not within [`MAX_REQUEST_BYTES`].
    #[error("request body too large")]
    TooLarge,
}

/// The body of a request, as it comes in: as much of it as a request may have.
#[derive(Debug, Default)]
pub struct RequestBody {
    bytes: Vec<u8>,
    has_more: bool,
}

impl RequestBody {
    /// Takes the next piece. Says whether one after it is of any interest.
    pub fn take(&mut self, piece: &[u8]) -> bool {
        let kept = piece.len().min(MAX_REQUEST_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&piece[..kept]);
        self.has_more |= kept < piece.len();
        !self.has_more
    }

    /// What is wanted. Bytes after it are of no interest, if they are not too many to see where it
    /// ends.
    ///
    /// # Errors
    /// If it is no request.
    pub fn read(&self) -> Result<PayloadRequest, RequestError> {
        match PayloadRequest::decode(&self.bytes) {
            Err(RequestError::Empty | RequestError::Truncated) if self.has_more => {
                Err(RequestError::TooLarge)
            }
            decoded => decoded,
        }
    }
}

impl PayloadRequest {
    /// Reads the first JSON value of `bytes`, however many they are.
    ///
    /// # Errors
    /// If there is none, or it is no request.
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
        match values.next() {
            None => return Err(RequestError::Empty),
            Some(Ok(IgnoredAny)) => {}
            Some(Err(error)) if error.is_eof() => return Err(RequestError::Truncated),
            Some(Err(error)) => return Err(RequestError::Malformed(error)),
        }
        let first = bytes.get(..values.byte_offset()).unwrap_or(bytes);
        let request: Option<Lenient> =
            serde_json::from_slice(first).map_err(RequestError::Malformed)?;
        // Null leaves every field as it was.
        Ok(request.map_or_else(Self::default, |Lenient(request)| request))
    }

    /// As it is sent.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = line(self);
        text.pop();
        text
    }
}

fn quantity<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

struct Lenient(PayloadRequest);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields).map(Self)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = PayloadRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with slot and parent_block_root")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PayloadRequest, A::Error> {
        let mut request = PayloadRequest::default();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if name.eq_ignore_ascii_case("slot") {
                let text = map.next_value::<Cow<'_, str>>()?;
                request.slot = slot(&text).map_err(A::Error::custom)?;
            } else if name.eq_ignore_ascii_case("parent_block_root") {
                let text = map.next_value::<Cow<'_, str>>()?;
                request.parent_block_root = root(&text).map_err(A::Error::custom)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(request)
    }
}

/// A hex quantity: no leading zeros, at most 64 bits.
fn slot(text: &str) -> Result<u64, &'static str> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let digits = digits.ok_or("slot: hex string without 0x prefix")?;
    match digits.as_bytes() {
        [] => return Err("slot: empty hex string"),
        [b'0', _, ..] => return Err("slot: hex number with leading zero digits"),
        all if !all.iter().all(u8::is_ascii_hexdigit) => return Err("slot: invalid hex string"),
        [..] => {}
    }
    u64::from_str_radix(digits, 16).map_err(|_| "slot: hex number larger than 64 bits")
}

fn root(text: &str) -> Result<B256, &'static str> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let digits = digits.ok_or("parent_block_root: hex string without 0x prefix")?;
    let mut root = B256::ZERO;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("parent_block_root: not 32 bytes of hex");
    }
    hex::decode_to_slice(digits, root.as_mut_slice())
        .map_err(|_| "parent_block_root: not 32 bytes of hex")?;
    Ok(root)
}
