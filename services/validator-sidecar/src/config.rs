//! Flags, each of them also an environment variable, and the files they name.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use preconf_chassis::{ConfigError, ProcessArgs, Security, SecurityArgs, reload::Stamps};
use preconf_engine_door::{Door, DoorArgs};
use preconf_payload_api::{MAX_RESPONSE_BYTES, PayloadClient, SequencerUrl, SlotRule};

use crate::credentials::Credentials;

pub use crate::wanted::FeeRecipients;

/// Stands between a validator's consensus client and its execution client, and has it propose the
/// block that was preconfirmed.
#[derive(Clone, Debug, Parser)]
#[command(name = "preconf-validator-sidecar", version = preconf_chassis::version())]
pub struct Config {
    /// The Engine API.
    #[command(flatten)]
    pub door: DoorArgs,

    /// A sequencer's payload server, `http` or `https`. Several are asked in this order: the next
    /// one if one has failed or takes long.
    #[arg(
        long = "sequencer-url",
        env = "PRECONF_SEQUENCER_URL",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub sequencer_urls: Vec<SequencerUrl>,

    /// The secret that the sequencers know this validator by: a file with `0x` and 64 hex digits,
    /// not readable by other users. Read anew when it changes, and at SIGHUP.
    #[arg(long, env = "PRECONF_SEQUENCER_JWT_SECRET", value_name = "PATH")]
    pub sequencer_jwt_secret: PathBuf,

    /// The authorities of the sequencers' certificates, or these themselves (PEM); needed for
    /// `https`. No others are trusted. Read anew when it changes, and at SIGHUP.
    #[arg(long, env = "PRECONF_SEQUENCER_CA_CERT", value_name = "PATH")]
    pub sequencer_ca_cert: Option<PathBuf>,

    /// Which slot a block is for: `number`, that of the block, as on Berachain, or counted from a
    /// time, `time:GENESIS:SECONDS`.
    #[arg(long, env = "PRECONF_SLOT_RULE", value_name = "RULE")]
    pub slot_rule: SlotRule,

    /// Within this time a getPayload is answered: the sequencers' answers, their checks and the
    /// execution client's validation included.
    #[arg(
        long,
        env = "PRECONF_FETCH_BUDGET_MS",
        default_value_t = 500,
        value_parser = clap::value_parser!(u64).range(50..=10_000),
        value_name = "MS"
    )]
    pub fetch_budget_ms: u64,

    /// After this time without an answer the next sequencer is asked too, or the only one again.
    #[arg(
        long,
        env = "PRECONF_HEDGE_AFTER_MS",
        default_value_t = 150,
        value_parser = clap::value_parser!(u64).range(10..=10_000),
        value_name = "MS"
    )]
    pub hedge_after_ms: u64,

    /// Who may get the fees of a sequencer's block: `any`, whom the sequencer chooses; `own`, whom
    /// the consensus client names; or addresses with commas between.
    #[arg(
        long = "fee-recipient",
        env = "PRECONF_FEE_RECIPIENT",
        default_value = "any",
        value_name = "WHO"
    )]
    pub fee_recipients: FeeRecipients,

    /// The largest answer of a sequencer that is read.
    #[arg(
        long,
        env = "PRECONF_MAX_RESPONSE_BYTES",
        default_value_t = MAX_RESPONSE_BYTES,
        value_name = "BYTES"
    )]
    pub max_response_bytes: usize,

    /// What the admin listener is authenticated with.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// Health, logs, traces, drain.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// A configuration whose files have been read.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) config: Config,
    pub(crate) door: Door,
    pub(crate) seen: Stamps,
    pub(crate) credentials: Credentials,
    pub(crate) sequencers: Vec<PayloadClient>,
}

impl Config {
    /// Reads the files that the flags name, and checks that the links are allowed.
    ///
    /// # Errors
    /// Names the file or flag that is wrong.
    pub fn prepare(&self) -> Result<Prepared, ConfigError> {
        let security = Security::load(&self.security)?;
        let door = self.door.prepare(&security)?;
        let files = [&self.sequencer_jwt_secret].into_iter().chain(&self.sequencer_ca_cert);
        let seen = Stamps::of(files);
        let (credentials, sequencers) = self.sequencers()?;
        Ok(Prepared { config: self.clone(), door, seen, credentials, sequencers })
    }

    fn sequencers(&self) -> Result<(Credentials, Vec<PayloadClient>), ConfigError> {
        let credentials = Credentials::read(self)?;
        if self.sequencer_ca_cert.is_some() && !self.sequencer_urls.iter().any(SequencerUrl::is_tls)
        {
            let reason = "needs a --sequencer-url that is https://";
            return Err(ConfigError::flag("--sequencer-ca-cert", reason));
        }
        let clients = credentials.clients()?;
        Ok((credentials, clients))
    }

    pub(crate) const fn budget(&self) -> Duration {
        Duration::from_millis(self.fetch_budget_ms)
    }

    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_millis(self.hedge_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use clap::CommandFactory;

    use super::*;

    const REQUIRED: [&str; 11] = [
        "validator-sidecar",
        "--engine-jwt-secret",
        "/nonexistent/jwt.hex",
        "--execution-engine-url",
        "http://127.0.0.1:8551",
        "--sequencer-url",
        "http://127.0.0.1:9090/,https://sequencer:9090",
        "--sequencer-jwt-secret",
        "/nonexistent/sequencer-jwt.hex",
        "--slot-rule",
        "number",
    ];

    #[test]
    fn sequencers_are_asked_in_the_order_in_which_they_are_named() {
        let config = Config::try_parse_from(REQUIRED).unwrap();
        let urls: Vec<String> = config.sequencer_urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://127.0.0.1:9090", "https://sequencer:9090"]);
        assert_eq!(config.budget(), Duration::from_millis(500));
        assert_eq!(config.fee_recipients, FeeRecipients::Any);
    }

    #[test]
    fn every_flag_has_a_variable() {
        for argument in Config::command().get_arguments() {
            let is_own = !["help", "version"].contains(&argument.get_id().as_str());
            assert!(!is_own || argument.get_env().is_some(), "{} has none", argument.get_id());
        }
    }

    #[test]
    fn nothing_that_is_needed_has_a_default() {
        for flag in REQUIRED.iter().filter(|flag| flag.starts_with("--")) {
            let at = REQUIRED.iter().position(|name| name == flag).unwrap();
            let flags = REQUIRED[..at].iter().chain(&REQUIRED[at + 2..]);
            assert!(Config::try_parse_from(flags).is_err(), "{flag}");
        }
    }

    #[test]
    fn https_needs_authorities_and_authorities_need_https() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("jwt.hex");
        fs::write(&secret, format!("0x{}", "ab".repeat(32))).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let config =
            Config { sequencer_jwt_secret: secret, ..Config::try_parse_from(REQUIRED).unwrap() };
        assert!(config.sequencers().is_err(), "nobody vouches for the second one");

        let plain = Config { sequencer_urls: config.sequencer_urls[..1].to_vec(), ..config };
        assert_eq!(plain.sequencers().unwrap().1.len(), 1);
        let pinned = Config { sequencer_ca_cert: Some("/nonexistent/ca.pem".into()), ..plain };
        assert!(pinned.sequencers().is_err());
    }
}
