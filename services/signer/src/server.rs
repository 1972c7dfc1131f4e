//! Binding and serving.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use preconf_chassis::{Context, Endpoint, Exit, Security, grpc};
use preconf_wire::signer;
use tokio::task::spawn_blocking;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::{
    Seed, Signatory, Signer,
    metrics::Metrics,
    record::{self, Claimed, Found, Recorder},
    service::Clock,
    watermark::{LeaseBounds, Tip, Watermark},
};

/// All that a signer needs: files are read and checked, nothing is open.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) listen: Endpoint,
    pub(crate) allow_names: Vec<String>,
    pub(crate) security: Security,
    pub(crate) signatory: Signatory,
    pub(crate) bounds: LeaseBounds,
    pub(crate) record: Option<(Claimed, Found)>,
    pub(crate) seed: Option<Seed>,
}

impl Prepared {
    /// Goes on above `seed` instead of above the clock.
    #[must_use]
    pub fn with_seed(self, seed: Seed) -> Self {
        Self { seed: Some(seed), ..self }
    }
}

/// Serves until the context is shut down.
///
/// # Errors
/// If the endpoint cannot be bound or the record cannot be written.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    spawn(prepared, &context).await?;
    Ok(())
}

/// Binds and serves on the context's tasks, and says where.
///
/// # Errors
/// If the endpoint cannot be bound or the record cannot be written.
pub async fn spawn(prepared: Prepared, context: &Context) -> Result<Endpoint, Exit> {
    let Prepared { listen, allow_names, security, signatory, bounds, record, seed } = prepared;
    let now = SystemTime::now();
    let seed = seed.unwrap_or_else(|| Seed::from_clock(now));
    info!(public_key = %signatory.public_key(), chain_id = signatory.chain_id(), "signing");
    let metrics = Metrics::new(&context.registry);
    let signer = match record {
        Some((claimed, found)) => {
            // The clock may have been set back; the machine's time never goes back.
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().max(found.until);
            let clock = Clock::from(now);
            let machine = Arc::new(Mutex::new(go_on(found, bounds, seed)));
            let (recorder, writer) = {
                let (machine, metrics) = (Arc::clone(&machine), metrics.clone());
                spawn_blocking(move || record::start(claimed, machine, now, metrics)).await??
            };
            context.tasks.spawn_thread("record", move || writer.run());
            Signer::new(signatory, machine, recorder, clock, metrics)
        }
        None => {
            let machine = Arc::new(Mutex::new(in_memory(bounds, seed)));
            let clock = Clock::from(Duration::ZERO);
            Signer::new(signatory, machine, Recorder::none(), clock, metrics)
        }
    };
    context.follow_certificates(&security);
    let listener = context.bind("signer", &listen, &security).await?.allow_names(allow_names);
    let local = listener.local().clone();
    let ended = signer.record_ended();
    let routes = Routes::new(signer::server(Arc::new(signer)));
    let shutdown = context.shutdown.clone();
    let served = grpc::serve(listener, routes, shutdown.clone());
    context.tasks.spawn("grpc", async move {
        tokio::select! {
            served = served => served,
            // Requests that wait for the record will not be answered: they are cut.
            () = async { ended.await; shutdown.cancelled().await } => Ok(()),
        }
    });
    Ok(local)
}

/// The machine that goes on where the record ends.
fn go_on(Found { machine, torn, zeros, .. }: Found, bounds: LeaseBounds, seed: Seed) -> Watermark {
    if torn > 0 {
        warn!(bytes = torn, "the last record is not whole and was left out: it was not answered");
    }
    let is_new = machine.is_none();
    let mut machine = machine.unwrap_or_else(|| Watermark::new(bounds, seed));
    machine.continue_above(seed);
    if zeros {
        machine.forget_lease();
    }
    let Tip { epoch, last_seq, position, .. } = machine.tip();
    let position = position.map(tracing::field::display);
    info!(is_new, %epoch, %last_seq, position, "state is recorded");
    machine
}

/// The machine that begins anew.
fn in_memory(bounds: LeaseBounds, seed: Seed) -> Watermark {
    warn!(
        first_seq_after = %seed.seq,
        first_epoch_after = %seed.epoch,
        "state is held in memory only: after a restart, what was signed before is not remembered; \
         session numbers and epochs go on from the clock, and are not used twice as long as it is \
         not set back"
    );
    Watermark::new(bounds, seed)
}
