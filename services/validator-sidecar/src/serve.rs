//! Puts the parts together.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use preconf_assembly::load_trusted_setup;
use preconf_chassis::{Chain, Context, Exit, reload::Hangup};
use preconf_engine::ProxyConfig;
use tokio::task::spawn_blocking;
use tracing::{error, warn};

use crate::{
    Prepared, execution::Execution, fetch::Sequencers, metrics::Metrics, sidecar::Sidecar,
    wanted::Jobs,
};

/// How much longer than the budget a hook may take before it counts as hanging. The consensus client
/// does not wait for it: at the budget it gets what the execution client has answered.
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
    let hangup = Hangup::take()?;
    let Prepared { config, door, seen, credentials, sequencers } = prepared;
    let metrics = Arc::new(Metrics::new(&context.registry));
    for url in &config.sequencer_urls {
        if !url.is_tls() && !url.is_loopback() {
            warn!(sequencer = url.host(), "payloads and tokens are sent in plaintext");
        }
    }
    let sequencers =
        Sequencers::new(sequencers, config.patience(), config.budget(), metrics.clone());
    let sequencers = Arc::new(sequencers);
    let paths = credentials.paths();
    let reload = {
        let (credentials, sequencers) = (Arc::new(credentials), sequencers.clone());
        let reloaded = metrics.reloaded.clone();
        move || {
            credentials.reload(&reloaded);
            match credentials.clients() {
                Ok(clients) => sequencers.replace(clients),
                Err(error) => {
                    error!(error = %Chain(&error), "what was read cannot be used: the old is");
                }
            }
        }
    };
    let sidecar = Sidecar {
        execution: Execution::new(door.execution_client()?),
        sequencers,
        jobs: Jobs::default(),
        slots: config.slot_rule,
        fee_recipients: config.fee_recipients.clone(),
        budget: config.budget(),
        metrics,
    };
    let budget = config.budget();
    let limits = ProxyConfig {
        hook_deadline: budget + HANGING,
        payload_budget: Some(budget),
        ..ProxyConfig::default()
    };
    // What was begun ends within the budget by itself.
    let give_up = |_| {};
    let until = context.shutdown.clone();
    let obeying = hangup.obey(paths, seen, reload, context.shutdown.clone());
    context.tasks.spawn("reload", obeying);
    let address = door.open(&context, Arc::new(sidecar), limits, until, give_up).await?;

    // Nobody waits for it, neither who starts nor who stops the process.
    drop(spawn_blocking(load_trusted_setup));
    Ok(address)
}
