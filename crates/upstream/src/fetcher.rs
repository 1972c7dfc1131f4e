//! Filling a cache: each piece of state is asked for once, however many need it at the same time.
//!
//! Invariants: a key that is being read is not read again until that read has ended; who waits for
//! somebody else's read learns of its failure; a reader that goes away half-way is replaced by one
//! of those who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use preconf_state::{Key, StateCache, StateReader};
use tokio::sync::watch;

use crate::client::Upstream;
use crate::error::UpstreamError;

/// How often a caller waits for the reads of others before it reads for itself.
const ROUNDS: usize = 4;

/// A key at a block.
type At = (B256, Key);

/// How a read ended; `None` while it is under way.
type Ending = Option<Result<(), Arc<UpstreamError>>>;

/// Reads into caches. Clones share what is under way.
#[derive(Clone, Debug)]
pub struct StateFetcher {
    upstream: Upstream,
    under_way: Arc<UnderWay>,
}

/// Bounded by the keys of the calls under way: each holds its keys only while it runs.
#[derive(Debug, Default)]
struct UnderWay(Mutex<HashMap<At, watch::Receiver<Ending>>>);

impl StateFetcher {
    /// A fetcher that reads from `upstream`.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, under_way: Arc::default() }
    }

    /// A fetcher that waits for nobody else's reads: with turns of its own, and without sharing what
    /// is under way.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::new(self.upstream.apart())
    }

    /// The execution client that is read from.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Returns when all of `keys` are in `cache`, having read those that were not.
    ///
    /// # Errors
    ///
    /// If a read failed, ours or one that somebody else had begun ([`UpstreamError::Shared`]).
    pub async fn ensure(&self, cache: &StateCache, keys: &[Key]) -> Result<(), UpstreamError> {
        let block = cache.block();
        let mut missing: Vec<Key> = keys.iter().copied().filter(|key| lacks(cache, key)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let (ours, theirs) = self.under_way.claim(block.1, &missing);
            missing.retain(|key| !ours.keys.contains(key));
            if !ours.keys.is_empty() {
                self.read(cache, block, ours).await?;
            }
            for mut read in theirs {
                // An error means that the reader went away; its keys are claimed anew below.
                let Ok(ending) = read.wait_for(Option::is_some).await else { continue };
                if let Some(Err(source)) = &*ending {
                    return Err(UpstreamError::Shared { source: Arc::clone(source) });
                }
            }
            missing.retain(|key| lacks(cache, key));
            if missing.is_empty() {
                return Ok(());
            }
        }
        // Others read into other caches, or gave up every time: alone, then.
        for (key, value) in self.upstream.fetch(block, &missing).await? {
            cache.insert(key, value);
        }
        Ok(())
    }

    async fn read(
        &self,
        cache: &StateCache,
        block: (u64, B256),
        claim: Claim<'_>,
    ) -> Result<(), UpstreamError> {
        match self.upstream.fetch(block, &claim.keys).await {
            Ok(values) => {
                for (key, value) in values {
                    cache.insert(key, value);
                }
                claim.end(Ok(()));
                Ok(())
            }
            Err(error) => {
                let source = Arc::new(error);
                claim.end(Err(Arc::clone(&source)));
                // Ours alone again unless somebody waits.
                Err(Arc::try_unwrap(source)
                    .unwrap_or_else(|source| UpstreamError::Shared { source }))
            }
        }
    }
}

/// Keys that one caller reads. However it ends, they can be claimed again.
struct Claim<'a> {
    under_way: &'a UnderWay,
    block: B256,
    keys: Vec<Key>,
    ending: watch::Sender<Ending>,
}

impl Claim<'_> {
    fn end(self, ending: Result<(), Arc<UpstreamError>>) {
        self.ending.send_replace(Some(ending));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut reads = self.under_way.lock();
        for key in &self.keys {
            reads.remove(&(self.block, *key));
        }
    }
}

impl UnderWay {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<At, watch::Receiver<Ending>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Splits keys into those that the caller is to read and the reads that others have begun.
    fn claim(&self, block: B256, keys: &[Key]) -> (Claim<'_>, Vec<watch::Receiver<Ending>>) {
        let (ending, read) = watch::channel(None);
        let mut claim = Claim { under_way: self, block, keys: Vec::new(), ending };
        let mut theirs: Vec<watch::Receiver<Ending>> = Vec::new();
        let mut reads = self.lock();
        for key in keys {
            match reads.get(&(block, *key)) {
                Some(other) if theirs.iter().any(|known| known.same_channel(other)) => {}
                Some(other) => theirs.push(other.clone()),
                None => {
                    reads.insert((block, *key), read.clone());
                    claim.keys.push(*key);
                }
            }
        }
        (claim, theirs)
    }
}

fn lacks(cache: &StateCache, key: &Key) -> bool {
    match key {
        Key::Account(address) => cache.account(*address).is_err(),
        Key::Slot(address, slot) => cache.slot(*address, *slot).is_err(),
        Key::Code(hash) => cache.code(*hash).is_err(),
        Key::BlockHash(number) => cache.block_hash(*number).is_err(),
    }
}
