//! The secret shared by two ends of an Engine API link, and the tokens made with it.
//!
//! Invariants: only HS256 is accepted, whatever the token's header says; a token is good for
//! [`ISSUED_AT_TOLERANCE_SECS`] around the moment it was issued, and an `exp`, which nobody needs
//! to send, is honoured when it is there. A secret can be replaced while it is in use: the two ends of
//! a link are not changed in the same moment, so the one before is honoured until the peer has shown
//! the new one, and [`OVERLAP_SECS`] longer. Time is an argument. The secret is never printed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use alloy_primitives::hex;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// How far the clocks of the two ends may be apart.
pub const ISSUED_AT_TOLERANCE_SECS: u64 = 60;

/// For how long a secret that was replaced is honoured after the new one was used.
pub const OVERLAP_SECS: u64 = 900;

/// More than any secret with white space around it.
const MAX_FILE_BYTES: u64 = 4096;

/// A shared secret of 32 bytes.
pub struct JwtSecret {
    validation: Validation,
    keys: RwLock<Keys>,
}

struct Keys {
    current: Key,
    before: Option<Before>,
}

/// The secret before.
struct Before {
    key: Key,
    /// Until when it is honoured; not known before the peer has shown the new one.
    until: Option<u64>,
}

#[derive(Clone)]
struct Key {
    bytes: [u8; 32],
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JwtFileError {
    /// The file cannot be opened or read.
    #[error("reading the JWT secret {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Everybody on the machine may read the file.
    #[error("the JWT secret {path} is open to others (mode {mode:03o}): chmod o-rwx it")]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not 32 bytes of hex.
    #[error("the JWT secret {path} must be 64 hex digits, with or without 0x: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        reason: &'static str,
    },
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// There is no `Authorization: Bearer` header.
    #[error("missing token")]
    Missing,
    /// The token is not a JWT, or claims no algorithm we know.
    #[error("malformed token")]
    Malformed,
    /// The token was made with another algorithm than HS256.
    #[error("unsupported algorithm, use HS256")]
    Algorithm,
    /// The token was made with another secret.
    #[error("wrong signature")]
    Signature,
    /// The token was issued too long ago, or in the future.
    #[error("stale token: iat is not within 60 s of our clock")]
    IssuedAt,
    /// The token says itself that it has expired.
    #[error("expired token")]
    Expired,
}

#[derive(Deserialize, Serialize)]
struct Claims {
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
}

