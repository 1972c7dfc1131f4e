//! Whether the execution client is of our chain.
//!
//! An overlay before a client of another chain would mix two chains in its answers, so it ends
//! instead. A client that does not answer is asked again until it does.

use preconf_chain::ChainSpec;
use preconf_chassis::{Backoff, Chain, Check, Shutdown};
use preconf_upstream::{OtherChain, Upstream, warn_of_ignored_keys};
use tracing::warn;

/// Asks until the client answers, then waits for shutdown.
pub(crate) async fn watch(
    upstream: Upstream,
    spec: impl AsRef<ChainSpec>,
    check: Check,
    shutdown: Shutdown,
) -> Result<(), OtherChain> {
    warn_of_ignored_keys(spec.as_ref());
    let mut backoff = Backoff::new();
    let mut failures = 0_u64;
    loop {
        let answer = tokio::select! {
            answer = upstream.other_chain(spec.as_ref()) => answer,
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
