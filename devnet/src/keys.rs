//! Keys, secrets, accounts and the genesis, in a temporary directory.
//!
//! Everything but the payload server's certificate follows from one number, the seed, so that a run
//! can be repeated. None of it is secret from whoever reads the terminal: these keys guard a chain that
//! lives for minutes. The files are readable by their owner only all the same, because the services
//! insist on it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Keccak256, hex};
use alloy_signer_local::PrivateKeySigner;
use preconf_chain::{ChainSpec, GenesisError, ProposerPublicKey};
use preconf_engine::JwtSecret;
use preconf_payload_api::ValidatorSecret;
use preconf_signer::SigningKey;
use preconf_signing::PublicKey;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::genesis::ChainName;

/// How many accounts have money, and send.
pub const ACCOUNTS: u64 = 16;

/// Why the files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is no temporary directory.
    #[error("making a temporary directory")]
    Directory(#[source] io::Error),
    /// A file could not be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no certificate.
    #[error("making the payload server's certificate")]
    Certificate(#[source] rcgen::Error),
    /// The genesis is not understood by our own rules.
    #[error("reading the genesis that was just made")]
    Genesis(#[source] GenesisError),
}

/// A directory that is removed at the end, unless somebody wants to look into it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Removes it when dropped.
    _temporary: Option<TempDir>,
}

impl Directory {
    /// A new one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(keep: bool) -> Result<Self, KeysError> {
        let directory = TempDir::with_prefix("preconf-devnet-").map_err(KeysError::Directory)?;
        let path = directory.path().to_owned();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path.join("logs"))
            .map_err(KeysError::Directory)?;
        if keep {
            return Ok(Self { path: directory.keep(), _temporary: None });
        }
        Ok(Self { path, _temporary: Some(directory) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or socket in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// A JWT secret, and the file that holds it.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The file.
    pub path: PathBuf,
    /// The secret.
    pub jwt: Arc<JwtSecret>,
}

/// The keys, secrets and accounts of one run.
#[derive(Debug)]
pub struct Keys {
    /// The genesis, as a file.
    pub genesis: PathBuf,
    /// The rules that follow from it.
    pub spec: Arc<ChainSpec>,
    /// The sequencer's private key, as a file.
    pub signing_key: PathBuf,
    /// The sequencer's public key.
    pub public_key: PublicKey,
    /// Between the consensus client and the builder.
    pub builder_secret: Secret,
    /// Between the builder and its execution client.
    pub sequencer_secret: Secret,
    /// Between the consensus client and the validators' execution client.
    pub validators_secret: Secret,
    /// Between the consensus client and the RPC node's execution client.
    pub rpc_node_secret: Secret,
    /// The accounts with money.
    pub accounts: Vec<PrivateKeySigner>,
    /// The validators, by their number.
    pub validators: Vec<Validator>,
    /// What the payload server knows them by, by their number.
    pub validator_secrets: Vec<ValidatorFile>,
    /// The validators that may ask for a payload, as a file.
    pub whitelist: PathBuf,
    /// The secrets of all validators, as a file of the payload server.
    pub validator_jwts: PathBuf,
    /// What validators know the payload server by.
    pub payload_tls: PayloadTls,
}

/// A certificate for loopback, as files.
#[derive(Clone, Debug)]
pub struct PayloadTls {
    /// The authority's own certificate.
    pub authority: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl PayloadTls {
    fn create(directory: &Directory) -> Result<Self, KeysError> {
        let [authority, certificate, key] = ["ca.pem", "pem", "key"]
            .map(|extension| directory.file(&format!("payload-server.{extension}")));
        let [ca, leaf, secret] = certified().map_err(KeysError::Certificate)?;
        write_private(&authority, &ca)?;
        write_private(&certificate, &leaf)?;
        write_private(&key, &secret)?;
        Ok(Self { authority, certificate, key })
    }
}

/// An authority, a certificate of it and its private key.
fn certified() -> Result<[String; 3], rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?.pem();
    let names = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(params, authority_key);
    let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?.pem();
    Ok([authority, certificate, key.serialize_pem()])
}

/// What a validator and the payload server share.
#[derive(Clone, Debug)]
pub struct ValidatorFile {
    /// The file of the validator.
    pub path: PathBuf,
    /// The secret.
    pub secret: ValidatorSecret,
}

/// Who proposes blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Where its fees go.
    pub address: Address,
    /// The key by which the consensus knows it.
    pub public_key: ProposerPublicKey,
}

impl Keys {
    /// Derives everything from `seed` and writes what the services read into `directory`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn create(
        directory: &Directory,
        chain: ChainName,
        seed: u64,
        validators: u64,
        genesis_time: u64,
    ) -> Result<Self, KeysError> {
        let accounts: Vec<_> = (0..ACCOUNTS).map(|number| account(seed, number)).collect();
        let genesis = directory.file("genesis.json");
        let text = chain.genesis(&accounts, genesis_time).to_string();
        write_private(&genesis, &text)?;
        let spec = ChainSpec::from_genesis_json(&text).map_err(KeysError::Genesis)?;

        let signing_key = directory.file("sequencer.key");
        let text = hex::encode(scalar(seed, "sequencer key", 0));
        let key = signing_key_of(&text);
        write_private(&signing_key, &text)?;

        let secret = |name: &str| {
            let path = directory.file(&format!("{name}.jwt"));
            let bytes = derive(seed, name, 0);
            write_private(&path, &hex::encode(bytes))?;
            Ok(Secret { path, jwt: Arc::new(JwtSecret::from_bytes(bytes.0)) })
        };
        let all: Vec<_> = (0..validators).map(|number| validator(seed, number)).collect();
        let whitelist = directory.file("whitelist.json");
        write_private(&whitelist, &whitelist_of(&all))?;
        let mut validator_secrets = Vec::new();
        let mut jwts = serde_json::Map::new();
        for (number, validator) in (0..).zip(&all) {
            let bytes = derive(seed, "validator secret", number);
            let path = directory.file(&format!("validator-{number}.jwt"));
            write_private(&path, &hex::encode_prefixed(bytes))?;
            jwts.insert(validator.public_key.to_string(), hex::encode_prefixed(bytes).into());
            let secret = ValidatorSecret::from_bytes(bytes.0);
            validator_secrets.push(ValidatorFile { path, secret });
        }
        let validator_jwts = directory.file("validator-jwts.json");
        write_private(&validator_jwts, &serde_json::Value::from(jwts).to_string())?;
        Ok(Self {
            genesis,
            spec: Arc::new(spec),
            signing_key,
            public_key: key.public_key(),
            builder_secret: secret("builder")?,
            sequencer_secret: secret("sequencer")?,
            validators_secret: secret("validators")?,
            rpc_node_secret: secret("rpc-node")?,
            accounts,
            validators: all,
            validator_secrets,
            whitelist,
            validator_jwts,
            payload_tls: PayloadTls::create(directory)?,
        })
    }
}

