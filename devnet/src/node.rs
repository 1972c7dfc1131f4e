//! `devnet node`: the embedded execution client alone, with every state of the chain it imports.
//!
//! It is a development client: what it knows is in memory and gone when it ends. Without a file of
//! a secret one is made up and shown, because what it guards lives as long as the process.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use alloy_primitives::B256;
use clap::Args;
use preconf_chain::{ChainSpec, GenesisError, apply_forkenv};
use preconf_engine::{JwtSecret, jwt::JwtFileError};
use preconf_telemetry::{Exports, LogFilter, Registry, TelemetryArgs, TelemetryError};
use serde::Deserialize;

use crate::{
    Console,
    client::{
        ClientConfig, ExecutionClient, ImportError, Kept, Ports, RlpBlocks, ServeError, in_words,
        serve_on,
    },
    clients::http,
};

/// The flags of `devnet node`.
#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// The genesis, as geth writes it.
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,

    /// Forks that the genesis does not name: a JSON object of HIVE_… variables.
    #[arg(long, value_name = "FILE")]
    pub forkenv: Option<PathBuf>,

    /// Blocks to import before anything is served, in RLP, one behind the other.
    #[arg(long, value_name = "FILE")]
    pub import: Option<PathBuf>,

    /// Where JSON-RPC is served over HTTP.
    #[arg(long, default_value = "127.0.0.1:8545", value_name = "ADDR")]
    pub http: SocketAddr,

    /// Where JSON-RPC is served over WebSocket; may be the same as for HTTP.
    #[arg(long, default_value = "127.0.0.1:8546", value_name = "ADDR")]
    pub ws: SocketAddr,

    /// Where the Engine API is served.
    #[arg(long, default_value = "127.0.0.1:8551", value_name = "ADDR")]
    pub authrpc: SocketAddr,

    /// The secret of the Engine API; one is made up and shown if there is no file.
    #[arg(long, value_name = "FILE")]
    pub jwt_secret: Option<PathBuf>,

    /// What is logged to stderr.
    #[arg(long, env = "RUST_LOG", default_value = "warn", value_name = "DIRECTIVES")]
    pub log_filter: LogFilter,
}

/// Why the client does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log filter cannot be used.
    #[error("setting up the logs")]
    Logs(#[source] TelemetryError),
    /// A file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The genesis, or the forks beside it, are not understood.
    #[error("understanding {path}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: GenesisError,
    },
    /// The secret cannot be used.
    #[error("reading the secret")]
    Secret(#[source] JwtFileError),
    /// The chain cannot be imported.
    #[error("importing {path}")]
    Import {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ImportError,
    },
    /// A port is taken.
    #[error("opening the ports")]
    Serve(#[source] ServeError),
    /// The system does not say when somebody presses Ctrl-C.
    #[error("waiting for Ctrl-C")]
    Signal(#[source] io::Error),
    /// A port is no longer served.
    #[error("a port is no longer served")]
    Ended,
}

/// Serves until Ctrl-C. Exits 2 where the flags name what cannot be used.
pub async fn run(options: &NodeOptions, console: Console) -> ExitCode {
    match attempt(options, console).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.line(format_args!("FAILED: {}", in_words(&error)));
            match error {
                NodeError::Read { .. } | NodeError::Genesis { .. } | NodeError::Secret(_) => {
                    ExitCode::from(2)
                }
                NodeError::Logs(_)
                | NodeError::Import { .. }
                | NodeError::Serve(_)
                | NodeError::Signal(_)
                | NodeError::Ended => ExitCode::FAILURE,
            }
        }
    }
}

