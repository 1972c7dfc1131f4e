//! The right to build: who has it, under which number, and until when.
//!
//! The newest epoch is the only one that is ever honoured: once a higher one was given, all lower
//! ones are refused for ever. A lease that ran out can be renewed as long as nobody else took it; one
//! that was given back cannot.

use std::time::Duration;

use preconf_primitives::Epoch;
use preconf_signing::SignerRefusalReason;

use super::{Contradiction, Decision, Refused};

/// How long leases may last. What is asked for is brought within the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseBounds {
    min: Duration,
    max: Duration,
}

impl LeaseBounds {
    /// Bounds from `min` to `max`; `None` if `min` is zero or above `max`.
    pub fn new(min: Duration, max: Duration) -> Option<Self> {
        (!min.is_zero() && min <= max).then_some(Self { min, max })
    }
}

/// A lease that is given, renewed or, if it lasts no time, given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub epoch: Epoch,
    /// The name of who holds it.
    pub holder: String,
    /// How long it lasts from now.
    pub duration: Duration,
}

/// The newest epoch and its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leases {
    bounds: LeaseBounds,
    newest: Epoch,
    /// New leases get numbers above it.
    floor: Epoch,
    lease: Option<Lease>,
}

/// The lease of the newest epoch, as long as it was not given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of who holds it.
    pub holder: String,
    /// How long it lasts from when it is given or renewed.
    pub duration: Duration,
    /// When it runs out.
    pub expires_at: Duration,
}

impl Leases {
    pub(super) fn new(bounds: LeaseBounds, newest: Epoch) -> Self {
        Self { bounds, newest, floor: Epoch::default(), lease: None }
    }

    pub(super) const fn newest(&self) -> Epoch {
        self.newest
    }

    pub(super) const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub(super) fn continue_above(&mut self, floor: Epoch) {
        self.floor = self.floor.max(floor);
    }

    pub(super) fn forget(&mut self) {
        self.lease = None;
    }

    /// Goes on from a checkpoint.
    pub(super) fn restore(
        &mut self,
        newest: Epoch,
        lease: Option<Lease>,
    ) -> Result<(), Contradiction> {
        self.require_growth(newest)?;
        (self.newest, self.lease) = (newest, lease);
        Ok(())
    }

    /// Says whether `epoch` may act at `now`.
    pub(super) fn require(&self, epoch: Epoch, now: Duration) -> Result<(), Refused> {
        let lease = self.of(epoch)?;
        if now < lease.expires_at { Ok(()) } else { Err(LOST) }
    }

    pub(super) fn acquire(
        &self,
        holder: &str,
        duration: Duration,
        now: Duration,
    ) -> Result<Decision<Grant>, Refused> {
        let held = self
            .lease
            .as_ref()
            .is_some_and(|lease| now < lease.expires_at && lease.holder != holder);
        if held {
            return Err(Refused::new(SignerRefusalReason::LeaseHeld));
        }
        Ok(Decision::New(Grant {
            epoch: self.newest.max(self.floor).next().ok_or(LOST)?,
            holder: holder.to_owned(),
            duration: duration.clamp(self.bounds.min, self.bounds.max),
        }))
    }

    pub(super) fn renew(&self, epoch: Epoch) -> Result<Decision<Grant>, Refused> {
        let Lease { holder, duration, .. } = self.of(epoch)?.clone();
        Ok(Decision::New(Grant { epoch, holder, duration }))
    }

    pub(super) fn release(&self, epoch: Epoch) -> Result<Decision<Grant>, Refused> {
        let Lease { holder, .. } = self.of(epoch)?.clone();
        Ok(Decision::New(Grant { epoch, holder, duration: Duration::ZERO }))
    }

    pub(super) fn grant(&mut self, grant: &Grant, now: Duration) -> Result<(), Contradiction> {
        let Grant { epoch, holder, duration } = grant.clone();
        self.require_growth(epoch)?;
        self.newest = epoch;
        let expires_at = now.saturating_add(duration);
        let lease = Lease { holder, duration, expires_at };
        self.lease = (!duration.is_zero()).then_some(lease);
        Ok(())
    }

    fn require_growth(&self, epoch: Epoch) -> Result<(), Contradiction> {
        let newest = self.newest;
        if epoch < newest { Err(Contradiction::Epoch { epoch, newest }) } else { Ok(()) }
    }

    /// The lease of the newest epoch, run out or not.
    fn of(&self, epoch: Epoch) -> Result<&Lease, Refused> {
        // An epoch above the newest was never given by this signer.
        if epoch == self.newest { self.lease.as_ref().ok_or(LOST) } else { Err(LOST) }
    }
}

const LOST: Refused = Refused::new(SignerRefusalReason::LeaseLost);
