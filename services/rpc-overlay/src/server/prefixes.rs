//! Nobody takes all the places: connections are counted by where they come from.
//!
//! A prefix is what one subscriber of a network has at least: an IPv4 address, or an IPv6 /64. As
//! many prefixes are remembered as there are connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// How many connections each prefix has. Clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    limit: u32,
    counts: Arc<Mutex<HashMap<Prefix, u32>>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    prefixes: Prefixes,
    prefix: Prefix,
}

impl Prefixes {
    /// Each prefix may have `limit` connections; 0 is no limit.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, counts: Arc::default() }
    }

    /// Counts a connection, unless its prefix has as many as it may.
    pub(crate) fn count(&self, address: IpAddr) -> Option<Counted> {
        let prefix = Prefix::of(address);
        let mut counts = self.lock();
        let count = counts.get(&prefix).copied().unwrap_or(0);
        if self.limit > 0 && count >= self.limit {
            return None;
        }
        counts.insert(prefix, count.saturating_add(1));
        Some(Counted { prefixes: self.clone(), prefix })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Prefix, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.prefixes.lock();
        if let Some(count) = counts.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn each_prefix_has_its_own_places_and_gets_them_back() {
        let prefixes = Prefixes::new(2);
        let first = prefixes.count(at("192.0.2.1")).unwrap();
        let second = prefixes.count(at("::ffff:192.0.2.1")).unwrap();

        assert!(prefixes.count(at("192.0.2.1")).is_none());
        assert!(prefixes.count(at("192.0.2.2")).is_some());
        drop(first);
        assert!(prefixes.count(at("192.0.2.1")).is_some());
        drop(second);
        assert!(prefixes.lock().is_empty(), "nobody is remembered without a connection");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let prefixes = Prefixes::new(1);
        let _held = prefixes.count(at("2001:db8:0:1::1")).unwrap();

        assert!(prefixes.count(at("2001:db8:0:1:ffff::9")).is_none());
        assert!(prefixes.count(at("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn zero_is_no_limit() {
        let prefixes = Prefixes::new(0);
        let held: Vec<_> = (0..100).filter_map(|_| prefixes.count(at("192.0.2.1"))).collect();

        assert_eq!(held.len(), 100);
    }
}
