//! Flags, and what is read before any socket is open.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::Parser;
use preconf_chassis::{ConfigError, Endpoint, ProcessArgs, Security, SecurityArgs};

use crate::{
    Prepared, Signatory, SigningKey,
    record::{Claimed, Identity},
    watermark::LeaseBounds,
};

/// Holds the key of the sequencer and signs what the builder publishes, never two contents at one
/// position.
#[derive(Clone, Debug, Parser)]
#[command(name = "preconf-signer", version = preconf_chassis::version())]
pub struct Config {
    /// Where builders connect: `unix:/path` or `https://host:port`.
    #[arg(
        long,
        env = "PRECONF_LISTEN",
        value_name = "ENDPOINT",
        default_value = "unix:/run/preconf/signer.sock"
    )]
    pub listen: Endpoint,

    /// The file with the private key: 64 hex digits, not readable by other users.
    #[arg(long, env = "PRECONF_FLASHBLOCK_SIGNING_KEY", value_name = "FILE")]
    pub flashblock_signing_key: PathBuf,

    /// The chain that signatures are for.
    #[arg(long, env = "PRECONF_CHAIN_ID", value_name = "ID")]
    pub chain_id: NonZeroU64,

    /// Where what was decided is written, before it is signed, and read again at the next start.
    /// Without it, what was signed is forgotten with the process.
    #[arg(long, env = "PRECONF_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// The shortest lease that is given, whatever a builder asks for.
    #[arg(long, env = "PRECONF_LEASE_MIN_MS", value_name = "MS", default_value = "1000")]
    pub lease_min_ms: NonZeroU64,

    /// The longest lease that is given, whatever a builder asks for.
    #[arg(long, env = "PRECONF_LEASE_MAX_MS", value_name = "MS", default_value = "60000")]
    pub lease_max_ms: NonZeroU64,

    /// A name that a certificate must carry to be served on `https://`.
    #[arg(
        long = "allow-name",
        env = "PRECONF_ALLOW_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "builder"
    )]
    pub allow_names: Vec<String>,

    /// How links are authenticated.
    #[command(flatten)]
    pub links: SecurityArgs,

    /// How the process runs.
    #[command(flatten)]
    pub process: ProcessArgs,
}

impl Config {
    /// Reads the key, the certificates and the record, and checks that the flags fit together.
    ///
    /// # Errors
    /// Names the flag or the file that is wrong.
    pub fn prepare(&self) -> Result<Prepared, ConfigError> {
        let key = SigningKey::read(&self.flashblock_signing_key)?;
        let security = Security::load(&self.links)?;
        security.check(&self.listen)?;
        if let Endpoint::Plaintext(_) = &self.listen {
            // Whoever reaches it may sign: that it is loopback does not say who.
            let reason = "is plaintext: the signer listens on unix:/path or https://host:port";
            return Err(ConfigError::flag(&self.listen, reason));
        }
        let duration = |millis: NonZeroU64| Duration::from_millis(millis.get());
        let bounds = LeaseBounds::new(duration(self.lease_min_ms), duration(self.lease_max_ms))
            .ok_or_else(|| ConfigError::flag("--lease-min-ms", "is above --lease-max-ms"))?;
        let identity = Identity { chain_id: self.chain_id.get(), public_key: key.public_key() };
        let claim = |path: &PathBuf| Claimed::open(path, identity, bounds);
        let record = self.record.as_ref().map(claim).transpose()?;
        Ok(Prepared {
            listen: self.listen.clone(),
            allow_names: self.allow_names.clone(),
            security,
            signatory: Signatory::new(key, self.chain_id.get()),
            bounds,
            record,
            seed: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [&str; 5] = ["signer", "--flashblock-signing-key", "k", "--chain-id", "1"];

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(REQUIRED.iter().chain(flags))
    }

    #[test]
    fn the_defaults_are_a_local_socket_and_the_builders_name() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "unix:/run/preconf/signer.sock");
        assert_eq!(config.allow_names, ["builder"]);
        assert_eq!((config.lease_min_ms.get(), config.lease_max_ms.get()), (1000, 60_000));
    }

    #[test]
    fn every_flag_has_a_variable() {
        use clap::CommandFactory;
        for argument in Config::command().get_arguments() {
            let is_own = !["help", "version"].contains(&argument.get_id().as_str());
            assert!(!is_own || argument.get_env().is_some(), "{} has none", argument.get_id());
        }
    }

    #[test]
    fn values_that_cannot_mean_anything_are_refused_with_the_flags() {
        for flags in [
            ["--lease-min-ms", "0"],
            ["--lease-max-ms", "-1"],
            ["--listen", "signer.sock"],
            ["--listen", "ftp://localhost:1"],
            ["--unknown", "1"],
        ] {
            assert_eq!(parse(&flags).unwrap_err().exit_code(), 2, "{flags:?}");
        }
        let zero = ["signer", "--flashblock-signing-key", "k", "--chain-id", "0"];
        assert!(Config::try_parse_from(zero).is_err());
    }
}
