//! The flags of the gateway, each of them also an environment variable.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use preconf_chassis::{Endpoint, ProcessArgs, SecurityArgs};
use preconf_signing::PublicKey;
use preconf_subscribe::FeedUrl;

use crate::budget::Allowance;

/// Serves a feed of flashblocks to any number of readers.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "preconf-gateway", version = preconf_chassis::version())]
pub struct Config {
    /// The feed to serve: of a builder or of another gateway (http://, https:// or unix: for gRPC,
    /// ws:// for a gateway's WebSocket).
    #[arg(long, env = "PRECONF_UPSTREAM", value_name = "URL")]
    pub upstream: FeedUrl,

    /// The public key of the sequencer, 0x and 96 hex digits. Several during a rotation.
    #[arg(
        long = "sequencer-pubkey",
        env = "PRECONF_SEQUENCER_PUBKEY",
        value_name = "KEY",
        value_delimiter = ',',
        required = true
    )]
    pub sequencer_pubkeys: Vec<PublicKey>,

    /// The chain that the flashblocks are for.
    #[arg(long, env = "PRECONF_CHAIN_ID", value_name = "ID")]
    pub chain_id: u64,

    /// Where the WebSocket is served.
    #[arg(
        long,
        env = "PRECONF_FLASHBLOCK_WS_ADDR",
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:8548"
    )]
    pub flashblock_ws_addr: SocketAddr,

    /// Where the feed is served over gRPC; off if unset.
    #[arg(long, env = "PRECONF_FEED_LISTEN", value_name = "ENDPOINT")]
    pub feed_listen: Option<Endpoint>,

    /// How many readers are served at a time, over WebSocket and gRPC together.
    #[arg(long, env = "PRECONF_MAX_CONNECTIONS", value_name = "N", default_value = "10000")]
    pub max_connections: NonZeroUsize,

    /// How many sessions before the current one can be replayed.
    #[arg(long, env = "PRECONF_REPLAY_SESSIONS", value_name = "N", default_value_t = 8)]
    pub replay_sessions: usize,

    /// How many bytes of messages are kept for replay, in all their encodings.
    #[arg(
        long,
        env = "PRECONF_REPLAY_BYTES",
        value_name = "BYTES",
        default_value_t = 64 * 1024 * 1024
    )]
    pub replay_bytes: usize,

    /// How many bytes are replayed in a minute to one source: an address prefix (IPv4 /24, IPv6
    /// /56), or a certificate. Beyond it a reader gets what follows from then on. 0 is no limit;
    /// behind a proxy, all readers are one source.
    #[arg(
        long,
        env = "PRECONF_REPLAY_BUDGET_BYTES",
        value_name = "BYTES",
        default_value_t = 128 * 1024 * 1024
    )]
    pub replay_budget_bytes: u64,

    /// How many bytes are replayed in a minute to all sources together. 0 is no limit.
    #[arg(
        long,
        env = "PRECONF_REPLAY_BUDGET_TOTAL_BYTES",
        value_name = "BYTES",
        default_value_t = 2 * 1024 * 1024 * 1024
    )]
    pub replay_budget_total_bytes: u64,

    /// How long the end of a session waits for a flashblock before it that was missed and is asked
    /// for again.
    #[arg(long, env = "PRECONF_REPAIR_PATIENCE_MS", value_name = "MS", default_value_t = 5000)]
    pub repair_patience_ms: u64,

    /// How long a message may wait for a reader before the reader is closed as too slow.
    #[arg(long, env = "PRECONF_MAX_LAG_MS", value_name = "MS", default_value_t = 5000)]
    pub max_lag_ms: u64,

    /// What links between processes are authenticated with.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// Health, logs and shutdown.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What the feed keeps and whom it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions kept before the current one.
    pub sessions: usize,
    /// Bytes kept in all.
    pub bytes: usize,
    /// How long a message waits for a reader that had been up to date.
    pub max_lag: Duration,
    /// What is replayed in a minute.
    pub(crate) replay: Allowance,
}

impl Config {
    /// Over how much of the drain readers leave: half of it, and the rest is for their last words.
    pub(crate) const fn drain_spread(&self) -> Duration {
        Duration::from_millis(self.process.drain_timeout_ms / 2)
    }

    /// What the feed keeps and whom it waits for.
    pub const fn limits(&self) -> Limits {
        Limits {
            sessions: self.replay_sessions,
            bytes: self.replay_bytes,
            max_lag: Duration::from_millis(self.max_lag_ms),
            replay: Allowance {
                source_bytes: self.replay_budget_bytes,
                total_bytes: self.replay_budget_total_bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const KEY: &str = "0x95a254501b7733239ed3cec4d56737977bd09ede881d8a234560e83e5525017add3b1dcc3eabfb85e12a4131b19c253b";
    const REQUIRED: [&str; 7] = [
        "preconf-gateway",
        "--upstream",
        "http://127.0.0.1:9000",
        "--chain-id",
        "80094",
        "--sequencer-pubkey",
        KEY,
    ];

    #[test]
    fn what_is_not_given_has_the_upstreams_port_and_bounded_defaults() {
        let config = Config::try_parse_from(REQUIRED).unwrap();

        assert_eq!(config.flashblock_ws_addr.to_string(), "0.0.0.0:8548");
        assert_eq!(config.max_connections.get(), 10_000);
        assert_eq!(
            config.limits(),
            Limits {
                sessions: 8,
                bytes: 64 << 20,
                max_lag: Duration::from_secs(5),
                replay: Allowance { source_bytes: 128 << 20, total_bytes: 2 << 30 },
            }
        );
    }

    #[test]
    fn keys_are_repeated_or_listed_during_a_rotation() {
        let twice = format!("{KEY},{KEY}");
        let flags = REQUIRED.into_iter().chain(["--sequencer-pubkey", twice.as_str()]);

        assert_eq!(Config::try_parse_from(flags).unwrap().sequencer_pubkeys.len(), 3);
    }

    #[test]
    fn a_key_that_is_none_is_refused_with_the_flag() {
        let flags = REQUIRED.into_iter().chain(["--sequencer-pubkey", "0x00"]);

        let refusal = Config::try_parse_from(flags).unwrap_err();

        assert_eq!(refusal.exit_code(), 2);
        assert!(refusal.to_string().contains("--sequencer-pubkey"), "{refusal}");
    }

    #[test]
    fn a_gateway_without_a_key_or_a_chain_does_not_start() {
        for missing in ["--upstream", "--chain-id", "--sequencer-pubkey"] {
            let at = REQUIRED.iter().position(|flag| *flag == missing).unwrap();
            let flags = REQUIRED[..at].iter().chain(&REQUIRED[at + 2..]);
            assert!(Config::try_parse_from(flags).is_err(), "{missing}");
        }
    }
}
