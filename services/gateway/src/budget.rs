//! How much is replayed to whom: what was published before a reader came costs us, and a reader may
//! come as often as it likes.
//!
//! In each minute a source is given so many bytes, and all sources together so many. A source is a
//! prefix of addresses (IPv4 /24, IPv6 /56: what one subscriber of a network usually has, or less),
//! or the key that a peer of ours proved to hold. Live messages cost nothing here.
//!
//! At most [`MAX_SOURCES`] are told apart; those that come later in the same minute share one
//! budget. No clock: the time comes in.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use preconf_chassis::Peer;

/// How long a budget lasts.
const WINDOW: Duration = Duration::from_secs(60);
/// How many sources are told apart in a window.
const MAX_SOURCES: usize = 65_536;

/// Who pays for a replay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 3]),
    V6([u8; 7]),
    /// A certificate, by its first name.
    Certificate(String),
    /// A user of this machine.
    User(u32),
    /// Nobody in particular.
    Others,
}

impl Source {
    pub(crate) fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }

    pub(crate) fn of_peer(peer: Option<&Peer>) -> Self {
        match peer {
            Some(Peer::Certificate { names }) => {
                names.first().map_or(Self::Others, |name| Self::Certificate(name.clone()))
            }
            Some(Peer::Unix { uid, .. }) => Self::User(*uid),
            Some(Peer::Plaintext(address)) => Self::of_address(address.ip()),
            None => Self::Others,
        }
    }
}

/// What may be spent in a window; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) source_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// What has been spent in this window.
#[derive(Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    started_at: Option<Instant>,
    spent: HashMap<Source, u64>,
    total: u64,
}

impl Budget {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self { allowance, started_at: None, spent: HashMap::new(), total: 0 }
    }

    /// Spends `bytes`, or says that there are not as many left.
    pub(crate) fn spend(&mut self, source: Source, bytes: u64, now: Instant) -> bool {
        let is_over = |started: Instant| now.saturating_duration_since(started) >= WINDOW;
        if self.started_at.is_none_or(is_over) {
            self.started_at = Some(now);
            self.spent.clear();
            self.total = 0;
        }
        let is_known = self.spent.contains_key(&source);
        let is_crowded = !is_known && self.spent.len() >= MAX_SOURCES;
        let source = if is_crowded { Source::Others } else { source };
        let Allowance { source_bytes, total_bytes } = self.allowance;
        let spent = self.spent.get(&source).copied().unwrap_or(0).saturating_add(bytes);
        let total = self.total.saturating_add(bytes);
        let exceeds = |sum: u64, limit: u64| limit > 0 && sum > limit;
        if exceeds(spent, source_bytes) || exceeds(total, total_bytes) {
            return false;
        }
        self.spent.insert(source, spent);
        self.total = total;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(source_bytes: u64, total_bytes: u64) -> Budget {
        Budget::new(Allowance { source_bytes, total_bytes })
    }

    fn at(address: &str) -> Source {
        Source::of_address(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_a_prefix_or_a_key() {
        assert_eq!(at("192.0.2.1"), at("192.0.2.254"));
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.9"));
        assert_ne!(at("192.0.2.1"), at("192.0.3.1"));
        assert_eq!(at("2001:db8:0:1200::1"), at("2001:db8:0:12ff::1"));
        assert_ne!(at("2001:db8:0:1200::1"), at("2001:db8:0:1300::1"));
        let names = ["consumer".to_owned(), "localhost".to_owned()];
        let certificate = Peer::Certificate { names: names.into() };
        let expected = Source::Certificate("consumer".to_owned());
        assert_eq!(Source::of_peer(Some(&certificate)), expected);
        let address = "192.0.2.77:4000".parse().unwrap();
        assert_eq!(Source::of_peer(Some(&Peer::Plaintext(address))), at("192.0.2.1"));
    }

    #[test]
    fn a_source_spends_its_own_budget_and_gets_another_after_a_minute() {
        let (mut budget, now) = (budget(100, 0), Instant::now());
        assert!(budget.spend(at("192.0.2.1"), 60, now));
        assert!(!budget.spend(at("192.0.2.2"), 60, now));
        assert!(budget.spend(at("192.0.2.2"), 40, now), "what was refused was not spent");
        assert!(budget.spend(at("198.51.100.1"), 100, now));
        assert!(!budget.spend(at("192.0.2.1"), 1, now + WINDOW - Duration::from_millis(1)));
        assert!(budget.spend(at("192.0.2.1"), 100, now + WINDOW));
    }

    #[test]
    fn all_sources_together_have_a_ceiling() {
        let (mut budget, now) = (budget(100, 150), Instant::now());
        assert!(budget.spend(at("192.0.2.1"), 100, now));
        assert!(!budget.spend(at("198.51.100.1"), 51, now));
        assert!(budget.spend(at("198.51.100.1"), 50, now));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_latecomers_share() {
        let (mut budget, now) = (budget(1, 0), Instant::now());
        for source in 0..MAX_SOURCES as u32 {
            assert!(budget.spend(Source::User(source), 1, now));
        }
        assert!(budget.spend(Source::User(u32::MAX), 1, now));
        assert!(!budget.spend(Source::User(u32::MAX - 1), 1, now));
        assert_eq!(budget.spent.len(), MAX_SOURCES + 1);
    }
}
