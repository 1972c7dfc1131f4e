//! The flags of `cargo devnet`, and the table of its ports.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroU64,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use preconf_telemetry::LogFilter;

use crate::{genesis::ChainName, traces::Collector};

/// How many validators can have sidecars.
pub const MAX_SIDECARS: usize = 6;

/// Runs the whole system on this machine, until Ctrl-C.
#[derive(Clone, Debug, Parser)]
#[command(name = "devnet", version)]
pub struct Options {
    /// Whose rules the chain follows.
    #[arg(long, value_enum, default_value_t = ChainName::Berachain)]
    pub chain: ChainName,

    /// Stop after this many canonical blocks, and exit 0 only if every promise was kept.
    #[arg(long, value_name = "N")]
    pub blocks: Option<NonZeroU64>,

    /// Fail if there are fewer flashblocks per block on average.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub min_flashblocks_per_block: u64,

    /// Fail if half of the transactions wait longer for their first receipt than the first time, or
    /// one of a hundred longer than the second.
    #[arg(long, num_args = 2, value_names = ["P50", "P99"])]
    pub max_latency_ms: Vec<u32>,

    /// Let go wrong what this file says; see `devnet/scenarios`. With `--base-port 0` a range of free
    /// ports is taken, because services are started again where they were.
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,

    /// Write what was measured to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Transactions sent per second; 0 for none.
    #[arg(
        long,
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(0..=1_000),
        value_name = "N"
    )]
    pub tps: u32,

    /// Builders: with two, one builds and the other stands by, behind one entrance.
    #[arg(
        long,
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=2),
        value_name = "N"
    )]
    pub builders: u8,

    /// Simulated validators, who propose in turn.
    #[arg(
        long,
        default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=1_000),
        value_name = "N"
    )]
    pub validators: u64,

    /// How validators get the sequencer's block. Each sidecar is a process of its own.
    #[arg(long, value_enum, default_value_t = Fetch::Direct)]
    pub fetch: Fetch,

    /// From one flashblock to the next.
    #[arg(
        long,
        default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(10..=60_000),
        value_name = "MS"
    )]
    pub interval_ms: u64,

    /// From a proposer asking for its block to everybody having it: no flashblocks in between.
    #[arg(long, default_value_t = 300, value_name = "MS")]
    pub proposal_delay_ms: u64,

    /// How long the builder may take to seal a block; proposers wait a little longer.
    #[arg(
        long,
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(10..=10_000),
        value_name = "MS"
    )]
    pub seal_budget_ms: u64,

    /// From one block to the next.
    #[arg(
        long,
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u64).range(200..=60_000),
        value_name = "MS"
    )]
    pub slot_ms: u64,

    /// The first of the ports that are used; see the endpoints that are printed. With 0 each
    /// process takes one that is free.
    #[arg(
        long,
        default_value_t = 18_545,
        value_parser = parse_base_port,
        value_name = "PORT"
    )]
    pub base_port: u16,

    /// What all keys and accounts are derived from; random if unset, and printed.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Collect the spans of the services, print a table of them at the end, and fail if flashblocks
    /// cannot be followed from the builder to the overlay.
    #[arg(long)]
    pub traces: bool,

    /// Who collects them.
    #[arg(skip)]
    pub collector: Option<Collector>,

    /// Keep the temporary directory with keys, genesis, sockets and the logs of the services.
    #[arg(long)]
    pub keep: bool,

    /// What this process logs to stderr; the services' logs are in the temporary directory.
    #[arg(long, env = "RUST_LOG", default_value = "warn", value_name = "DIRECTIVES")]
    pub log_filter: LogFilter,

    /// Start the service binaries that are there instead of building them first.
    #[arg(long, conflicts_with = "build_only")]
    pub no_build: bool,

    /// Build the service binaries and start nothing.
    #[arg(long)]
    pub build_only: bool,
}

/// How validators get the sequencer's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fetch {
    /// From the sequencer's own Engine API, without a payload server.
    Direct,
    /// From a payload server, each by itself, as beacon-kit does. On Berachain the server asks a CometBFT
    /// node whose turn it is; otherwise it is told.
    Native,
    /// From a payload server, each through a sidecar before its execution client.
    Sidecar,
    /// The first natively, the second through a sidecar, and so on.
    Mixed,
}

impl Fetch {
    /// Whether there is a payload server.
    pub const fn has_server(self) -> bool {
        match self {
            Self::Direct => false,
            Self::Native | Self::Sidecar | Self::Mixed => true,
        }
    }

