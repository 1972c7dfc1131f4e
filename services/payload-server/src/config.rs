//! Flags, each of them also an environment variable, and the files they name.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use preconf_chassis::{ConfigError, Endpoint, ProcessArgs, Security, SecurityArgs};
use url::Url;

use crate::{cometbft::CometBft, reload::Stamps, tls::Certificate, validators::Validators};

/// Serves payloads to the validators whose turn it is.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "preconf-payload-server", version = preconf_chassis::version())]
#[command(group(clap::ArgGroup::new("oracle").required(true).multiple(true)))]
pub struct Config {
    /// Where validators ask for payloads. `[::]` is every address, of IPv4 too; where there is no
    /// IPv6, every address of IPv4.
    #[arg(
        long,
        env = "PRECONF_PAYLOAD_ADDR",
        value_name = "HOST:PORT",
        default_value = "[::]:9090"
    )]
    pub payload_addr: SocketAddr,

    /// The certificate chain shown to validators (PEM); in plaintext if unset. Read anew
    /// when it changes, and at SIGHUP.
    #[arg(
        long,
        env = "PRECONF_PAYLOAD_TLS_CERT",
        value_name = "FILE",
        requires = "payload_tls_key"
    )]
    pub payload_tls_cert: Option<PathBuf>,

    /// The private key of that certificate (PEM, not readable by other users).
    #[arg(
        long,
        env = "PRECONF_PAYLOAD_TLS_KEY",
        value_name = "FILE",
        requires = "payload_tls_cert"
    )]
    pub payload_tls_key: Option<PathBuf>,

    /// The payload listener of the builder.
    #[arg(long, env = "PRECONF_BUILDER_PAYLOADS", value_name = "ENDPOINT")]
    pub builder_payloads: Endpoint,

    /// How long the builder may take: more than its seal budget and four retries.
    #[arg(
        long,
        env = "PRECONF_BUILDER_TIMEOUT_MS",
        value_name = "MS",
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u64).range(10..=10_000)
    )]
    pub builder_timeout_ms: u64,

    /// The validators that may ask: a JSON array of public keys. Read anew when it changes, and
    /// at SIGHUP.
    #[arg(long, env = "PRECONF_WHITELIST", value_name = "FILE")]
    pub whitelist: PathBuf,

    /// The secret of each validator: a JSON object from public key to secret, not readable by other
    /// users. Read anew when it changes, and at SIGHUP.
    #[arg(long, env = "PRECONF_VALIDATOR_JWTS", value_name = "FILE")]
    pub validator_jwts: PathBuf,

    /// The RPC of a CometBFT node, which says whose turn it is: `http://` on loopback. Beyond, it
    /// needs --insecure-plaintext: whoever is on the way could say who gets each block.
    #[arg(long, env = "PRECONF_COMETBFT_RPC", value_name = "URL", group = "oracle")]
    pub cometbft_rpc: Option<Url>,

    /// How often the CometBFT node is asked.
    #[arg(
        long,
        env = "PRECONF_COMETBFT_POLL_MS",
        value_name = "MS",
        default_value_t = 50,
        value_parser = clap::value_parser!(u64).range(5..=5_000)
    )]
    pub cometbft_poll_ms: u64,

    /// Where another consensus client says whose turn it is: https:// (mTLS) or unix:.
    #[arg(long, env = "PRECONF_PROPOSERS_LISTEN", value_name = "ENDPOINT", group = "oracle")]
    pub proposers_listen: Option<Endpoint>,

    /// A name that a certificate must carry to say whose turn it is.
    #[arg(
        long = "proposers-allow-name",
        env = "PRECONF_PROPOSERS_ALLOW_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "consensus"
    )]
    pub proposers_allow_names: Vec<String>,

    /// How many payloads a validator may ask for in a second; twice as many after a pause.
    #[arg(long, env = "PRECONF_REQUESTS_PER_SECOND", value_name = "N", default_value = "10")]
    pub requests_per_second: NonZeroU32,

    /// What links between processes are authenticated with.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// Health, logs and shutdown.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The time that tokens are compared with, in seconds since 1970.
pub type Clock = fn() -> u64;

/// A configuration whose files have been read.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) config: Config,
    /// What the files were before they were read.
    pub(crate) seen: Stamps,
    pub(crate) validators: Validators,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) cometbft: Option<CometBft>,
    pub(crate) security: Security,
    pub(crate) clock: Clock,
}

