//! What a service sees of the calls between the two clients, and where it may speak.

use std::future::Future;
use std::pin::Pin;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId};
use preconf_chain::ProposerPublicKey;
use serde_json::value::RawValue;

use crate::version::{ForkchoiceVersion, PayloadVersion};

/// What a hook returns: a boxed future that may borrow from the hook and its arguments.
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A service that looks at the calls of a consensus client.
///
/// Each call runs on a task of its own with a deadline; it may panic or hang without harm to the
/// two clients, but after several such faults it is no longer called. It is dropped half-way at its
/// deadline, and if the consensus client hangs up that has asked for a payload, so it must leave
/// nothing inconsistent at an await.
pub trait EngineHooks: Send + Sync + 'static {
    /// The execution client has answered a forkchoice update. `Some` replaces the payload id in
    /// that answer, if it was VALID; the status is never ours to change. With the client's own id
    /// the answer stays as it came, and the client is asked for its payload as soon as the hook is.
    fn forkchoice_updated<'a>(
        &'a self,
        call: &'a ForkchoiceCall,
        answer: &'a ForkchoiceUpdated,
    ) -> HookFuture<'a, Option<PayloadId>>;

    /// The consensus client asks for a payload. `Some` is the result as JSON; with `None` it gets the
    /// execution client's own, when that comes, which is asked for at the same time if the id was
    /// returned by [`forkchoice_updated`](Self::forkchoice_updated). What is returned after the proxy's
    /// [`payload_budget`](super::ProxyConfig::payload_budget) may be too late.
    fn get_payload(
        &self,
        version: PayloadVersion,
        id: PayloadId,
    ) -> HookFuture<'_, Option<Box<RawValue>>>;

    /// A forkchoice update was passed on that this service is not asked about, or has failed to look
    /// at in time: it is in a batch, holds something unknown, or was not answered as expected. What
    /// is being built may not be what was chosen: without a `head` nothing of it is known to be, else
    /// what is built on that.
    ///
    /// Told in the order of the forkchoice updates; nobody waits for it. Must return at once.
    fn forkchoice_unseen(&self, head: Option<B256>);
}

/// A forkchoice update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkchoiceCall {
    /// The version that was called.
    pub version: ForkchoiceVersion,
    /// The head, safe and finalized block.
    pub state: ForkchoiceState,
    /// What to build on the head, if anything.
    pub attributes: Option<PayloadAttributes>,
    /// The key of the previous block's proposer; with every attributes of V3P11, and no others.
    pub parent_proposer_pubkey: Option<ProposerPublicKey>,
}
