//! The flags, each of them also an environment variable, and what is read before any socket is
//! open.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use preconf_chain::ChainSpec;
use preconf_chassis::{ConfigError, Endpoint, ProcessArgs, Security, SecurityArgs, read_text};
use preconf_pending::Limits;
use preconf_signing::PublicKey;
use preconf_subscribe::FeedUrl;
use preconf_upstream::{Upstream, UpstreamConfig};
use url::Url;

use crate::Prepared;

/// The largest genesis file that is read.
const MAX_GENESIS_BYTES: usize = 256 * 1024 * 1024;

/// Verifies and executes a feed of flashblocks and serves the pending chain to RPC overlays.
#[derive(Clone, Debug, Parser)]
#[command(name = "preconf-consumer", version = preconf_chassis::version())]
pub struct Config {
    /// The feed: ws:// for a gateway's WebSocket, http://, https:// or unix: for gRPC.
    #[arg(long, env = "PRECONF_FLASHBLOCKS_URL", value_name = "URL")]
    pub flashblocks_url: FeedUrl,

    /// The public key of the sequencer, 0x and 96 hex digits. Several during a rotation.
    #[arg(
        long = "sequencer-pubkey",
        env = "PRECONF_SEQUENCER_PUBKEY",
        value_name = "KEY",
        value_delimiter = ',',
        required = true
    )]
    pub sequencer_pubkeys: Vec<PublicKey>,

    /// What makes a flashblock the sequencer's: its seal, or, on the WebSocket of a bera-reth
    /// sequencer, its v1 signature.
    #[arg(long, env = "PRECONF_POLICY", value_name = "POLICY", default_value = "seal")]
    pub policy: Policy,

    /// With --policy v1: what to do if no known way to compute the payload id binds base and
    /// withdrawals, which nothing else signs.
    #[arg(long, env = "PRECONF_PAYLOAD_ID_CHECK", value_name = "CHECK", default_value = "require")]
    pub payload_id_check: PayloadIdCheck,

    /// The genesis of the chain, as geth writes it.
    #[arg(long, env = "PRECONF_GENESIS", value_name = "FILE")]
    pub genesis: PathBuf,

    /// The JSON-RPC of the execution client whose state and heads are followed.
    #[arg(long, env = "PRECONF_EXECUTION_URL", value_name = "URL")]
    pub execution_url: Url,

    /// The WebSocket of the same client, for new heads; without it they are polled.
    #[arg(long, env = "PRECONF_EXECUTION_WS_URL", value_name = "URL")]
    pub execution_ws_url: Option<Url>,

    /// How long the execution client may take to answer a call.
    #[arg(long, env = "PRECONF_EXECUTION_TIMEOUT_MS", value_name = "MS", default_value = "2000")]
    pub execution_timeout_ms: NonZeroU32,

    /// The most requests in one batch to the execution client.
    #[arg(long, env = "PRECONF_EXECUTION_MAX_BATCH", value_name = "N", default_value = "100")]
    pub execution_max_batch: NonZeroUsize,

    /// Where the pending chain is served: unix:/path, http:// or https://.
    #[arg(
        long,
        env = "PRECONF_PENDING_LISTEN",
        value_name = "ENDPOINT",
        default_value = "unix:/run/preconf/pending.sock"
    )]
    pub pending_listen: Endpoint,

    /// A name that a certificate must carry to be served on https://.
    #[arg(
        long = "allow-name",
        env = "PRECONF_ALLOW_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "rpc-overlay"
    )]
    pub allow_names: Vec<String>,

    /// How many overlays are served at a time.
    #[arg(long, env = "PRECONF_MAX_OVERLAYS", value_name = "N", default_value = "64")]
    pub max_overlays: NonZeroUsize,

    /// How many sessions are held, those that wait for the block below them included.
    #[arg(long, env = "PRECONF_MAX_SESSIONS", value_name = "N", default_value = "64")]
    pub max_sessions: NonZeroUsize,

    /// How many bytes of transactions are held in all sessions.
    #[arg(
        long,
        env = "PRECONF_MAX_SESSION_BYTES",
        value_name = "BYTES",
        default_value = "134217728"
    )]
    pub max_session_bytes: NonZeroUsize,

    /// How many accounts and slots of canonical state are kept in memory.
    #[arg(long, env = "PRECONF_STATE_CACHE", value_name = "N", default_value = "1048576")]
    pub state_cache: NonZeroUsize,

    /// How links between our processes are authenticated.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// How the process runs.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What makes a flashblock the sequencer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Its seal, which covers all that it says and all before it.
    Seal,
    /// Its v1 signature: sessions are numbered on arrival, and nothing can be replayed.
    V1,
}

