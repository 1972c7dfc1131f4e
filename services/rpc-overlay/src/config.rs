//! The flags, each of them also an environment variable, and what is read before any socket is
//! open.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use preconf_chain::ChainSpec;
use preconf_chassis::{ConfigError, Endpoint, ProcessArgs, Security, SecurityArgs, read_text};
use preconf_upstream::{Upstream, UpstreamConfig};
use url::Url;

use crate::{Latest, Prepared, server::Limits};

/// The largest genesis file that is read.
const MAX_GENESIS_BYTES: usize = 256 * 1024 * 1024;
/// How many requests to the execution client may be under way on behalf of callers, and how many
/// for state. Apart, so that slow questions do not hold up quick answers.
const MAX_FORWARDED: usize = 256;
const MAX_STATE_READS: usize = 64;

/// Answers Ethereum's JSON-RPC from preconfirmed blocks, and everything else from an execution
/// client.
#[derive(Clone, Debug, Parser)]
#[command(name = "preconf-rpc-overlay", version = preconf_chassis::version())]
pub struct Config {
    /// Where JSON-RPC is served, over HTTP and WebSocket.
    #[arg(
        long,
        env = "PRECONF_HTTP_ADDR",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8545"
    )]
    pub http_addr: SocketAddr,

    /// The consumer whose snapshots are served: unix:/path, http:// or https://.
    #[arg(long, env = "PRECONF_PENDING", value_name = "ENDPOINT")]
    pub pending: Endpoint,

    /// Where the builder takes transactions: unix:/path, http:// or https://. Without it they go to
    /// the execution client, of which the sequencer's has to be a peer.
    #[arg(long, env = "PRECONF_INGRESS", value_name = "ENDPOINT")]
    pub ingress: Option<Endpoint>,

    /// The JSON-RPC of the execution client, which answers what the snapshot does not.
    #[arg(long, env = "PRECONF_EXECUTION_URL", value_name = "URL")]
    pub execution_url: Url,

    /// The genesis of the chain, as geth writes it.
    #[arg(long, env = "PRECONF_GENESIS", value_name = "FILE")]
    pub genesis: PathBuf,

    /// What the block `latest` is.
    #[arg(long, env = "PRECONF_LATEST", value_enum, default_value_t)]
    pub latest: Latest,

    /// The most gas of a simulated call, or of all calls of a simulation together.
    #[arg(
        long = "rpc.gascap",
        env = "PRECONF_RPC_GASCAP",
        value_name = "GAS",
        default_value_t = preconf_evm::call::GAS_CAP,
        value_parser = clap::value_parser!(u64).range(21_000..=preconf_evm::call::GAS_CAP)
    )]
    pub rpc_gas_cap: u64,

    /// How many connections are served at a time; more wait in the kernel's queue.
    #[arg(long, env = "PRECONF_MAX_CONNECTIONS", value_name = "N", default_value = "500")]
    pub max_connections: NonZeroU32,

    /// How many of these may come from one address, or one /64 of IPv6; 0 is no limit. Behind a
    /// proxy all of them come from one.
    #[arg(
        long,
        env = "PRECONF_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "N",
        default_value_t = 100
    )]
    pub max_connections_per_address: u32,

    /// How long the answer to a request may take.
    #[arg(long, env = "PRECONF_CALL_TIMEOUT_MS", value_name = "MS", default_value = "10000")]
    pub call_timeout_ms: NonZeroU32,

    /// How old the newest snapshot may be before answers come from the execution client instead, and
    /// how long the first one is waited for until the process is ready without.
    #[arg(long, env = "PRECONF_SNAPSHOT_MAX_AGE_MS", value_name = "MS", default_value = "10000")]
    pub snapshot_max_age_ms: NonZeroU32,

    /// How links between our processes are authenticated.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// How the process runs.
    #[command(flatten)]
    pub process: ProcessArgs,
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
        security.check(&self.pending)?;
        self.ingress.iter().try_for_each(|ingress| security.check(ingress))?;
        let milliseconds = |ms: NonZeroU32| Duration::from_millis(ms.get().into());
        let deadline = milliseconds(self.call_timeout_ms);
        Ok(Prepared {
            http_addr: self.http_addr,
            pending: self.pending.clone(),
            ingress: self.ingress.clone(),
            security,
            spec: Arc::new(spec),
            latest: self.latest,
            gas_cap: self.rpc_gas_cap,
            forwards: self.upstream(deadline, MAX_FORWARDED)?,
            states: self.upstream(deadline, MAX_STATE_READS)?,
            limits: Limits {
                max_connections: self.max_connections.get(),
                max_connections_per_address: self.max_connections_per_address,
                deadline,
            },
            max_age: milliseconds(self.snapshot_max_age_ms),
        })
    }

    fn upstream(&self, timeout: Duration, concurrent: usize) -> Result<Upstream, ConfigError> {
        let mut config = UpstreamConfig::new(self.execution_url.clone());
        config.timeout = timeout;
        config.max_concurrent = concurrent.try_into().expect("the constants are not zero");
        Upstream::new(config)
            .map_err(|error| ConfigError::flag("--execution-url", "cannot be used").because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [&str; 7] = [
        "rpc-overlay",
        "--pending",
        "unix:/run/preconf/pending.sock",
        "--execution-url",
        "http://127.0.0.1:8546",
        "--genesis",
        "/nonexistent/genesis.json",
    ];

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(REQUIRED.iter().chain(flags))
    }

    #[test]
    fn the_defaults_are_a_local_port_and_a_preconfirmed_latest() {
        let config = parse(&[]).unwrap();

        assert_eq!(config.http_addr.to_string(), "127.0.0.1:8545");
        assert!(config.ingress.is_none());
        assert_eq!(config.latest, Latest::Preconfirmed);
        assert_eq!(config.rpc_gas_cap, 50_000_000);
        assert_eq!(config.snapshot_max_age_ms.get(), 10_000);
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
            ["--latest", "newest"],
            ["--rpc.gascap", "50000001"],
            ["--rpc.gascap", "0"],
            ["--max-connections", "0"],
            ["--call-timeout-ms", "0"],
            ["--http-addr", "localhost"],
            ["--unknown", "1"],
        ] {
            assert_eq!(parse(&flags).unwrap_err().exit_code(), 2, "{flags:?}");
        }
        for missing in ["--pending", "--execution-url", "--genesis"] {
            let at = REQUIRED.iter().position(|flag| *flag == missing).unwrap();
            let flags = REQUIRED[..at].iter().chain(&REQUIRED[at + 2..]);
            assert!(Config::try_parse_from(flags).is_err(), "{missing}");
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

    #[test]
    fn a_link_in_plaintext_beyond_this_machine_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("genesis.json");
        std::fs::write(&path, crate::testing::GENESIS).unwrap();
        for flag in ["--pending", "--ingress"] {
            let mut config = parse(&[]).unwrap();
            config.genesis.clone_from(&path);
            let endpoint: Endpoint = "http://10.0.0.1:9000".parse().unwrap();
            match flag {
                "--pending" => config.pending = endpoint,
                _ => config.ingress = Some(endpoint),
            }
            let refused = config.prepare().unwrap_err().to_string();
            assert!(refused.contains("plaintext beyond loopback"), "{flag}: {refused}");
        }
    }
}
