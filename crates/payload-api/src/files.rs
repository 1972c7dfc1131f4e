//! The two files that name the validators: who may ask, and with which secret.
//!
//! The forms are beacon-kit's. Beyond it: a secret that two validators share, a validator that is
//! listed twice with secrets, a file of secrets that other users can read and a whitelist that they
//! can write are refused. A file is taken as a whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use preconf_chassis::{ConfigError, files::read_secret_of, read_text};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{
    jwt::{SecretError, Token, TokenError, ValidatorSecret},
    keys::{KeyError, ValidatorPubkey},
};

/// The largest of these files that is read: room for thousands of validators.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// The permission of users that are neither the owner nor in the group to write.
const OTHERS_WRITE: u32 = 0o002;

/// The validators that may ask for payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whitelist(BTreeSet<ValidatorPubkey>);

/// The secret of each validator. Every secret belongs to one validator.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ValidatorSecrets(BTreeMap<ValidatorPubkey, ValidatorSecret>);

/// What is wrong with the content of a file. Secrets are not repeated.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not JSON of the right shape.
    #[error("reading the JSON")]
    Json(#[source] serde_json::Error),
    /// An element of the whitelist is no public key.
    #[error("invalid pubkey at index {index} in whitelist")]
    WhitelistKey {
        /// Where it is.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The whitelist names nobody.
    #[error("the whitelist is empty")]
    EmptyWhitelist,
    /// A name in the file of secrets is no public key.
    #[error("invalid pubkey {pubkey:?} among the validators' secrets")]
    JwtKey {
        /// The name.
        pubkey: String,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The secret of a validator is none.
    #[error("invalid secret of validator {pubkey}")]
    Secret {
        /// Whose it is.
        pubkey: ValidatorPubkey,
        /// What is wrong with it.
        #[source]
        source: SecretError,
    },
    /// A validator has two secrets.
    #[error("validator {0} is listed twice")]
    Twice(ValidatorPubkey),
    /// Two validators have the same secret: which of them asks could not be known.
    #[error("validators {0} and {1} share a secret")]
    Shared(ValidatorPubkey, ValidatorPubkey),
    /// The file of secrets names nobody.
    #[error("validator JWTs file is empty")]
    NoSecrets,
}

impl Whitelist {
    /// Reads the content of a whitelist: a JSON array of public keys. Duplicates are one.
    ///
    /// # Errors
    /// If any element is no public key, or there is none.
    pub fn parse(json: &str) -> Result<Self, FileError> {
        let listed: Vec<String> = serde_json::from_str(json).map_err(FileError::Json)?;
        let key = |(index, text): (usize, &String)| {
            text.parse().map_err(|source| FileError::WhitelistKey { index, source })
        };
        let keys: BTreeSet<_> = listed.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(FileError::EmptyWhitelist) } else { Ok(Self(keys)) }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, other users can write it, or its content is not a whitelist.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let metadata = fs::metadata(path)
            .map_err(|error| ConfigError::file(path, "cannot be read").because(error))?;
        if metadata.permissions().mode() & OTHERS_WRITE != 0 {
            let reason = format!("is writable by other users: run `chmod o-w {}`", path.display());
            return Err(ConfigError::file(path, reason));
        }
        Self::parse(&read_text(path, MAX_FILE_BYTES)?).map_err(|error| unusable(path, error))
    }

    /// Whether this validator may ask.
    #[must_use]
    pub fn contains(&self, pubkey: &ValidatorPubkey) -> bool {
        self.0.contains(pubkey)
    }

    /// How many validators may ask.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody may ask, which no file says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The validators that may ask.
    pub fn iter(&self) -> impl Iterator<Item = &ValidatorPubkey> {
        self.0.iter()
    }
}

impl ValidatorSecrets {
    /// Reads the content of a file of secrets: a JSON object from public key to secret.
    ///
    /// # Errors
    /// If any entry is malformed, a validator or a secret occurs twice, or there is none.
    pub fn parse(json: &str) -> Result<Self, FileError> {
        let Listed(listed) = serde_json::from_str(json).map_err(FileError::Json)?;
        let mut secrets = BTreeMap::new();
        for (name, secret) in listed {
            let pubkey: ValidatorPubkey = match name.parse() {
                Ok(pubkey) => pubkey,
                Err(source) => return Err(FileError::JwtKey { pubkey: name, source }),
            };
            let secret = ValidatorSecret::parse(&secret)
                .map_err(|source| FileError::Secret { pubkey, source })?;
            if let Some((other, _)) = secrets.iter().find(|(_, known)| **known == secret)
                && *other != pubkey
            {
                return Err(FileError::Shared(*other, pubkey));
            }
            if secrets.insert(pubkey, secret).is_some() {
                return Err(FileError::Twice(pubkey));
            }
        }
        if secrets.is_empty() { Err(FileError::NoSecrets) } else { Ok(Self(secrets)) }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, other users can access it, or its content is no such object.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(read_secret_of(path, MAX_FILE_BYTES)?.expose())
            .map_err(|error| unusable(path, error))
    }

    /// Whose token this is, if it is good at `now_unix`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn identify(&self, token: &[u8], now_unix: u64) -> Result<ValidatorPubkey, TokenError> {
        let token = Token::parse(token)?;
        let (pubkey, _) =
            self.0.iter().find(|(_, secret)| token.is_by(secret)).ok_or(TokenError::Signature)?;
        token.check_times(now_unix)?;
        Ok(*pubkey)
    }

    /// How many validators have a secret.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody has a secret, which no file says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The validators that have a secret.
    pub fn pubkeys(&self) -> impl Iterator<Item = &ValidatorPubkey> {
        self.0.keys()
    }
}

impl fmt::Debug for ValidatorSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

fn unusable(path: &Path, error: FileError) -> ConfigError {
    ConfigError::file(path, "is not usable").because(error)
}

/// The entries of an object in their order, those with equal names too.
struct Listed(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from public key to secret")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Listed(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
