//! One life for every process: parse, bind, serve, drain, exit code.
//!
//! A service is a `main` of a few lines: it parses its flags, and hands [`run`] two functions. The
//! first reads files and returns what it read, before any socket is open. The second binds, spawns
//! its [`Tasks`] and returns; the process lives until a signal comes or the first task ends.
//!
//! ```no_run
//! use clap::Parser; // derives
//! use preconf_chassis::{self as chassis, Context, Exit, ProcessArgs};
//!
//! #[derive(Parser)]
//! struct Config {
//!     #[command(flatten)]
//!     process: ProcessArgs,
//!     #[arg(long)]
//!     key: std::path::PathBuf,
//! }
//!
//! async fn serve(_key: chassis::SecretText, context: Context) -> Result<(), Exit> {
//!     let upstream = context.health.check("upstream");
//!     let shutdown = context.shutdown.clone();
//!     context.tasks.spawn("feed", async move {
//!         upstream.ready();
//!         shutdown.cancelled().await;
//!         Ok::<(), std::convert::Infallible>(())
//!     });
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     let config: Config = match chassis::parse("gateway") {
//!         Ok(config) => config,
//!         Err(code) => return code,
//!     };
//!     let prepare = || chassis::read_secret(&config.key);
//!     chassis::run("gateway", &config.process, prepare, serve)
//! }
//! ```
//!
//! Invariants: nothing is spawned without an owner; every link that is not loopback is mTLS or a
//! Unix socket with a known peer, unless the operator says otherwise; every listener, handshake,
//! request and drain has a limit.
//!
//! This crate knows nothing of what the processes do.

pub mod backoff;
pub mod channel;
pub mod context;
pub mod endpoint;
pub mod error;
pub mod files;
pub mod grpc;
pub mod health;
mod incoming;
pub mod listener;
pub mod peer;
mod probe;
pub mod process;
pub mod reload;
pub mod security;
mod stream;
pub mod tasks;
mod tls;

pub use backoff::Backoff;
pub use channel::channel;
pub use context::{Context, Shutdown, describe_metrics};
pub use endpoint::Endpoint;
pub use error::{Chain, ConfigError, Exit};
pub use files::{SecretText, read_secret, read_text};
pub use grpc::MAX_GRPC_MESSAGE_BYTES;
pub use health::{Check, Health};
pub use listener::Listener;
pub use peer::Peer;
pub use preconf_telemetry::version;
pub use process::{Errand, ProcessArgs, parse, parse_with, run};
pub use security::{Security, SecurityArgs};
pub use tasks::Tasks;
