//! Whether the execution client is of our chain, and follows our rules.
//!
//! What is compared is what every client says: chain id, genesis, and its head, which must follow
//! its parent by our rules. Chain id and genesis do not show a fork that comes later, or its
//! parameters; the head does as soon as they matter. What follows from it is up to who asks.

use preconf_chain::{ChainSpec, HeaderError};
use tracing::warn;

use crate::client::Upstream;
use crate::error::UpstreamError;

/// The execution client is of another chain, or of ours by other rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherChain {
    /// The chain is another one.
    #[error(
        "the execution client at {host} is of another chain: its {what} is {theirs}, the genesis \
         file gives {ours}"
    )]
    Chain {
        /// The execution client.
        host: String,
        /// What differs.
        what: &'static str,
        /// What the client says.
        theirs: String,
        /// What the genesis file gives.
        ours: String,
    },
    /// Its head cannot follow its parent by our rules.
    #[error(
        "the execution client at {host} follows other rules than the genesis file gives: see its \
         block {number}"
    )]
    Rules {
        /// The execution client.
        host: String,
        /// The number of its head.
        number: u64,
        /// What is wrong with that, by our rules.
        #[source]
        source: HeaderError,
    },
}

/// Says which keys of the genesis file's `berachain` section nothing is known of: a fork may be
/// missing here, or misspelt there.
pub fn warn_of_ignored_keys(spec: &ChainSpec) {
    for key in spec.ignored_keys() {
        warn!(key, "unknown key in section berachain of the genesis file");
    }
}

impl Upstream {
    /// What shows that the client is of another chain than this one; `None` if nothing does.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn other_chain(&self, spec: &ChainSpec) -> Result<Option<OtherChain>, UpstreamError> {
        let other = |what, theirs: String, ours: String| {
            let host = self.host().to_owned();
            (theirs != ours).then_some(OtherChain::Chain { host, what, theirs, ours })
        };
        let theirs = self.chain_id().await?.to_string();
        if let Some(other) = other("chain id", theirs, spec.chain_id().to_string()) {
            return Ok(Some(other));
        }
        let theirs = self.genesis_hash().await?.to_string();
        if let Some(other) = other("genesis", theirs, spec.genesis_hash().to_string()) {
            return Ok(Some(other));
        }
        let head = self.latest().await?;
        if head.number == 0 {
            return Ok(None);
        }
        let parent = self.header(head.parent_hash).await?;
        let parent =
            parent.ok_or_else(|| self.nothing("eth_getBlockByHash of the head's parent"))?;
        let (host, number) = (self.host().to_owned(), head.number);
        let valid = spec.validate_header(&head.header, &parent.header);
        Ok(valid.err().map(|source| OtherChain::Rules { host, number, source }))
    }
}