async fn attempt(options: &NodeOptions, console: Console) -> Result<(), NodeError> {
    let logs = TelemetryArgs { log_filter: options.log_filter.clone(), ..Default::default() };
    let exports = Exports::new(&Registry::new("devnet"));
    let _logs = preconf_telemetry::init("devnet", &logs, &exports).map_err(NodeError::Logs)?;
    let (jwt, shown) = secret(options.jwt_secret.as_deref())?;
    let client = client(options)?;
    if let Some(path) = &options.import {
        let stop = Arc::new(AtomicBool::new(false));
        let importing = import(client.clone(), path.clone(), stop.clone());
        tokio::select! {
            imported = importing => imported?,
            pressed = tokio::signal::ctrl_c() => {
                stop.store(true, Ordering::Relaxed);
                return pressed.map_err(NodeError::Signal);
            }
        }
    }
    let head = client.head();
    console.line(format_args!("chain {}", client.spec().chain_id()));
    for key in client.spec().ignored_keys() {
        console.line(format_args!("ignored: config.{key} of the genesis means nothing here"));
    }
    console.line(format_args!("head {} {}", head.number(), head.hash));
    let ports = Ports {
        engine: options.authrpc,
        http: options.http,
        websocket: (options.ws != options.http).then_some(options.ws),
    };
    let mut running = serve_on(client, ports, jwt).await.map_err(NodeError::Serve)?;
    console.line(format_args!("HTTP {}", http(running.rpc_addr)));
    console.line(format_args!("WebSocket ws://{}/", running.websocket_addr));
    console.line(format_args!("Engine API {} {shown}", http(running.engine_addr)));
    console.line("a development client: everything is in memory; Ctrl-C ends it");
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(NodeError::Signal),
        () = running.ended() => Err(NodeError::Ended),
    }
}

/// A client that keeps everything.
fn client(options: &NodeOptions) -> Result<Arc<ExecutionClient>, NodeError> {
    let path = options.genesis.clone();
    let mut genesis = read(&path)?;
    let mut network_id = None;
    if let Some(path) = &options.forkenv {
        let forkenv = read(path)?;
        let failed = |source| NodeError::Genesis { path: path.clone(), source };
        genesis = apply_forkenv(&genesis, &forkenv).map_err(failed)?;
        network_id = network(&forkenv);
    }
    let spec = ChainSpec::from_genesis_json(&genesis);
    let spec = spec.map_err(|source| NodeError::Genesis { path, source })?;
    let config = ClientConfig { kept: Kept::EVERYTHING, network_id, ..ClientConfig::default() };
    Ok(ExecutionClient::new(Arc::new(spec), config))
}

/// The network's id, which is not one of the chain's rules.
fn network(forkenv: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Network {
        #[serde(rename = "HIVE_NETWORK_ID")]
        id: Option<String>,
    }
    serde_json::from_str::<Network>(forkenv).ok()?.id?.parse().ok()
}

/// Imports a chain, away from the runtime, until it is whole or is to stop.
async fn import(
    client: Arc<ExecutionClient>,
    path: PathBuf,
    stop: Arc<AtomicBool>,
) -> Result<(), NodeError> {
    let importing = tokio::task::spawn_blocking(move || {
        let file = File::open(&path);
        let file = file.map_err(|source| NodeError::Read { path: path.clone(), source })?;
        for block in RlpBlocks::new(BufReader::new(file)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let imported = block.and_then(|block| client.import(block));
            imported.map_err(|source| NodeError::Import { path: path.clone(), source })?;
        }
        Ok(())
    });
    importing.await.expect("an import neither panics nor is cancelled")
}

/// The secret, and what is shown of it: the file it is in, or the secret that was made up.
fn secret(path: Option<&Path>) -> Result<(Arc<JwtSecret>, String), NodeError> {
    if let Some(path) = path {
        let secret = JwtSecret::read(path).map_err(NodeError::Secret)?;
        return Ok((Arc::new(secret), format!("with the secret in {}", path.display())));
    }
    let bytes: [u8; 32] = rand::random();
    let shown = format!("with the secret {}", B256::from(bytes));
    Ok((Arc::new(JwtSecret::from_bytes(bytes)), shown))
}

fn read(path: &Path) -> Result<String, NodeError> {
    fs::read_to_string(path).map_err(|source| NodeError::Read { path: path.to_owned(), source })
}
