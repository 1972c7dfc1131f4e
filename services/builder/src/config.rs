//! Flags, and the files they name.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use preconf_assembly::{PoolLimits, Timing};
use preconf_chain::ChainSpec;
use preconf_chassis::{ConfigError, Endpoint, ProcessArgs, Security, SecurityArgs, read_text};
use preconf_engine_door::{Door, DoorArgs};
use preconf_payload_api::SlotRule;
use preconf_primitives::MAX_INDEX;
use preconf_subscribe::FeedUrl;
use url::Url;

/// A genesis file of a devnet with many accounts is a few megabytes.
const MAX_GENESIS_BYTES: usize = 64 * 1024 * 1024;
/// Deadlines of a build that make sense.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);

/// Builds blocks in signed pieces, between a consensus client and its execution client.
#[derive(Clone, Debug, Parser)]
#[command(name = "preconf-builder", version = preconf_chassis::version())]
pub struct Config {
    /// The Engine API.
    #[command(flatten)]
    pub door: DoorArgs,

    /// The execution client's JSON-RPC, with the `eth` and `testing` namespaces.
    #[arg(long, env = "PRECONF_EXECUTION_URL", value_name = "URL")]
    pub execution_url: Url,

    /// The execution client's JSON-RPC over WebSocket. If it is set, what comes into the client's
    /// pool comes into ours (`eth_subscribe newPendingTransactions`, `txpool_content`).
    #[arg(long, env = "PRECONF_EXECUTION_WS_URL", value_name = "URL")]
    pub execution_ws_url: Option<Url>,

    /// The genesis file of the chain, as the execution client has it.
    #[arg(long, env = "PRECONF_GENESIS", value_name = "PATH")]
    pub genesis: PathBuf,

    /// The signer.
    #[arg(long, env = "PRECONF_SIGNER", value_name = "ENDPOINT")]
    pub signer: Endpoint,

    /// Where gateways subscribe to the feed.
    #[arg(long, env = "PRECONF_FEED_LISTEN", value_name = "ENDPOINT")]
    pub feed_listen: Endpoint,

    /// Where overlays send transactions.
    #[arg(long, env = "PRECONF_INGRESS_LISTEN", value_name = "ENDPOINT")]
    pub ingress_listen: Endpoint,

    /// Where payload servers get blocks for validators; off if unset.
    #[arg(long, env = "PRECONF_PAYLOADS_LISTEN", value_name = "ENDPOINT")]
    pub payloads_listen: Option<Endpoint>,

    /// A name that a certificate must carry to be served on an `https://` payloads listener.
    #[arg(
        long = "payloads-allow-name",
        env = "PRECONF_PAYLOADS_ALLOW_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "payload-server"
    )]
    pub payloads_allow_names: Vec<String>,

    /// Which slot a block is for, as validators count: `number`, that of the block, or counted from
    /// a time, `time:GENESIS:SECONDS`. On Berachain it is the number, if unset.
    #[arg(long, env = "PRECONF_SLOT_RULE", value_name = "RULE")]
    pub slot_rule: Option<SlotRule>,

    /// The name under which the lease is taken. Two builders have two names, and a builder that is
    /// started again has the same one: the name of the host, if unset.
    #[arg(long, env = "PRECONF_LEASE_HOLDER", default_value_t = host_name(), value_name = "NAME")]
    pub lease_holder: String,

    /// How long the right to build lasts without being renewed.
    #[arg(
        long,
        env = "PRECONF_LEASE_MS",
        default_value_t = 5_000,
        value_parser = clap::value_parser!(u64).range(500..=60_000),
        value_name = "MS"
    )]
    pub lease_ms: u64,

    /// Where what is published is written down before, so that it is kept when this process is
    /// killed and started again. Without it, such a start breaks the promises of the open blocks.
    #[arg(long, env = "PRECONF_JOURNAL", value_name = "PATH")]
    pub journal: Option<PathBuf>,

    /// A feed of what is published, of a gateway or of the other builder: while that one has the
    /// lease, this one executes what it publishes, and goes on with it if the lease runs out.
    #[arg(long, env = "PRECONF_STANDBY_FEED", value_name = "URL")]
    pub standby_feed: Option<FeedUrl>,

    /// From one flashblock to the next.
    #[arg(
        long,
        env = "PRECONF_FLASHBLOCK_INTERVAL_MS",
        default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(10..=60_000),
        value_name = "MS"
    )]
    pub flashblock_interval_ms: u64,

    /// From the start of a build to its end, if nobody asks for the block before: seconds as in `12`
    /// or `1.5`, or with a unit as in `1500ms` or `2s`.
    #[arg(
        long = "builder.deadline",
        env = "PRECONF_BUILDER_DEADLINE",
        default_value = "12",
        value_parser = parse_deadline,
        value_name = "SECONDS"
    )]
    pub builder_deadline: Duration,

    /// The gas limit that blocks move toward.
    #[arg(
        long = "builder.gaslimit",
        env = "PRECONF_BUILDER_GASLIMIT",
        default_value_t = 36_000_000,
        value_name = "GAS"
    )]
    pub builder_gaslimit: u64,

    /// How long sealing may take before the execution client's own payload is handed out.
    #[arg(
        long,
        env = "PRECONF_SEAL_BUDGET_MS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(10..=10_000),
        value_name = "MS"
    )]
    pub seal_budget_ms: u64,

    /// How many accounts and slots of state are kept in memory.
    #[arg(
        long,
        env = "PRECONF_STATE_CACHE_ENTRIES",
        default_value_t = 2_000_000,
        value_name = "ENTRIES"
    )]
    pub state_cache_entries: usize,

    /// The least priority fee of a transaction, in wei per gas.
    #[arg(
        long = "txpool.minimum-priority-fee",
        env = "PRECONF_TXPOOL_MINIMUM_PRIORITY_FEE",
        default_value_t = 0,
        value_name = "WEI"
    )]
    pub minimum_priority_fee: u128,

    /// The most transactions of one sender that wait, and how far ahead of its nonce they may be.
    #[arg(
        long = "txpool.max-account-slots",
        env = "PRECONF_TXPOOL_MAX_ACCOUNT_SLOTS",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
        value_name = "COUNT"
    )]
    pub max_account_slots: u32,

    /// Do not hand what comes in on the ingress to the execution client's pool. Then a block of that
    /// client, the fallback, does not hold it, and what is not preconfirmed when this process is
    /// killed is lost.
    #[arg(long = "txpool.private", env = "PRECONF_TXPOOL_PRIVATE")]
    pub private_pool: bool,

    /// The share of one core, in percent, that goes into executing transactions when they come, so
    /// that what they read is in memory when they are to be built in; 0 for none.
    #[arg(
        long = "txpool.speculation-percent",
        env = "PRECONF_TXPOOL_SPECULATION_PERCENT",
        default_value_t = 25,
        value_parser = clap::value_parser!(u8).range(0..=100),
        value_name = "PERCENT"
    )]
    pub speculation_percent: u8,

    /// Certificates, and who may connect.
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
    pub(crate) spec: Arc<ChainSpec>,
    /// Where payload servers are served, and how they count slots.
    pub(crate) payloads: Option<(Endpoint, SlotRule)>,
    pub(crate) door: Door,
    pub(crate) security: Security,
}

