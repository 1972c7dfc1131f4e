//! The token that tells the server which validator asks.
//!
//! As beacon-kit has it: an HMAC over a claim of when it was issued, with a secret that only this
//! validator and the server know. The token names nobody; who asks is found by whose secret it
//! verifies with. Any HMAC of SHA-2 is accepted, HS256 is what is made. Time is an argument; the
//! secret is never printed.

use std::{fmt, path::Path};

use alloy_primitives::hex;
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use preconf_chassis::{ConfigError, read_secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How far the clocks of the two ends may be apart.
pub const ISSUED_AT_TOLERANCE_SECS: u64 = 300;

/// No token that anybody makes is as long. A longer one would cost a hash for every validator.
const MAX_TOKEN_BYTES: usize = 1024;

/// The secret that one validator shares with the server: 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ValidatorSecret(Zeroizing<[u8; 32]>);

/// Why a token or a secret is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no JWT, or its claims are not what they should be.
    #[error("malformed token")]
    Malformed,
    /// It is not an HMAC.
    #[error("unsupported algorithm")]
    Algorithm,
    /// It was not made with this secret, or with none that is known.
    #[error("unknown secret")]
    Signature,
    /// It was issued too long ago, or in the future.
    #[error("the token's iat is not within 5 minutes of our clock")]
    IssuedAt,
    /// It says itself that it has expired, or is not good yet.
    #[error("the token says that it is not valid now")]
    Expired,
}

/// Why a request bears no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// It has no Authorization header, or an empty one.
    #[error("missing Authorization header")]
    Missing,
    /// The header is not a scheme that is `bearer`, in either case, and after a space the token.
    #[error("invalid Authorization header format")]
    Form,
}

/// The token that a request bears, whatever bytes it has.
///
/// # Errors
/// If it bears none.
pub fn bearer(headers: &HeaderMap) -> Result<&[u8], BearerError> {
    let value = headers.get(AUTHORIZATION).filter(|value| !value.is_empty());
    let value = value.ok_or(BearerError::Missing)?.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ').ok_or(BearerError::Form)?;
    let (scheme, token) = (&value[..space], &value[space + 1..]);
    if scheme.eq_ignore_ascii_case(b"bearer") { Ok(token) } else { Err(BearerError::Form) }
}

/// A text that is no secret. The text is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is 0x and 64 hex digits")]
pub struct SecretError;

#[derive(Serialize)]
struct Issued {
    iat: u64,
}

/// Dates are numbers, perhaps with a fraction.
#[derive(Deserialize)]
struct Claims {
    iat: Option<f64>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl ValidatorSecret {
    /// The secret made of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the secret from its text: a lowercase `0x` and 64 hex digits.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let digits = text.strip_prefix("0x").filter(|digits| {
            digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits.ok_or(SecretError)?, &mut *bytes).map_err(|_| SecretError)?;
        Ok(Self(bytes))
    }

    /// Reads the secret from a file: one secret, with white space around it.
    ///
    /// # Errors
    /// If the file cannot be read, is accessible to other users, or holds anything else.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(read_secret(path)?.expose())
            .map_err(|error| ConfigError::file(path, "is not usable").because(error))
    }

    /// A token issued at `now_unix`.
    #[must_use]
    pub fn sign(&self, now_unix: u64) -> String {
        let key = EncodingKey::from_secret(&*self.0);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &Issued { iat: now_unix }, &key)
            .expect("HMAC accepts any key and the claims are one integer")
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now_unix: u64) -> Result<(), TokenError> {
        let token = Token::parse(token.as_bytes())?;
        if !token.is_by(self) {
            return Err(TokenError::Signature);
        }
        token.check_times(now_unix)
    }
}

impl fmt::Debug for ValidatorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A token that has been taken apart once, to be tried with many secrets.
pub(crate) struct Token<'a> {
    token: &'a str,
    message: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(token: &'a [u8]) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let token = str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let hmacs = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        if !hmacs.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        Ok(Self { token, message, signature, algorithm: header.alg })
    }

    /// Whether it was made with this secret.
    pub(crate) fn is_by(&self, secret: &ValidatorSecret) -> bool {
        let key = DecodingKey::from_secret(&*secret.0);
        crypto::verify(self.signature, self.message.as_bytes(), &key, self.algorithm)
            .unwrap_or(false)
    }

    /// Whether it is good at `now_unix`, given that it was made with a secret that is known.
    pub(crate) fn check_times(&self, now_unix: u64) -> Result<(), TokenError> {
        // The library's own checks require `exp`, read its own clock, and know other tolerances.
        let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(self.token)
            .map_err(|_| TokenError::Malformed)?
            .claims;
        // Whole seconds, as the other implementation counts.
        let now = now_unix as f64;
        let issued = claims.iat.ok_or(TokenError::Malformed)?.trunc();
        if (now - issued).abs() > ISSUED_AT_TOLERANCE_SECS as f64 {
            return Err(TokenError::IssuedAt);
        }
        let expired = claims.exp.is_some_and(|exp| now >= exp.trunc());
        let early = claims.nbf.is_some_and(|nbf| now < nbf.trunc());
        if expired || early { Err(TokenError::Expired) } else { Ok(()) }
    }
}
