//! The right to publish: taken, kept, lost and given back.
//!
//! Who has no lease asks for it every [`LEASE_POLL`], and says when it has it and when it has lost
//! it. While another builder has it this one is not ready, and only then: a consensus client without
//! a signer still needs its execution client (D11).

use std::time::Duration;

use preconf_primitives::{AbandonReason, Epoch};
use preconf_signing::{Lease, SignerRefusalReason, v2};
use preconf_wire::{feed::FeedItem, signer::SignerError};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::{Parts, PublishError, Published, Publisher};

/// How often the lease is asked for while another builder has it.
pub(super) const LEASE_POLL: Duration = Duration::from_millis(50);

/// How long to wait before a lease that lasts so long, whatever was asked for, is renewed.
fn pause(granted: Duration) -> Duration {
    (granted / 3).max(LEASE_POLL)
}

impl Publisher {
    pub(super) async fn take_lease(&mut self) -> Result<Lease, PublishError> {
        self.lose_lease().await;
        let Parts { signer, holder, lease_duration, .. } = &self.parts;
        // What is asked again and again while another builder has it is of no trace.
        let span = if Span::current().is_none() {
            Span::none()
        } else {
            info_span!("preconf.signer.v1.Signer/AcquireLease", otel.kind = "client")
        };
        let lease = signer.acquire_lease(holder, *lease_duration).instrument(span).await;
        let lease = lease.map_err(PublishError::Signer)?;
        info!(epoch = %lease.epoch, "lease acquired");
        self.parts.metrics.epoch(lease.epoch);
        self.parts.check.ready();
        self.lease = Some(lease);
        self.lease_due = Instant::now() + pause(lease.duration);
        self.publish_unsigned(lease.epoch).await;
        self.tell(Published::Leads).await;
        Ok(lease)
    }

    pub(super) async fn lose_lease(&mut self) {
        if self.lease.take().is_some() {
            self.parts.feed.dismiss();
            self.tell(Published::Follows).await;
        }
    }

    /// Renews the lease, or asks for it.
    pub(super) async fn keep_lease(&mut self) {
        match self.lease {
            Some(lease) => self.renew_lease(lease).await,
            None => {
                self.lease_due = Instant::now() + LEASE_POLL;
                match self.take_lease().await {
                    Ok(_) => {}
                    Err(PublishError::Signer(SignerError::Refused(refusal)))
                        if refusal.reason == SignerRefusalReason::LeaseHeld =>
                    {
                        self.parts.check.not_ready("another builder has the lease");
                    }
                    Err(error) => {
                        // Nobody can say that another builder has it, and somebody has to serve.
                        self.parts.check.ready();
                        self.lease_due = Instant::now() + self.backoff.next_delay(1.0);
                        debug!(error = &error as &dyn std::error::Error, "no lease yet");
                    }
                }
            }
        }
    }

    async fn renew_lease(&mut self, lease: Lease) {
        self.lease_due = Instant::now() + pause(lease.duration);
        match self.parts.signer.renew_lease(lease.epoch).await {
            Ok(duration) => {
                self.lease = Some(Lease { duration, ..lease });
                self.lease_due = Instant::now() + pause(duration);
            }
            Err(SignerError::Refused(refusal)) => {
                warn!(reason = refusal.reason.as_str(), "the lease is lost");
                self.lose_lease().await;
                self.lease_due = Instant::now();
                if let Some(build) = self.live.as_ref().map(|live| live.build) {
                    let reason = AbandonReason::LeaseLost;
                    self.end_live(reason);
                    self.tell(Published::Failed { build, reason }).await;
                }
            }
            Err(error @ (SignerError::Unavailable(_) | SignerError::Invalid(_))) => {
                warn!(error = &error as &dyn std::error::Error, "the lease was not renewed");
            }
        }
    }

    /// Gives the lease back, so that a standby does not wait until it runs out.
    pub(super) async fn release_lease(&mut self) {
        if self.parts.unsigned.is_some() {
            return;
        }
        let Some(Lease { epoch, .. }) = self.lease.take() else { return };
        // Readers go to who has it next.
        self.parts.feed.dismiss();
        match self.parts.signer.release_lease(epoch).await {
            Ok(()) => info!(%epoch, "lease released"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, %epoch, "the lease was not released: it runs out");
            }
        }
    }

    /// Publishes what was signed before this process was started again, if it was: readers would
    /// miss it.
    async fn publish_unsigned(&mut self, epoch: Epoch) {
        let Some(flashblock) = self.parts.unsigned.take() else { return };
        let (at, content) = (flashblock.position(), v2::Content::of(&flashblock));
        match self.signed(epoch, flashblock.clone(), &content).await {
            Ok(signed) => {
                info!(%at, "published what was signed before the start");
                self.parts.feed.publish(at, FeedItem::Flashblock(signed));
            }
            Err(PublishError::Signer(SignerError::Unavailable(_))) => {
                self.parts.unsigned = Some(flashblock);
            }
            // The signer never saw it, or it was lost with the signer's memory.
            Err(error) => {
                info!(%at, error = &error as &dyn std::error::Error, "was not signed before the start");
            }
        }
    }
}