impl Prepared {
    /// Reads the files that the flags name, and checks that the links are allowed.
    ///
    /// # Errors
    /// Names the file or flag that is wrong.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        config.check_session_length()?;
        let genesis = read_text(&config.genesis, MAX_GENESIS_BYTES)?;
        let spec = ChainSpec::from_genesis_json(&genesis)
            .map_err(|error| ConfigError::file(&config.genesis, error.to_string()))?;
        let security = Security::load(&config.security)?;
        let door = config.door.prepare(&security)?;
        let standby = config.standby_feed.iter().filter_map(|feed| match feed {
            FeedUrl::Grpc(endpoint) => Some(endpoint),
            // Its content authenticates itself.
            FeedUrl::WebSocket(_) => None,
        });
        let links = [&config.signer, &config.feed_listen, &config.ingress_listen];
        let links = links.into_iter().chain(standby);
        for endpoint in links.chain(&config.payloads_listen) {
            security.check(endpoint)?;
        }
        let payloads = config.payloads(&spec)?;
        let (config, spec) = (config.clone(), Arc::new(spec));
        Ok(Self { config, spec, payloads, door, security })
    }
}

impl Config {
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            interval: Duration::from_millis(self.flashblock_interval_ms),
            deadline: self.builder_deadline,
        }
    }

    /// Where payload servers are served, and how they count slots.
    fn payloads(&self, spec: &ChainSpec) -> Result<Option<(Endpoint, SlotRule)>, ConfigError> {
        let Some(endpoint) = &self.payloads_listen else { return Ok(None) };
        let rule = self.slot_rule.or_else(|| SlotRule::of(spec)).ok_or_else(|| {
            ConfigError::flag("--payloads-listen", "needs --slot-rule on this chain")
        })?;
        Ok(Some((endpoint.clone(), rule)))
    }

    /// A session has room for so many flashblocks and no more.
    fn check_session_length(&self) -> Result<(), ConfigError> {
        let Timing { interval, deadline } = self.timing();
        let heartbeats = deadline.as_nanos() / interval.as_nanos();
        // Index 0 goes out before the first tick, and the last flashblock needs an index as well.
        if heartbeats < u128::from(MAX_INDEX) {
            return Ok(());
        }
        let reason = format!(
            "a flashblock every {interval:?} for {deadline:?} is more than the {} that a session \
             can have",
            MAX_INDEX + 1
        );
        Err(ConfigError::flag("--builder.deadline", reason))
    }

    pub(crate) fn pool_limits(&self) -> PoolLimits {
        PoolLimits {
            minimum_tip: self.minimum_priority_fee,
            per_sender: self.max_account_slots as usize,
            nonce_gap: self.max_account_slots.into(),
            ..PoolLimits::default()
        }
    }
}

/// What this machine calls itself, in a container its name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map(|name| name.trim().to_owned()).unwrap_or_default();
    if name.is_empty() { "builder".to_owned() } else { name }
}

fn parse_deadline(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(millis) => (millis, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.),
    };
    // Digits and a point: what else a float may be written as is not a duration.
    let is_plain = number.starts_with(|first: char| first.is_ascii_digit())
        && number.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    let parsed = number.parse::<f64>().ok().filter(|_| is_plain);
    let seconds = parsed.ok_or("expected seconds as in 2 or 1.5, or milliseconds as in 1500ms")?;
    Duration::try_from_secs_f64(seconds * unit)
        .ok()
        .filter(|deadline| DEADLINES.contains(deadline))
        .ok_or_else(|| format!("not in {:?}..={:?}", DEADLINES.start(), DEADLINES.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_seconds_or_has_a_unit() {
        let cases = [
            ("2", 2_000),
            ("12", 12_000),
            ("1.5", 1_500),
            ("0.25", 250),
            ("1500ms", 1_500),
            ("2s", 2_000),
            ("600", 600_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_deadline(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let wrong =
            ["", "0", "0ms", "5ms", "601", "-1", "+1", "1e3", "inf", "NaN", "2 s", "ms", "."];
        for text in wrong {
            assert!(parse_deadline(text).is_err(), "{text}");
        }
    }
}