impl Prepared {
    /// Compares tokens with another clock than the machine's.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}

impl Config {
    /// Reads the files, and checks that the links are allowed.
    ///
    /// # Errors
    /// Names the file or flag that is wrong.
    pub fn prepare(&self) -> Result<Prepared, ConfigError> {
        let security = Security::load(&self.security)?;
        security.check(&self.builder_payloads)?;
        if let Some(endpoint) = &self.proposers_listen {
            security.check(endpoint)?;
            // Who says whose turn it is says who sees a block first.
            if let Endpoint::Plaintext(_) = endpoint {
                let reason = "must be https:// or unix:, on loopback too";
                return Err(ConfigError::flag("--proposers-listen", reason));
            }
        }
        let node = |url| CometBft::new(url, &security);
        let cometbft = self.cometbft_rpc.as_ref().map(node).transpose()?;
        // In the order of those who read them.
        let paths = [&self.whitelist, &self.validator_jwts].into_iter();
        let paths = paths.chain(&self.payload_tls_cert).chain(&self.payload_tls_key);
        let seen = Stamps::of(paths);
        let certificate = match (&self.payload_tls_cert, &self.payload_tls_key) {
            (Some(certificate), Some(key)) => {
                Some(Certificate::read(certificate.clone(), key.clone())?)
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let reason = "must be given together with --payload-tls-key";
                return Err(ConfigError::flag("--payload-tls-cert", reason));
            }
        };
        Ok(Prepared {
            config: self.clone(),
            seen,
            validators: Validators::read(self.whitelist.clone(), self.validator_jwts.clone())?,
            certificate,
            cometbft,
            security,
            clock: unix_now,
        })
    }

    pub(crate) const fn builder_deadline(&self) -> Duration {
        Duration::from_millis(self.builder_timeout_ms)
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    const REQUIRED: [&str; 9] = [
        "payload-server",
        "--builder-payloads",
        "unix:/run/preconf/payloads.sock",
        "--whitelist",
        "/nonexistent/whitelist.json",
        "--validator-jwts",
        "/nonexistent/jwts.json",
        "--cometbft-rpc",
        "http://127.0.0.1:26657",
    ];

    #[test]
    fn the_port_is_beacon_kits() {
        let config = Config::try_parse_from(REQUIRED).unwrap();
        assert_eq!(config.payload_addr.to_string(), "[::]:9090");
    }

    #[test]
    fn every_flag_has_a_variable() {
        for argument in Config::command().get_arguments() {
            let is_own = !["help", "version"].contains(&argument.get_id().as_str());
            assert!(!is_own || argument.get_env().is_some(), "{} has none", argument.get_id());
        }
    }

    #[test]
    fn a_server_that_could_not_know_whose_turn_it_is_does_not_start() {
        assert!(Config::try_parse_from(&REQUIRED[..7]).is_err());
        for missing in ["--builder-payloads", "--whitelist", "--validator-jwts"] {
            let at = REQUIRED.iter().position(|flag| *flag == missing).unwrap();
            let flags = REQUIRED[..at].iter().chain(&REQUIRED[at + 2..]);
            assert!(Config::try_parse_from(flags).is_err(), "{missing}");
        }
    }

    #[test]
    fn whose_turn_it_is_is_not_heard_in_plaintext() {
        let flags = REQUIRED.into_iter().chain(["--proposers-listen", "http://127.0.0.1:0"]);
        let refused = Config::try_parse_from(flags).unwrap().prepare().unwrap_err().to_string();
        assert_eq!(refused, "--proposers-listen: must be https:// or unix:, on loopback too");
    }

    #[test]
    fn a_node_beyond_loopback_is_believed_only_if_the_operator_insists() {
        let refused = |url, insists: &[&'static str]| {
            let flags = REQUIRED[..8].iter().copied().chain([url]).chain(insists.iter().copied());
            Config::try_parse_from(flags).unwrap().prepare().unwrap_err().to_string()
        };
        let plaintext = "--cometbft-rpc: is plaintext beyond loopback, and says who gets each \
                         block: ask a node on this machine, or give --insecure-plaintext";
        for far in ["http://192.0.2.7:26657", "http://beacond.chain.svc", "http://[2001:db8::1]:1"]
        {
            assert_eq!(refused(far, &[]), plaintext, "{far}");
        }
        // What is refused is the next thing: the whitelist is not there.
        for (url, insists) in [
            ("http://192.0.2.7:26657", &["--insecure-plaintext"][..]),
            ("http://localhost:26657", &[]),
            ("http://[::1]:26657/", &[]),
            ("http://127.0.0.1", &[]),
        ] {
            assert!(refused(url, insists).starts_with("/nonexistent/"), "{url}");
        }
        let kind = "--cometbft-rpc: expected http://HOST:PORT, without credentials or a query";
        assert_eq!(refused("https://127.0.0.1:26657", &[]), kind);
    }

    #[test]
    fn a_certificate_needs_its_key() {
        for flag in ["--payload-tls-cert", "--payload-tls-key"] {
            let flags = REQUIRED.into_iter().chain([flag, "x.pem"]);
            assert!(Config::try_parse_from(flags).is_err(), "{flag}");
        }
    }
}
