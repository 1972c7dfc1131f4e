//! The validators that are known: two files, which can be read anew while requests are served.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use preconf_chassis::{Chain, ConfigError};
use preconf_payload_api::{
    TokenError, ValidatorAddress, ValidatorPubkey, ValidatorSecrets, Whitelist,
};
use preconf_telemetry::metrics::{Counter, Family};
use tracing::{error, info, warn};

/// The validators, as the files last said. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    files: Arc<Files>,
    known: Arc<RwLock<Arc<Known>>>,
}

#[derive(Debug)]
struct Files {
    whitelist: PathBuf,
    secrets: PathBuf,
}

/// What the files say, at one time.
#[derive(Debug)]
struct Known {
    whitelist: Whitelist,
    secrets: ValidatorSecrets,
    /// Of those who have a secret.
    addresses: BTreeMap<ValidatorPubkey, ValidatorAddress>,
}

/// A validator that is known by its token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) pubkey: ValidatorPubkey,
    pub(crate) is_whitelisted: bool,
    /// None if the key is no point of the curve: nobody can ever propose with it.
    pub(crate) address: Option<ValidatorAddress>,
}

impl Validators {
    /// Reads both files.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn read(whitelist: PathBuf, secrets: PathBuf) -> Result<Self, ConfigError> {
        let known = Known::new(Whitelist::read(&whitelist)?, ValidatorSecrets::read(&secrets)?);
        let files = Arc::new(Files { whitelist, secrets });
        Ok(Self { files, known: Arc::new(RwLock::new(Arc::new(known))) })
    }

    /// Who made this token.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn identify(&self, token: &[u8], now_unix: u64) -> Result<Caller, TokenError> {
        let known = Arc::clone(&self.known.read());
        let pubkey = known.secrets.identify(token, now_unix)?;
        Ok(Caller {
            pubkey,
            is_whitelisted: known.whitelist.contains(&pubkey),
            address: known.addresses.get(&pubkey).copied(),
        })
    }

    /// The files.
    pub(crate) fn paths(&self) -> [&PathBuf; 2] {
        [&self.files.whitelist, &self.files.secrets]
    }

    /// Reads both files anew. One that cannot be used changes nothing; the other one counts.
    pub(crate) fn reload(&self, reloaded: &Family<Counter, 2>) {
        let before = Arc::clone(&self.known.read());
        let (whitelist, secrets) =
            (Whitelist::read(&self.files.whitelist), ValidatorSecrets::read(&self.files.secrets));
        *self.known.write() = Arc::new(Known::new(
            whitelist.as_ref().unwrap_or(&before.whitelist).clone(),
            secrets.as_ref().unwrap_or(&before.secrets).clone(),
        ));
        let outcomes = [("whitelist", whitelist.is_ok()), ("validator_jwts", secrets.is_ok())];
        match whitelist {
            Ok(read) => info!(whitelist_count = read.len(), "Preconf whitelist reloaded"),
            Err(error) => error!(error = %Chain(&error), "Failed to reload preconf whitelist"),
        }
        match secrets {
            Ok(read) => info!(num_validator_jwts = read.len(), "Validator JWTs reloaded"),
            Err(error) => error!(error = %Chain(&error), "Failed to reload validator JWTs"),
        }
        self.announce();
        for (file, is_ok) in outcomes {
            reloaded.get([file, if is_ok { "ok" } else { "failed" }]).inc();
        }
    }

    /// Says who is known, and who is known in vain.
    pub(crate) fn announce(&self) {
        let known = Arc::clone(&self.known.read());
        for pubkey in known.secrets.pubkeys() {
            info!(%pubkey, "Registered validator JWT");
            if !known.addresses.contains_key(pubkey) {
                warn!(%pubkey, "this key is no point of the curve: nobody proposes with it");
            }
        }
        let has_secret =
            |pubkey: &ValidatorPubkey| known.secrets.pubkeys().any(|known| known == pubkey);
        for pubkey in known.whitelist.iter().filter(|pubkey| !has_secret(pubkey)) {
            warn!(%pubkey, "a validator on the whitelist has no secret: it cannot ask");
        }
    }

    /// How many validators have a secret.
    pub(crate) fn len(&self) -> usize {
        self.known.read().secrets.len()
    }
}

impl Known {
    fn new(whitelist: Whitelist, secrets: ValidatorSecrets) -> Self {
        let address = |pubkey: &ValidatorPubkey| Some((*pubkey, pubkey.address().ok()?));
        let addresses = secrets.pubkeys().filter_map(address).collect();
        Self { whitelist, secrets, addresses }
    }
}
