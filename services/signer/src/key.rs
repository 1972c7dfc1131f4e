//! The private key: how it is read, and the one thing that is done with it.
//!
//! The file holds the scalar in big endian as 64 hex digits, `0x` before them or not, white space
//! around them or not: the format of the upstream sequencer. It is wiped from memory when dropped,
//! is never printed, and no error quotes the file it came from.

use std::{fmt, path::Path};

use alloy_primitives::{B256, FixedBytes, hex};
use blst::min_pk::SecretKey;
use preconf_chassis::{ConfigError, read_secret};
use preconf_signing::{PublicKey, SIGNATURE_DST, Signature};
use zeroize::Zeroizing;

const SCALAR_BYTES: usize = 32;

/// A BLS12-381 private key.
pub struct SigningKey {
    // On the heap, so that moving the key does not copy it.
    secret: Box<SecretKey>,
    public: PublicKey,
}

/// A text that is not a private key. Does not say what the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Something other than hex digits, or another number of them.
    #[error("is not a signing key: expected 64 hex digits, with or without 0x")]
    NotHex,
    /// The number is not a scalar of the curve.
    #[error("is not a signing key: the number is zero or not below the order of the curve")]
    NotAScalar,
}

impl SigningKey {
    /// Reads the key from a file that other users cannot read.
    ///
    /// # Errors
    /// If the file is unreadable, readable by others, or holds no key. Names the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_secret(path)?;
        Self::parse(text.expose()).map_err(|invalid| ConfigError::file(path, invalid))
    }

    /// Reads the key from text.
    ///
    /// # Errors
    /// If the text is not 64 hex digits, or the number is 0 or not below the order of the curve.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        // The decoder below would skip a second prefix.
        if digits.len() != 2 * SCALAR_BYTES || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidKey::NotHex);
        }
        let mut scalar = Zeroizing::new([0; SCALAR_BYTES]);
        hex::decode_to_slice(digits, scalar.as_mut_slice()).map_err(|_| InvalidKey::NotHex)?;
        let secret =
            SecretKey::from_bytes(scalar.as_slice()).map_err(|_| InvalidKey::NotAScalar)?;
        let secret = Box::new(secret);
        let public = PublicKey::from_bytes(FixedBytes(secret.sk_to_pk().compress()))
            .expect("a scalar between 0 and the order makes a point of the subgroup");
        Ok(Self { secret, public })
    }

    /// The public key.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Signs a message: about a quarter of a millisecond. The same message gives the same bytes.
    pub(crate) fn sign(&self, message: B256) -> Signature {
        FixedBytes(self.secret.sign(message.as_slice(), SIGNATURE_DST, &[]).compress())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("secret", &format_args!("***"))
            .field("public", &self.public)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    /// The order of the curve, from the specification of BLS12-381.
    const ORDER: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";
    const BELOW_ORDER: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000000";

    #[test]
    fn a_key_is_64_hex_digits_however_they_are_dressed() {
        let plain = SigningKey::parse(ONE).unwrap().public_key();
        for text in [format!("0x{ONE}"), format!(" \t\r\n{ONE}\n\n"), format!("0x{ONE} \r\n")] {
            assert_eq!(SigningKey::parse(&text).unwrap().public_key(), plain, "{text:?}");
        }
        let lower = SigningKey::parse(BELOW_ORDER).unwrap().public_key();
        let upper = SigningKey::parse(&BELOW_ORDER.to_uppercase()).unwrap().public_key();
        assert_eq!(lower, upper);
    }

    #[test]
    fn the_key_1_has_the_generator_as_its_public_key() {
        let generator = "0x97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586\
                         c55e83ff97a1aeffb3af00adb22c6bb";
        let key = SigningKey::parse(ONE).unwrap();
        assert_eq!(key.public_key().to_string(), generator);
    }

    #[test]
    fn what_is_not_64_hex_digits_is_refused() {
        for text in [
            "",
            "0x",
            &ONE[1..],
            &format!("0{ONE}"),
            &format!("0x0x{}", &ONE[..60]),
            &format!("0x0x{ONE}"),
            &format!("0X{ONE}"),
            &format!("{}g", &ONE[1..]),
            &format!("{} {}", &ONE[..32], &ONE[33..]),
            &format!("{ONE}\n{ONE}"),
            &"é".repeat(32),
            &"\u{661}".repeat(64),
        ] {
            assert_eq!(SigningKey::parse(text).unwrap_err(), InvalidKey::NotHex, "{text:?}");
        }
    }

    #[test]
    fn a_number_that_is_no_scalar_is_refused() {
        for text in [&"0".repeat(64), ORDER, &"f".repeat(64)] {
            assert_eq!(SigningKey::parse(text).unwrap_err(), InvalidKey::NotAScalar, "{text}");
        }
    }

    #[test]
    fn a_key_never_prints_itself() {
        let text = "1f".repeat(32);
        let printed = format!("{:?}", SigningKey::parse(&text).unwrap());
        assert!(printed.contains("***"), "{printed}");
        assert!(!printed.contains("1f1f"), "{printed}");
    }
}
