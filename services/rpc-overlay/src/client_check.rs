//! Whether the execution client is of our chain, and whether it answers.
//!
//! An overlay before a client of another chain would mix two chains in its answers, so it ends
//! instead: that is found out once. From then on one small question after the other says whether the
//! client is there, which callers need for most answers; it waits for its answer as long as they do,
//! and not behind them.

use std::time::Duration;

use preconf_chain::ChainSpec;
use preconf_chassis::{Backoff, Chain, Check, Shutdown};
use preconf_upstream::{OtherChain, Upstream, warn_of_ignored_keys};
use tokio::time::sleep;
use tracing::warn;

/// From an answer to the next question.
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps readiness in step with whether the client answers, until shutdown.
pub(crate) async fn watch(
    upstream: Upstream,
    spec: impl AsRef<ChainSpec>,
    check: Check,
    shutdown: Shutdown,
) -> Result<(), OtherChain> {
    let spec = spec.as_ref();
    warn_of_ignored_keys(spec);
    let watch = async {
        let (mut backoff, mut is_known, mut failures) = (Backoff::new(), false, 0_u64);
        loop {
            let answer = match is_known {
                false => upstream.other_chain(spec).await,
                true => upstream.chain_id().await.map(|_| None),
            };
            match answer {
                Ok(Some(other)) => return Err(other),
                Ok(None) => {
                    check.ready();
                    (is_known, failures) = (true, 0);
                    backoff.reset();
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    check.not_ready("the execution client does not answer");
                    if failures == 0 {
                        warn!(error = %Chain(&error), "the execution client does not answer");
                    }
                    failures += 1;
                    backoff.wait().await;
                }
            }
        }
    };
    tokio::select! {
        other = watch => other,
        () = shutdown.cancelled() => Ok(()),
    }
}
