//! Listens to what is published, so that this builder can go on with it.
//!
//! The feed is that of a gateway, or of the other builder. Nothing is taken over that the signer's
//! key did not sign: the signer itself says which key that is.

use std::sync::Arc;

use preconf_chassis::{Backoff, Chain, ConfigError, Security};
use preconf_signing::{Checked, Refusal, Verifier};
use preconf_subscribe::{Config, Event, FeedUrl, Subscription};
use preconf_wire::{feed::FeedItem, signer::SignerClient};
use tracing::{debug, info, warn};

use crate::{metrics::Metrics, sequencer::Sequencer};

/// What listening takes.
pub(crate) struct Standby {
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) signer: SignerClient,
    pub(crate) url: FeedUrl,
    pub(crate) security: Security,
}

impl Standby {
    /// Listens until it is dropped.
    ///
    /// # Errors
    /// If the security settings do not allow the endpoint.
    pub(crate) async fn listen(self) -> Result<(), ConfigError> {
        let verifier = self.verifier().await;
        let config = Config { security: self.security.clone(), ..Config::default() };
        // What is heard twice is taken note of once.
        let mut subscription = Subscription::spawn(self.url.clone(), config, || None)?;
        loop {
            match subscription.next().await {
                Event::Connected => info!("hears what is published"),
                Event::Disconnected(disconnect) => debug!(%disconnect, "does not hear the feed"),
                Event::Item(item) => self.heard(&verifier, item).await,
                Event::BadFrame(bad) => {
                    warn!(error = %Chain(&bad), "a message of the feed has no meaning");
                    self.metrics.heard("malformed");
                }
                // Nothing there is sealed.
                Event::Upstream(_) => self.metrics.heard("unsealed"),
                Event::Raw(_) => {}
            }
        }
    }

    async fn heard(&self, verifier: &Verifier, item: FeedItem) {
        let item = match verify(verifier, item) {
            Ok(item) => item,
            Err(refusal) => {
                warn!(
                    error = &refusal as &dyn std::error::Error,
                    "a message of the feed is refused"
                );
                return self.metrics.heard("refused");
            }
        };
        self.metrics.heard("ok");
        self.sequencer.hear(Arc::new(item)).await;
    }

    async fn verifier(&self) -> Verifier {
        let mut backoff = Backoff::new();
        loop {
            match self.signer.head().await {
                Ok(head) => return Verifier::new(head.chain_id, vec![head.public_key]),
                Err(error) => {
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "the signer's key is not known"
                    );
                }
            }
            backoff.wait().await;
        }
    }
}

fn verify(verifier: &Verifier, item: FeedItem) -> Result<FeedItem, Refusal> {
    Ok(match item {
        FeedItem::Flashblock(signed) => {
            FeedItem::Flashblock(verifier.flashblock(signed, Checked::Seal)?.into_inner())
        }
        FeedItem::Abandoned(signed) => {
            FeedItem::Abandoned(verifier.abandoned(signed)?.into_inner())
        }
        FeedItem::Sealed(signed) => FeedItem::Sealed(verifier.sealed(signed)?.into_inner()),
        FeedItem::Retracted(signed) => {
            FeedItem::Retracted(verifier.retracted(signed)?.into_inner())
        }
        hint @ (FeedItem::Gap { .. } | FeedItem::Goodbye { .. }) => hint,
    })
}