/// What becomes of a first flashblock whose payload id does not bind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PayloadIdCheck {
    /// It is refused.
    Require,
    /// It is taken, counted and logged.
    Warn,
    /// Nobody looks.
    Off,
}

impl Config {
    /// Reads the genesis and the certificates, and checks that the flags can be used.
    ///
    /// # Errors
    /// Names the flag or the file that is wrong.
    pub fn prepare(&self) -> Result<Prepared, ConfigError> {
        let genesis = read_text(&self.genesis, MAX_GENESIS_BYTES)?;
        let spec = ChainSpec::from_genesis_json(&genesis).map_err(|error| {
            ConfigError::file(&self.genesis, "is no genesis that can be used").because(error)
        })?;
        let security = Security::load(&self.security)?;
        security.check(&self.pending_listen)?;
        match (&self.flashblocks_url, self.policy) {
            (FeedUrl::Grpc(_), Policy::V1) => {
                return Err(ConfigError::flag("--policy", "v1 is for a ws:// feed"));
            }
            (FeedUrl::Grpc(endpoint), Policy::Seal) => security.check(endpoint)?,
            (FeedUrl::WebSocket(_), Policy::Seal | Policy::V1) => {}
        }
        Ok(Prepared {
            policy: self.policy,
            payload_id_check: self.payload_id_check,
            feed: self.flashblocks_url.clone(),
            keys: self.sequencer_pubkeys.clone(),
            spec: Arc::new(spec),
            upstream: self.upstream()?,
            listen: self.pending_listen.clone(),
            allow_names: self.allow_names.clone(),
            max_overlays: self.max_overlays.get(),
            limits: self.limits(),
            security,
        })
    }

    fn limits(&self) -> Limits {
        let bytes = self.max_session_bytes.get();
        let Limits { session_bytes, .. } = Limits::default();
        Limits {
            sessions: self.max_sessions.get(),
            bytes,
            session_bytes: session_bytes.min(bytes),
            cache: self.state_cache.get(),
        }
    }

    fn upstream(&self) -> Result<Upstream, ConfigError> {
        let config = UpstreamConfig {
            ws: self.execution_ws_url.clone(),
            timeout: Duration::from_millis(self.execution_timeout_ms.get().into()),
            max_batch: self.execution_max_batch,
            ..UpstreamConfig::new(self.execution_url.clone())
        };
        Upstream::new(config)
            .map_err(|error| ConfigError::flag("--execution-url", "cannot be used").because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";
    const REQUIRED: [&str; 9] = [
        "consumer",
        "--flashblocks-url",
        "ws://127.0.0.1:8548",
        "--sequencer-pubkey",
        KEY,
        "--genesis",
        "/nonexistent/genesis.json",
        "--execution-url",
        "http://127.0.0.1:8545",
    ];

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(REQUIRED.iter().chain(flags))
    }

    #[test]
    fn the_defaults_are_a_local_socket_and_bounded() {
        let config = parse(&[]).unwrap();

        assert_eq!(config.pending_listen.to_string(), "unix:/run/preconf/pending.sock");
        assert_eq!(config.allow_names, ["rpc-overlay"]);
        assert_eq!(config.limits(), Limits::default());
        assert_eq!(config.policy, Policy::Seal);
        assert_eq!(config.payload_id_check, PayloadIdCheck::Require);
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
    fn what_cannot_be_done_without_is_required() {
        for missing in ["--flashblocks-url", "--sequencer-pubkey", "--genesis", "--execution-url"] {
            let at = REQUIRED.iter().position(|flag| *flag == missing).unwrap();
            let flags = REQUIRED[..at].iter().chain(&REQUIRED[at + 2..]);
            assert!(Config::try_parse_from(flags).is_err(), "{missing}");
        }
    }

    #[test]
    fn values_that_cannot_mean_anything_are_refused_with_the_flags() {
        for flags in [
            ["--flashblocks-url", "wss://example.org"],
            ["--sequencer-pubkey", "0x00"],
            ["--max-overlays", "0"],
            ["--execution-timeout-ms", "0"],
            ["--pending-listen", "pending.sock"],
            ["--policy", "v2"],
            ["--payload-id-check", "maybe"],
            ["--unknown", "1"],
        ] {
            assert_eq!(parse(&flags).unwrap_err().exit_code(), 2, "{flags:?}");
        }
    }

    #[test]
    fn a_genesis_that_cannot_be_used_is_named() {
        let missing = parse(&[]).unwrap().prepare().unwrap_err().to_string();
        assert!(missing.starts_with("/nonexistent/genesis.json: "), "{missing}");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("genesis.json");
        std::fs::write(&path, "{}").unwrap();
        let mut config = parse(&[]).unwrap();
        config.genesis.clone_from(&path);
        let refused = config.prepare().unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{}: ", path.display())), "{refused}");
    }
}