    /// Whether all of them fetch by themselves, as beside beacon-kit.
    pub const fn is_native(self) -> bool {
        match self {
            Self::Native => true,
            Self::Direct | Self::Sidecar | Self::Mixed => false,
        }
    }

    /// Whether this validator has a sidecar.
    pub const fn has_sidecar(self, validator: usize) -> bool {
        match self {
            Self::Direct | Self::Native => false,
            Self::Sidecar => true,
            Self::Mixed => validator % 2 == 1,
        }
    }
}

/// Flags that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A block would reach its validators after the next one was asked for.
    #[error("--proposal-delay-ms {delay} is not below --slot-ms {slot}")]
    DelayAboveSlot {
        /// The delay.
        delay: u64,
        /// The slot.
        slot: u64,
    },
    /// There are not as many ports.
    #[error("--validators {validators} is more than {MAX_SIDECARS}, as many as can have sidecars")]
    TooManySidecars {
        /// How many there are.
        validators: u64,
    },
}

impl Options {
    /// Checks what no single flag can know.
    ///
    /// # Errors
    /// Names the flags that contradict each other.
    pub const fn check(&self) -> Result<(), Contradiction> {
        if self.proposal_delay_ms >= self.slot_ms {
            let (delay, slot) = (self.proposal_delay_ms, self.slot_ms);
            return Err(Contradiction::DelayAboveSlot { delay, slot });
        }
        let validators = self.validators;
        if self.fetch.has_sidecar(1) && validators > MAX_SIDECARS as u64 {
            return Err(Contradiction::TooManySidecars { validators });
        }
        Ok(())
    }

    /// From one block to the next.
    pub const fn slot(&self) -> Duration {
        Duration::from_millis(self.slot_ms)
    }

    /// From the proposer asking to everybody having the block.
    pub const fn proposal_delay(&self) -> Duration {
        Duration::from_millis(self.proposal_delay_ms)
    }

    /// How long a proposer waits for the builder's block: the answer takes its time, too.
    pub const fn patience(&self) -> Duration {
        Duration::from_millis(self.seal_budget_ms + 200)
    }

    /// These, with ports that are known before anybody listens there, and stay the same when a
    /// service is started again.
    ///
    /// # Errors
    /// If there is no range of free ports.
    pub fn with_lasting_ports(&self) -> io::Result<Self> {
        let can_wait = self.scenario.is_none() && self.builders == 1 && !self.fetch.has_server();
        if can_wait || self.base_port != 0 {
            return Ok(self.clone());
        }
        /// How many ranges this process has taken: whoever has one may not listen there yet.
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        // Below the ports that the system gives to clients.
        let mut bases = (10_000..32_000).step_by(32).collect::<Vec<u16>>();
        // Far from what processes that were started at the same time take.
        let first = std::process::id() as usize * 101 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let first = first % bases.len();
        bases.rotate_left(first);
        let free = bases
            .into_iter()
            .find(|base| (0..=Port::LAST).all(|distance| is_free(base + distance)));
        let base_port = free.ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        Ok(Self { base_port, ..self.clone() })
    }

    /// These, with a collector of spans if one is asked for.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn with_collector(self) -> io::Result<Self> {
        let collector = match self.traces {
            true => Some(Collector::start().await?),
            false => None,
        };
        Ok(Self { collector, ..self })
    }

    /// Whether the payload server has a certificate. Whoever stands in its way in a scenario changes
    /// what it says, and reads it.
    pub const fn has_tls(&self) -> bool {
        self.scenario.is_none()
    }

    /// Where `port` is.
    pub fn address(&self, port: Port) -> SocketAddr {
        let number = match self.base_port {
            0 => 0,
            base => base + port as u16,
        };
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    /// Where the sidecar of a validator is, and its health.
    pub fn sidecar(&self, validator: usize) -> [SocketAddr; 2] {
        let mut first = self.address(Port::Sidecars);
        if first.port() != 0 {
            // Not more than MAX_SIDECARS, as was checked.
            first.set_port(first.port() + 2 * validator as u16);
        }
        let mut health = first;
        if first.port() != 0 {
            health.set_port(first.port() + 1);
        }
        [first, health]
    }
}

