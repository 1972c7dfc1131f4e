//! How often a validator may ask: a bucket for each, that fills steadily and is emptied by requests;
//! and how many payloads it may be sent at a time, for each is megabytes until it is taken.
//!
//! Only validators that are known have a bucket, so there are as many as validators. Reads no clock:
//! time comes in.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use preconf_payload_api::ValidatorPubkey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many payloads a validator may be sent at a time: one that it gave up without a word, and the
/// one that it asks for again.
const PLACES: usize = 2;

/// The quotas of all validators.
#[derive(Debug)]
pub(crate) struct Quotas {
    per_second: f64,
    buckets: BTreeMap<ValidatorPubkey, Bucket>,
    places: BTreeMap<ValidatorPubkey, Arc<Semaphore>>,
}

/// A payload that is asked for or sent; it is neither any more when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "is held")] OwnedSemaphorePermit);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Quotas {
    /// So many requests a second; after a pause, twice as many at once.
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self {
            per_second: per_second.get().into(),
            buckets: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Takes one request from the quota of a validator; `false` if there is none left.
    pub(crate) fn take(&mut self, validator: ValidatorPubkey, now: Instant) -> bool {
        let full = 2.0 * self.per_second;
        let bucket = self.buckets.entry(validator).or_insert(Bucket { left: full, at: now });
        let passed: Duration = now.saturating_duration_since(bucket.at);
        bucket.left = (bucket.left + passed.as_secs_f64() * self.per_second).min(full);
        bucket.at = now;
        let is_left = bucket.left >= 1.0;
        if is_left {
            bucket.left -= 1.0;
        }
        is_left
    }

    /// A place for a payload of a validator; none if all of its places are taken.
    pub(crate) fn place(&mut self, validator: ValidatorPubkey) -> Option<Place> {
        let places = self.places.entry(validator);
        let places = places.or_insert_with(|| Arc::new(Semaphore::new(PLACES)));
        Arc::clone(places).try_acquire_owned().ok().map(Place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validator_that_asks_too_often_is_told_so_and_another_is_not() {
        let (now, per_second) = (Instant::now(), NonZeroU32::new(3).unwrap());
        let (eager, other) = (ValidatorPubkey([1; 48]), ValidatorPubkey([2; 48]));
        let mut quotas = Quotas::new(per_second);

        let taken = (0..10).filter(|_| quotas.take(eager, now)).count();
        assert_eq!(taken, 6);
        assert!(quotas.take(other, now));

        let second = now + Duration::from_secs(1);
        let taken = (0..10).filter(|_| quotas.take(eager, second)).count();
        assert_eq!(taken, 3);
        // However long it was silent, the bucket is no larger.
        let hour = now + Duration::from_secs(3_600);
        let taken = (0..10).filter(|_| quotas.take(eager, hour)).count();
        assert_eq!(taken, 6);
    }
}
