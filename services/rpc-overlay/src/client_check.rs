//! Whether the execution client is of our chain.
//!
//! An overlay before a client of another chain would mix two chains in its answers, so it ends
//! instead. A client that does not answer is asked again until it does.

use preconf_chain::ChainSpec;
use preconf_chassis::{Backoff, Chain, Check, Shutdown};
use preconf_upstream::{Upstream, UpstreamError};
use tracing::warn;

/// The execution client is of another chain.
#[derive(Debug, thiserror::Error)]
#[error(
    "the execution client at {host} is of another chain: its {what} is {theirs}, ours is {ours}"
)]
pub(crate) struct OtherChain {
    host: String,
    what: &'static str,
    theirs: String,
    ours: String,
}

/// Asks until the client answers, then waits for shutdown.
pub(crate) async fn watch(
    upstream: Upstream,
    spec: impl AsRef<ChainSpec>,
    check: Check,
    shutdown: Shutdown,
) -> Result<(), OtherChain> {
    let mut backoff = Backoff::new();
    let mut failures = 0_u64;
    loop {
        let answer = tokio::select! {
            answer = compare(&upstream, spec.as_ref()) => answer,
            () = shutdown.cancelled() => return Ok(()),
        };
        match answer {
            Ok(None) => break,
            Ok(Some(other)) => return Err(other),
            Err(error) => {
                check.not_ready("the execution client does not answer");
                if failures == 0 {
                    warn!(error = %Chain(&error), "the execution client does not answer");
                }
                failures += 1;
            }
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    check.ready();
    shutdown.cancelled().await;
    Ok(())
}

async fn compare(
    upstream: &Upstream,
    spec: &ChainSpec,
) -> Result<Option<OtherChain>, UpstreamError> {
    let other = |what, theirs: String, ours: String| {
        let host = upstream.host().to_owned();
        (theirs != ours).then_some(OtherChain { host, what, theirs, ours })
    };
    let chain_id = upstream.chain_id().await?;
    if let Some(other) = other("chain id", chain_id.to_string(), spec.chain_id().to_string()) {
        return Ok(Some(other));
    }
    let genesis = upstream.genesis_hash().await?;
    Ok(other("genesis", genesis.to_string(), spec.genesis_hash().to_string()))
}
