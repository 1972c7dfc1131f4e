//! Binding and serving.

use std::{sync::Arc, time::SystemTime};

use preconf_chassis::{Context, Endpoint, Exit, Security, grpc, listener::BindError};
use preconf_wire::signer;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::{
    Seed, Signatory, Signer,
    watermark::{LeaseBounds, Watermark},
};

/// All that a signer needs: files are read and checked, nothing is open.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) listen: Endpoint,
    pub(crate) allow_names: Vec<String>,
    pub(crate) security: Security,
    pub(crate) signatory: Signatory,
    pub(crate) bounds: LeaseBounds,
    pub(crate) seed: Option<Seed>,
}

impl Prepared {
    /// Goes on from `seed` instead of from the clock.
    #[must_use]
    pub fn with_seed(self, seed: Seed) -> Self {
        Self { seed: Some(seed), ..self }
    }
}

/// Serves until the context is shut down.
///
/// # Errors
/// If the endpoint cannot be bound.
pub async fn serve(prepared: Prepared, context: Context) -> Result<(), Exit> {
    spawn(prepared, &context).await?;
    Ok(())
}

/// Binds and serves on the context's tasks, and says where.
///
/// # Errors
/// If the endpoint cannot be bound.
pub async fn spawn(prepared: Prepared, context: &Context) -> Result<Endpoint, BindError> {
    let Prepared { listen, allow_names, security, signatory, bounds, seed } = prepared;
    let seed = seed.unwrap_or_else(|| Seed::from_clock(SystemTime::now()));
    info!(public_key = %signatory.public_key(), chain_id = signatory.chain_id(), "signing");
    warn!(
        first_seq_after = %seed.seq,
        first_epoch_after = %seed.epoch,
        "state is held in memory only: after a restart, what was signed before is not remembered; \
         session numbers and epochs go on from the clock, and are not used twice as long as it is \
         not set back"
    );
    let signer = Signer::new(signatory, Watermark::new(bounds, seed), &context.registry);
    context.follow_certificates(&security);
    let listener = context.bind("signer", &listen, &security).await?.allow_names(allow_names);
    let local = listener.local().clone();
    let routes = Routes::new(signer::server(Arc::new(signer)));
    context.tasks.spawn("grpc", grpc::serve(listener, routes, context.shutdown.clone()));
    Ok(local)
}