/// A whitelist with these validators.
pub fn whitelist_of<'a>(validators: impl IntoIterator<Item = &'a Validator>) -> String {
    let keys = validators.into_iter().map(|validator| validator.public_key.to_string());
    serde_json::Value::from(keys.collect::<Vec<_>>()).to_string()
}

fn account(seed: u64, number: u64) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&derive(seed, "account", number))
        .expect("a hash is zero or above the order of the curve once in 2^128 times")
}

fn validator(seed: u64, number: u64) -> Validator {
    let address = Address::from_word(derive(seed, "validator", number));
    let key = signing_key_of(&hex::encode(scalar(seed, "validator key", number)));
    Validator { address, public_key: ProposerPublicKey::from(key.public_key().to_bytes()) }
}

fn signing_key_of(scalar: &str) -> SigningKey {
    SigningKey::parse(scalar).expect("the scalar is below the order of the curve")
}

/// The order of BLS12-381's scalars begins with 0x73: two bits less are always below it.
fn scalar(seed: u64, what: &str, number: u64) -> B256 {
    let mut scalar = derive(seed, what, number);
    scalar[0] &= 0x3f;
    scalar
}

fn derive(seed: u64, what: &str, number: u64) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(b"preconf devnet");
    hasher.update(seed.to_be_bytes());
    hasher.update(what);
    hasher.update(number.to_be_bytes());
    hasher.finalize()
}

/// Only the owner may read it: what the services demand of secrets.
fn write_private(path: &Path, text: &str) -> Result<(), KeysError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| KeysError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use alloy_hardforks::EthereumHardforks;

    use super::*;

    fn keys(seed: u64) -> (Directory, Keys) {
        keys_on(ChainName::Berachain, seed)
    }

    fn keys_on(chain: ChainName, seed: u64) -> (Directory, Keys) {
        let directory = Directory::new(false).unwrap();
        let keys = Keys::create(&directory, chain, seed, 3, 1_800_000_000).unwrap();
        (directory, keys)
    }

    #[test]
    fn a_seed_gives_the_same_keys_and_the_same_chain_again() {
        let ((_one, one), (_two, two), (_other, other)) = (keys(7), keys(7), keys(8));
        assert_eq!(one.public_key, two.public_key);
        assert_eq!(one.spec.genesis_hash(), two.spec.genesis_hash());
        assert_eq!(one.validators, two.validators);
        assert_ne!(one.public_key, other.public_key);
        assert_ne!(one.spec.genesis_hash(), other.spec.genesis_hash());
    }

    #[test]
    fn each_chain_follows_its_rules_from_its_first_block_and_pays_its_accounts() {
        for (chain, contracts) in [(ChainName::Ethereum, 4), (ChainName::Berachain, 6)] {
            let (_directory, keys) = keys_on(chain, 1);
            let header = keys.spec.genesis_header();
            assert_eq!(keys.spec.chain_id(), chain.id());
            assert!(keys.spec.is_prague_active_at_timestamp(header.timestamp));
            let is_berachain = chain == ChainName::Berachain;
            assert_eq!(keys.spec.is_prague1_active_at_timestamp(header.timestamp), is_berachain);
            assert_eq!(keys.spec.is_osaka_active_at_timestamp(header.timestamp), is_berachain);
            let no_proposer = is_berachain.then_some(ProposerPublicKey::ZERO);
            assert_eq!(header.prev_proposer_pubkey, no_proposer);
            let alloc = &keys.spec.genesis().alloc;
            assert_eq!(alloc.len() as u64, ACCOUNTS + contracts);
            assert!(keys.accounts.iter().all(|account| alloc.contains_key(&account.address())));
        }
    }

    #[test]
    fn nobody_else_reads_the_files_and_the_services_do() {
        let (directory, keys) = keys(2);
        let secrets = [&keys.signing_key, &keys.builder_secret.path, &keys.payload_tls.key];
        for file in secrets {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(SigningKey::read(&keys.signing_key).unwrap().public_key(), keys.public_key);
        assert!(JwtSecret::read(&keys.builder_secret.path).is_ok());
        assert!(directory.path().join("logs").is_dir());
    }

    #[test]
    fn the_directory_is_gone_at_the_end_unless_it_is_to_be_kept() {
        let path = Directory::new(false).unwrap().path().to_owned();
        assert!(!path.exists());
        let kept = Directory::new(true).unwrap().path().to_owned();
        assert!(kept.exists());
        fs::remove_dir_all(kept).unwrap();
    }
}
