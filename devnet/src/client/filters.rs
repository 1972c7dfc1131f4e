//! Filters: what somebody wants to be told of, each time he asks.
//!
//! A filter holds its place in what happens. Bounds: [`MAX_FILTERS`] are kept, and one that nobody
//! asks for [`LIFETIME`] is forgotten; whoever asks so rarely that something is lost between two
//! questions is told so, and his filter is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::U64;
use alloy_rpc_types_eth::Filter;
use preconf_chain::Transaction;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use super::chain::HeadChange;

/// How many filters there may be.
const MAX_FILTERS: usize = 1_024;

/// How long a filter is kept that nobody asks for.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// What a filter waits for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The logs that match, also those that are no longer in the chain.
    Logs(Box<Filter>, Receiver<Arc<HeadChange>>),
    /// The hashes of new blocks.
    Blocks(Receiver<Arc<HeadChange>>),
    /// Transactions that the pool took: all of them, or their hashes.
    Transactions {
        /// Whether all of them rather than their hashes.
        full: bool,
        /// Where they arrive.
        arrivals: Receiver<Transaction>,
    },
}

/// What happened since somebody asked last.
#[derive(Debug)]
pub(crate) enum News {
    Logs(Box<Filter>, Vec<Arc<HeadChange>>),
    Blocks(Vec<Arc<HeadChange>>),
    Transactions { full: bool, arrived: Vec<Transaction> },
}

/// Why a filter says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// It was never installed, or is forgotten.
    #[error("filter not found")]
    NotFound,
    /// Something happened that it can no longer tell.
    #[error("filter not found: more happened since it was asked than is kept")]
    Lost,
    /// There are too many.
    #[error("there are {MAX_FILTERS} filters already")]
    TooMany,
}

/// The filters that are installed.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    last: u64,
    installed: HashMap<U64, Installed>,
}

#[derive(Debug)]
struct Installed {
    kind: Kind,
    asked: Instant,
}

impl Filters {
    /// Installs a filter, and returns the name it is asked by.
    pub(crate) fn install(&mut self, kind: Kind, now: Instant) -> Result<U64, FilterError> {
        self.forget(now);
        if self.installed.len() >= MAX_FILTERS {
            return Err(FilterError::TooMany);
        }
        self.last += 1;
        let id = U64::from(self.last);
        self.installed.insert(id, Installed { kind, asked: now });
        Ok(id)
    }

    /// Removes a filter; whether there was one.
    pub(crate) fn uninstall(&mut self, id: U64) -> bool {
        self.installed.remove(&id).is_some()
    }

    /// What happened since the last question.
    pub(crate) fn news(&mut self, id: U64, now: Instant) -> Result<News, FilterError> {
        self.forget(now);
        let filter = self.installed.get_mut(&id).ok_or(FilterError::NotFound)?;
        filter.asked = now;
        let news = match &mut filter.kind {
            Kind::Logs(wanted, changes) => {
                let wanted = wanted.clone();
                drain(changes).map(|changes| News::Logs(wanted, changes))
            }
            Kind::Blocks(changes) => drain(changes).map(News::Blocks),
            Kind::Transactions { full, arrivals } => {
                let full = *full;
                drain(arrivals).map(|arrived| News::Transactions { full, arrived })
            }
        };
        if news.is_err() {
            self.installed.remove(&id);
        }
        news
    }

    /// What a filter for logs looks for.
    pub(crate) fn logs(&self, id: U64) -> Result<Filter, FilterError> {
        match self.installed.get(&id).map(|filter| &filter.kind) {
            Some(Kind::Logs(wanted, _)) => Ok((**wanted).clone()),
            Some(Kind::Blocks(_) | Kind::Transactions { .. }) | None => Err(FilterError::NotFound),
        }
    }

    fn forget(&mut self, now: Instant) {
        self.installed.retain(|_, filter| now.duration_since(filter.asked) < LIFETIME);
    }
}

fn drain<T: Clone>(receiver: &mut Receiver<T>) -> Result<Vec<T>, FilterError> {
    let mut drained = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(item) => drained.push(item),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(drained),
            Err(TryRecvError::Lagged(_)) => return Err(FilterError::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[test]
    fn a_filter_tells_everything_once() {
        let (sender, receiver) = broadcast::channel(8);
        let mut filters = Filters::default();
        let now = Instant::now();
        let id = filters.install(Kind::Blocks(receiver), now).unwrap();
        for expected in [2, 0] {
            for _ in 0..expected {
                sender.send(Arc::default()).unwrap();
            }
            let News::Blocks(changes) = filters.news(id, now).unwrap() else { panic!() };
            assert_eq!(changes.len(), expected);
        }
        assert!(filters.uninstall(id));
        assert_eq!(filters.news(id, now).unwrap_err(), FilterError::NotFound);
    }

    #[test]
    fn a_filter_that_lost_something_says_so_and_is_gone() {
        let (sender, receiver) = broadcast::channel(2);
        let mut filters = Filters::default();
        let now = Instant::now();
        let id = filters.install(Kind::Blocks(receiver), now).unwrap();
        for _ in 0..3 {
            sender.send(Arc::default()).unwrap();
        }
        assert_eq!(filters.news(id, now).unwrap_err(), FilterError::Lost);
        assert_eq!(filters.news(id, now).unwrap_err(), FilterError::NotFound);
    }

    #[test]
    fn a_filter_that_nobody_asks_for_is_forgotten() {
        let (_sender, receiver) = broadcast::channel(2);
        let mut filters = Filters::default();
        let now = Instant::now();
        let id = filters.install(Kind::Blocks(receiver), now).unwrap();
        assert!(filters.news(id, now + LIFETIME / 2).is_ok());
        assert!(filters.news(id, now + LIFETIME).is_ok());
        assert!(filters.news(id, now + LIFETIME * 3).is_err());
    }

    #[test]
    fn there_are_only_so_many_filters() {
        let (sender, _) = broadcast::channel(2);
        let mut filters = Filters::default();
        let now = Instant::now();
        for _ in 0..MAX_FILTERS {
            filters.install(Kind::Blocks(sender.subscribe()), now).unwrap();
        }
        let refused = filters.install(Kind::Blocks(sender.subscribe()), now).unwrap_err();
        assert_eq!(refused, FilterError::TooMany);
    }
}