impl JwtSecret {
    /// The secret made of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked by hand: the library would require `exp` and read its own clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let current = Key {
            bytes,
            encoding: EncodingKey::from_secret(&bytes),
            decoding: DecodingKey::from_secret(&bytes),
        };
        Self { validation, keys: RwLock::new(Keys { current, before: None }) }
    }

    /// Reads the secret from a file: 64 hex digits, `0x` and white space around them optional.
    ///
    /// # Errors
    ///
    /// One line naming the file and the reason. A file that others than its owner and group may
    /// touch is refused.
    pub fn read(path: &Path) -> Result<Self, JwtFileError> {
        let read = |source| JwtFileError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(JwtFileError::OpenToOthers { path: path.to_owned(), mode });
        }
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(read)?;
        let malformed = |reason| JwtFileError::Malformed { path: path.to_owned(), reason };
        let text = std::str::from_utf8(&content).map_err(|_| malformed("it is not text"))?.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() != 64 {
            return Err(malformed("the length is wrong"));
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| malformed("it is not hex"))?;
        Ok(Self::from_bytes(bytes))
    }

    /// Puts another secret in the place of this one. `false` if it is the same.
    pub fn replace(&self, new: &Self) -> bool {
        let new = new.keys().current.clone();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.current.bytes == new.bytes {
            return false;
        }
        let old = std::mem::replace(&mut keys.current, new);
        // One that the peer never showed is not what it has.
        if keys.before.as_ref().is_none_or(|before| before.until.is_some()) {
            keys.before = Some(Before { key: old, until: None });
        }
        true
    }

    /// A token issued at `now_unix`.
    pub fn sign(&self, now_unix: u64) -> String {
        self.keys().current.sign(now_unix)
    }

    /// The same with the secret before, for a peer that has not been given this one yet.
    pub fn sign_as_before(&self, now_unix: u64) -> Option<String> {
        // The peer decides for how long it takes it.
        self.keys().before.as_ref().map(|before| before.key.sign(now_unix))
    }

    /// The peer has shown the new secret.
    fn shown(&self, now_unix: u64) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = keys.before.as_mut().filter(|before| before.is_awaited()) {
            before.until = Some(now_unix.saturating_add(OVERLAP_SECS));
        }
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        // Nothing under this lock can be left half done.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a token (what follows `Bearer`) against the clock `now_unix`.
    ///
    /// # Errors
    ///
    /// The reason, fit to be shown to the peer.
    pub fn verify(&self, token: &str, now_unix: u64) -> Result<(), JwtError> {
        let keys = self.keys();
        let read = |key: &Key| {
            let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation);
            decoded.map(|decoded| decoded.claims).map_err(|error| reason(error.kind()))
        };
        let current = read(&keys.current);
        let is_shown = current.is_ok() && keys.before.as_ref().is_some_and(Before::is_awaited);
        let claims = match (current, keys.before(now_unix)) {
            (Err(JwtError::Signature), Some(before)) => read(before),
            (claims, _) => claims,
        };
        drop(keys);
        if is_shown {
            self.shown(now_unix);
        }
        let Claims { iat, exp } = claims?;
        if iat.abs_diff(now_unix) > ISSUED_AT_TOLERANCE_SECS {
            return Err(JwtError::IssuedAt);
        }
        match exp {
            Some(exp) if exp < now_unix => Err(JwtError::Expired),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the `Authorization` header of a request.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`], and [`JwtError::Missing`] if there is no bearer token.
    pub fn verify_headers(&self, headers: &HeaderMap, now_unix: u64) -> Result<(), JwtError> {
        let value = headers.get(AUTHORIZATION).ok_or(JwtError::Missing)?;
        let value = value.to_str().map_err(|_| JwtError::Malformed)?;
        let (scheme, token) = value.split_once(' ').ok_or(JwtError::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(JwtError::Missing);
        }
        self.verify(token.trim(), now_unix)
    }
}

impl Keys {
    /// The secret before, while it is honoured.
    fn before(&self, now_unix: u64) -> Option<&Key> {
        let is_honoured = |before: &&Before| before.until.is_none_or(|until| now_unix < until);
        self.before.as_ref().filter(is_honoured).map(|before| &before.key)
    }
}

impl Before {
    /// Whether the peer has yet to show the new one.
    const fn is_awaited(&self) -> bool {
        self.until.is_none()
    }
}

impl Key {
    fn sign(&self, now_unix: u64) -> String {
        let claims = Claims { iat: now_unix, exp: None };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .expect("HMAC accepts any key and the claims are one integer")
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(***)")
    }
}

/// What a peer may know of the library's verdict.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum may grow")]
fn reason(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::InvalidAlgorithm => JwtError::Algorithm,
        ErrorKind::InvalidSignature => JwtError::Signature,
        _ => JwtError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use jsonwebtoken::encode;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn secret() -> JwtSecret {
        JwtSecret::from_bytes([7; 32])
    }

    fn file(content: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_token_is_good_for_a_minute_either_way() {
        let token = secret().sign(NOW);
        for now in [NOW - 60, NOW, NOW + 60] {
            assert_eq!(secret().verify(&token, now), Ok(()));
        }
        assert_eq!(secret().verify(&token, NOW + 61), Err(JwtError::IssuedAt));
        assert_eq!(secret().verify(&token, NOW - 61), Err(JwtError::IssuedAt));
    }

    #[test]
    fn a_token_made_by_a_consensus_client_verifies() {
        let bytes = hex::const_decode_to_array(
            b"1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef",
        );
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3NjAwMDAwMDB9.\
                     XcnBnmNTRgXN3KXyI5yErw9rnOLqpuekqXECxlvtODA";
        let secret = JwtSecret::from_bytes(bytes.unwrap());
        assert_eq!(secret.verify(token, 1_760_000_000), Ok(()));
    }

    #[test]
    fn claims_that_are_not_asked_for_are_ignored() {
        let key = EncodingKey::from_secret(&[7; 32]);
        let claims = serde_json::json!({ "iat": NOW, "id": "node", "clv": "v1", "aud": "x" });
        let token = encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(secret().verify(&token, NOW), Ok(()));
    }

    #[test]
    fn a_token_that_says_it_expired_is_refused() {
        let key = EncodingKey::from_secret(&[7; 32]);
        let claims = Claims { iat: NOW, exp: Some(NOW + 10) };
        let token = encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(secret().verify(&token, NOW + 10), Ok(()));
        assert_eq!(secret().verify(&token, NOW + 11), Err(JwtError::Expired));
    }

    #[test]
    fn a_token_without_iat_is_refused() {
        let key = EncodingKey::from_secret(&[7; 32]);
        let token = encode(&Header::default(), &serde_json::json!({}), &key).unwrap();
        assert_eq!(secret().verify(&token, NOW), Err(JwtError::Malformed));
    }

    #[test]
    fn a_token_made_with_another_secret_is_refused() {
        let token = JwtSecret::from_bytes([8; 32]).sign(NOW);
        assert_eq!(secret().verify(&token, NOW), Err(JwtError::Signature));
    }

    #[test]
    fn a_secret_that_was_replaced_is_honoured_until_the_new_one_was_used_and_a_while_longer() {
        let (link, old, new) = (secret(), secret(), JwtSecret::from_bytes([8; 32]));
        assert!(!link.replace(&old));
        assert_eq!(link.sign_as_before(NOW), None);
        assert!(link.replace(&new));

        // However long the other end takes.
        let first = NOW + 100 * OVERLAP_SECS;
        assert_eq!(link.verify(&old.sign(first), first), Ok(()));
        assert_eq!(new.verify(&link.sign(first), first), Ok(()));
        assert_eq!(old.verify(&link.sign_as_before(first).unwrap(), first), Ok(()));
        let stranger = JwtSecret::from_bytes([9; 32]).sign(first);
        assert_eq!(link.verify(&stranger, first), Err(JwtError::Signature));

        assert_eq!(link.verify(&new.sign(first), first), Ok(()));
        let last = first + OVERLAP_SECS - 1;
        assert_eq!(link.verify(&new.sign(last), last), Ok(()));
        assert_eq!(link.verify(&old.sign(last), last), Ok(()));
        assert_eq!(link.verify(&new.sign(last + 1), last + 1), Ok(()));
        assert_eq!(link.verify(&old.sign(last + 1), last + 1), Err(JwtError::Signature));
    }

    #[test]
    fn a_secret_that_nobody_used_does_not_push_out_the_one_that_is_in_use() {
        let [used, unused, newest] = [7, 8, 9].map(|byte| JwtSecret::from_bytes([byte; 32]));
        let link = secret();
        assert!(link.replace(&unused) && link.replace(&newest));
        assert_eq!(link.verify(&used.sign(NOW), NOW), Ok(()));
        assert_eq!(link.verify(&unused.sign(NOW), NOW), Err(JwtError::Signature));
        assert_eq!(used.verify(&link.sign_as_before(NOW).unwrap(), NOW), Ok(()));
        assert_eq!(link.verify(&newest.sign(NOW), NOW), Ok(()));
    }

    #[test]
    fn the_algorithm_none_is_refused_with_and_without_a_signature() {
        // {"alg":"none","typ":"JWT"} . {"iat":1700000000}
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpYXQiOjE3MDAwMDAwMDB9.";
        let signature = secret().sign(NOW).rsplit('.').next().unwrap().to_owned();
        for token in [unsigned.to_owned(), format!("{unsigned}{signature}")] {
            assert_eq!(secret().verify(&token, NOW), Err(JwtError::Malformed));
        }
    }

    #[test]
    fn another_algorithm_is_refused_even_with_a_good_signature() {
        let key = EncodingKey::from_secret(&[7; 32]);
        let claims = Claims { iat: NOW, exp: None };
        let token = encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap();
        assert_eq!(secret().verify(&token, NOW), Err(JwtError::Algorithm));
        // {"alg":"RS256","typ":"JWT"} . {"iat":1700000000} . x
        let rs256 = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3MDAwMDAwMDB9.eA";
        assert_eq!(secret().verify(rs256, NOW), Err(JwtError::Algorithm));
    }

    #[test]
    fn rubbish_is_refused() {
        for token in ["", ".", "..", "a.b.c", "ey", "\u{1f980}"] {
            assert_eq!(secret().verify(token, NOW), Err(JwtError::Malformed), "{token:?}");
        }
    }

    #[test]
    fn the_header_must_carry_a_bearer_token() {
        let mut headers = HeaderMap::new();
        assert_eq!(secret().verify_headers(&headers, NOW), Err(JwtError::Missing));
        headers.insert(AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(secret().verify_headers(&headers, NOW), Err(JwtError::Missing));
        let bearer = format!("bearer {}", secret().sign(NOW));
        headers.insert(AUTHORIZATION, bearer.parse().unwrap());
        assert_eq!(secret().verify_headers(&headers, NOW), Ok(()));
    }

    #[test]
    fn a_secret_is_read_with_or_without_its_prefix() {
        for text in ["07".repeat(32), format!("0x{}\n", "07".repeat(32))] {
            let read = JwtSecret::read(file(&text, 0o600).path()).unwrap();
            assert_eq!(read.verify(&secret().sign(NOW), NOW), Ok(()));
        }
    }

    #[test]
    fn a_malformed_secret_is_refused_naming_the_file_but_not_its_content() {
        for text in ["", "0x07", &"zz".repeat(32), &"07".repeat(33), &"07".repeat(4000)] {
            let file = file(text, 0o600);
            let error = JwtSecret::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
            assert!(!error.contains("0707") && !error.contains("zzzz"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let missing = JwtSecret::read(Path::new("/does/not/exist")).unwrap_err();
        assert_eq!(missing.to_string(), "reading the JWT secret /does/not/exist");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let open = file(&"07".repeat(32), 0o604);
        let error = JwtSecret::read(open.path()).unwrap_err();
        assert!(matches!(error, JwtFileError::OpenToOthers { mode: 0o604, .. }), "{error}");
        assert!(JwtSecret::read(file(&"07".repeat(32), 0o640).path()).is_ok());
    }

    #[test]
    fn the_secret_is_never_printed() {
        assert_eq!(format!("{:?}", secret()), "JwtSecret(***)");
    }
}
