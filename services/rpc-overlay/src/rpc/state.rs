//! Answers that depend on state: read, fetch what is missing, read again.
//!
//! What is fetched is of the snapshot's canonical block, by number and hash, and stays in memory for
//! every later request about the same block. The rounds are bounded here, the time by the deadline
//! of the request.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use preconf_state::{Key, NeedState};
use preconf_upstream::UpstreamError;
use serde_json::value::RawValue;
use tokio::time::sleep;
use tracing::debug;

use super::Rpc;
use crate::{
    Answer,
    answers::{
        call::{Aim, Call, Stop},
        simulate::Simulation,
        state,
    },
    failure::Failure,
    params::Params,
    view::{PendingState, View},
};

/// How often one answer is tried: each time, everything it was known to miss has been fetched.
const MAX_ROUNDS: u16 = 512;
/// How often a block is asked for that the execution client does not know yet, and how long apart.
const MAX_ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

impl Rpc {
    pub(super) async fn balance(
        &self,
        view: &View,
        place: usize,
        address: Address,
    ) -> Result<U256, Failure> {
        self.read(view, place, |pending| state::balance(pending, address)).await
    }

    pub(super) async fn nonce(
        &self,
        view: &View,
        place: usize,
        address: Address,
    ) -> Result<u64, Failure> {
        self.read(view, place, |pending| state::nonce(pending, address)).await
    }

    pub(super) async fn code(
        &self,
        view: &View,
        place: usize,
        address: Address,
    ) -> Result<Bytes, Failure> {
        self.read(view, place, |pending| state::code(pending, address)).await
    }

    pub(super) async fn slot(
        &self,
        view: &View,
        place: usize,
        address: Address,
        slot: U256,
    ) -> Result<B256, Failure> {
        self.read(view, place, |pending| state::slot(pending, address, slot)).await
    }

    /// Executes a call on a pending block.
    pub(super) async fn call(
        &self,
        aim: Aim,
        view: &Arc<View>,
        place: usize,
        params: &Params<'_>,
    ) -> Answer {
        let call = Call::parse(aim, params, view.block(place), self.gas_cap)?;
        let (keys, spec) = (call.keys(), Arc::clone(&self.spec));
        self.rounds(view, &keys, move |view| call.run(&spec, view.state(place).clone())).await
    }

    /// Executes blocks of calls upon a pending block.
    pub(super) async fn simulate(
        &self,
        view: &Arc<View>,
        place: usize,
        params: &Params<'_>,
    ) -> Answer {
        let simulation = Simulation::parse(params, self.gas_cap)?;
        let (keys, spec) = (simulation.keys(), Arc::clone(&self.spec));
        self.rounds(view, &keys, move |view| simulation.run(&spec, view, place)).await
    }

    /// Executes until nothing is missing any more.
    async fn rounds(
        &self,
        view: &Arc<View>,
        keys: &[Key],
        run: impl Fn(&View) -> Result<Box<RawValue>, Stop> + Send + Sync + 'static,
    ) -> Answer {
        self.fetch(view, keys).await?;
        let run = Arc::new(run);
        for round in 1..=MAX_ROUNDS {
            let (run, on) = (Arc::clone(&run), Arc::clone(view));
            match self.apart(move || run(&on)).await? {
                Ok(answer) => {
                    self.metrics.call_rounds.observe(f64::from(round));
                    return Ok(answer);
                }
                Err(Stop::Need(keys)) => self.fetch(view, &keys).await?,
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        Err(Failure::TooMuchState)
    }

    async fn read<T>(
        &self,
        view: &View,
        place: usize,
        read: impl Fn(&PendingState) -> Result<T, NeedState>,
    ) -> Result<T, Failure> {
        for _ in 0..MAX_ROUNDS {
            match read(view.state(place)) {
                Ok(value) => return Ok(value),
                Err(NeedState(key)) => self.fetch(view, &[key]).await?,
            }
        }
        Err(Failure::TooMuchState)
    }

    /// Fetches what is missing of the canonical block. The execution client may be behind the
    /// consumer's for a moment, so a block that it does not know is asked for again.
    async fn fetch(&self, view: &View, keys: &[Key]) -> Result<(), Failure> {
        for _ in 1..MAX_ATTEMPTS {
            match self.fetch_once(view, keys).await {
                Ok(()) => return Ok(()),
                Err(error) if may_be_behind(&error) => {
                    debug!(%error, "the execution client may be behind");
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        self.fetch_once(view, keys).await.map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, error: UpstreamError) -> Failure {
        self.client.complain(&error);
        Failure::State(Box::new(error))
    }

    /// Code is fetched by the account that has it, and pending accounts are not known there; but
    /// a pending account whose code is not pending had it before.
    async fn fetch_once(&self, view: &View, keys: &[Key]) -> Result<(), UpstreamError> {
        let mut codes = Vec::new();
        let mut others = Vec::with_capacity(keys.len());
        for key in keys {
            match key {
                Key::Code(hash) => {
                    codes.push(*key);
                    others.extend(view.owner_of(*hash).map(Key::Account));
                }
                Key::Account(_) | Key::Slot(..) | Key::BlockHash(_) => others.push(*key),
            }
        }
        self.fetcher.ensure(view.cache(), &others).await?;
        self.fetcher.ensure(view.cache(), &codes).await
    }
}

/// Whether the execution client may only not have the block yet.
fn may_be_behind(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::NotCanonical { .. } | UpstreamError::Refused { .. } => true,
        UpstreamError::Shared { source } => may_be_behind(source),
        // `null` instead of a value.
        UpstreamError::Decode { .. } => true,
        UpstreamError::Url { .. }
        | UpstreamError::Encode { .. }
        | UpstreamError::Transport { .. }
        | UpstreamError::Timeout { .. }
        | UpstreamError::Incomplete { .. }
        | UpstreamError::Unbelievable { .. }
        | UpstreamError::CodeWithoutOwner { .. } => false,
    }
}
