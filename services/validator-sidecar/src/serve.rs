//! Puts the parts together.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use preconf_assembly::{Sidecar as Blobs, prove_blobs};
use preconf_chassis::{Context, Exit};
use preconf_engine::ProxyConfig;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    Prepared, execution::Execution, fetch::Sequencers, metrics::Metrics, sidecar::Sidecar,
    wanted::Jobs,
};

/// How much longer than the budget a hook may take before it counts as hanging.
const HANGING: Duration = Duration::from_millis(250);

/// Serves until the process is told to stop.
///
/// # Errors
/// If an address cannot be bound.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    start(prepared, context).await.map(drop)
}

/// As [`serve`], and tells where the consensus client finds the Engine API.
///
/// # Errors
/// If an address cannot be bound.
pub async fn start(prepared: Prepared, context: Context) -> Result<SocketAddr, Exit> {
    let Prepared { config, door, sequencers } = prepared;
    let metrics = Arc::new(Metrics::new(&context.registry));
    for url in &config.sequencer_urls {
        if !url.is_tls() && !url.is_loopback() {
            warn!(sequencer = url.host(), "payloads and tokens are sent in plaintext");
        }
    }
    let sidecar = Sidecar {
        execution: Execution::new(door.execution_client()?),
        sequencers: Sequencers::new(sequencers, config.patience(), metrics.clone()),
        jobs: Jobs::default(),
        slots: config.slot_rule,
        fee_recipients: config.fee_recipients.clone(),
        budget: config.budget(),
        metrics,
    };
    let limits = ProxyConfig { hook_deadline: config.budget() + HANGING, ..ProxyConfig::default() };
    // What was begun ends within the budget by itself.
    let give_up = |_| {};
    let until = context.shutdown.clone();
    let address = door.open(&context, Arc::new(sidecar), limits, until, give_up).await?;

    let shutdown = context.shutdown.clone();
    context.tasks.spawn("prepare", async move {
        // The points that proofs are checked with take a while to be read, the first time.
        let prepared = spawn_blocking(|| prove_blobs(&Blobs::Eip4844(Default::default()), &[]));
        if let Err(error) = prepared.await {
            warn!(error = &error as &dyn std::error::Error, "blobs cannot be looked at");
        }
        shutdown.cancelled().await;
        Ok::<(), Infallible>(())
    });
    Ok(address)
}