/// The ports, by their distance from `--base-port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Port {
    /// The overlay's JSON-RPC: what a wallet is pointed at.
    Overlay = 0,
    /// The gateway's WebSocket.
    GatewayWebSocket = 1,
    /// The Engine API of the builder, or of the entrance to both.
    BuilderEngine = 2,
    /// The sequencer's execution client.
    SequencerEngine = 3,
    /// The sequencer's execution client.
    SequencerRpc = 4,
    /// The validators' execution client.
    ValidatorsEngine = 5,
    /// The validators' execution client.
    ValidatorsRpc = 6,
    /// The RPC node's execution client.
    RpcNodeEngine = 7,
    /// The RPC node's execution client.
    RpcNodeRpc = 8,
    /// Where a payload server asks whose turn it is.
    CometBft = 9,
    /// Health and metrics.
    SignerHealth = 10,
    /// Health and metrics.
    BuilderHealth = 11,
    /// Health and metrics.
    GatewayHealth = 12,
    /// Health and metrics.
    ConsumerHealth = 13,
    /// Health and metrics.
    OverlayHealth = 14,
    /// Health and metrics of the second builder.
    SecondBuilderHealth = 15,
    /// The first of two builders' own Engine API.
    FirstBuilderEngine = 16,
    /// The second builder's own Engine API.
    SecondBuilderEngine = 17,
    /// Where validators ask for payloads.
    PayloadServer = 18,
    /// Health and metrics.
    PayloadServerHealth = 19,
    /// The Engine API of the first validator's sidecar; its health, the second's, and so on.
    Sidecars = 20,
}

impl Port {
    /// The one that is furthest from the base.
    const LAST: u16 = Self::Sidecars as u16 + 2 * MAX_SIDECARS as u16 - 1;
}

fn parse_base_port(text: &str) -> Result<u16, String> {
    let last = u16::MAX - Port::LAST;
    match text.parse() {
        Ok(port) if port == 0 || (1_024..=last).contains(&port) => Ok(port),
        Ok(_) | Err(_) => Err(format!("expected 0, or a port from 1024 to {last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["devnet"].iter().chain(flags))
    }

    #[test]
    fn without_flags_slots_last_two_seconds_and_flashblocks_come_every_200_ms() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.slot(), Duration::from_secs(2));
        assert_eq!((options.interval_ms, options.proposal_delay_ms), (200, 300));
        assert_eq!(options.patience(), Duration::from_millis(500));
        assert_eq!((options.tps, options.validators, options.blocks), (20, 4, None));
        assert_eq!(options.address(Port::Overlay).to_string(), "127.0.0.1:18545");
        assert_eq!(options.address(Port::GatewayWebSocket).to_string(), "127.0.0.1:18546");
    }

    #[test]
    fn base_port_0_leaves_every_port_to_the_system() {
        let options = parse(&["--base-port", "0"]).unwrap();
        assert_eq!(options.address(Port::OverlayHealth).port(), 0);
    }

    #[test]
    fn flags_that_cannot_mean_anything_are_refused() {
        for flags in [
            ["--blocks", "0"],
            ["--validators", "0"],
            ["--interval-ms", "1"],
            ["--base-port", "80"],
            ["--base-port", "65530"],
            ["--tps", "-1"],
            ["--builders", "3"],
            ["--unknown", "1"],
        ] {
            assert_eq!(parse(&flags).unwrap_err().exit_code(), 2, "{flags:?}");
        }
    }

    #[test]
    fn each_sidecar_has_two_ports_of_its_own_and_there_are_not_more_than_that() {
        let options = parse(&["--fetch", "mixed", "--validators", "6"]).unwrap();
        assert!(options.check().is_ok());
        assert_eq!(options.sidecar(0).map(|at| at.port()), [18_565, 18_566]);
        assert_eq!(options.sidecar(5)[1].port(), 18_545 + Port::LAST);
        let sidecars: Vec<_> = (0..4).filter(|of| options.fetch.has_sidecar(*of)).collect();
        assert_eq!(sidecars, [1, 3]);
        let many = parse(&["--fetch", "sidecar", "--validators", "7"]).unwrap();
        assert_eq!(many.check(), Err(Contradiction::TooManySidecars { validators: 7 }));
        let none = parse(&["--fetch", "native", "--validators", "7"]).unwrap();
        assert!(none.check().is_ok());
    }

    #[test]
    fn a_delay_as_long_as_the_slot_is_a_contradiction() {
        let options = parse(&["--slot-ms", "500", "--proposal-delay-ms", "500"]).unwrap();
        let refused = options.check().unwrap_err();
        assert_eq!(refused.to_string(), "--proposal-delay-ms 500 is not below --slot-ms 500");
    }
}
