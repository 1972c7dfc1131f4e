//! What the build thread and the publisher report, carried out.
//!
//! Nothing here waits for the publisher, until the process is told to stop: what it cannot take at
//! once ends the build.

use std::{error::Error, sync::Arc, time::Instant};

use preconf_assembly::{BuildId, Completion, Cut, Effect, Failure, Located, Sidecar};
use preconf_chassis::Shutdown;
use preconf_evm::Paused;
use preconf_primitives::AbandonReason;
use preconf_state::StateCache;
use tokio::{sync::mpsc, time::timeout};
use tracing::{Instrument, info, info_span, warn};

use crate::{
    build::Order,
    metrics::BuildEnd,
    publisher::{Outgoing, Published},
    sealing::{SealError, SealedBlock, Sealer},
};

use super::{Sequencer, builds::Stage};

impl Sequencer {
    /// Carries out what the build thread and the publisher report.
    pub(crate) async fn carry_out(
        self: Arc<Self>,
        mut effects: mpsc::Receiver<Effect<StateCache>>,
        mut published: mpsc::Receiver<Published>,
        shutdown: Shutdown,
    ) {
        let reason = loop {
            tokio::select! {
                effect = effects.recv() => match effect {
                    Some(effect) => self.effect(effect),
                    // The build thread is gone.
                    None => break AbandonReason::ExecutionFailed,
                },
                outcome = published.recv() => match outcome {
                    Some(outcome) => self.report(outcome),
                    None => break AbandonReason::Shutdown,
                },
                () = shutdown.cancelled() => break AbandonReason::Shutdown,
            }
        };
        // The build thread waits for nobody any more.
        drop(effects);
        self.give_up_all(reason);
        // What was handed out is still published, for as long as the publisher's last words may take.
        while let Some(outcome) = published.recv().await {
            self.report(outcome);
        }
        for _ in 0..self.builds.give_up_publishing() {
            self.metrics.build_ended(BuildEnd::Abandoned(AbandonReason::Shutdown));
        }
    }

    /// Takes note of what became of something that was to be published.
    fn report(&self, outcome: Published) {
        match outcome {
            Published::Flashblock { build, index } => {
                let _ = self.orders.give(Order::Published { build, index });
            }
            Published::Completed { build } => {
                if let Some(completion) = self.builds.published(build) {
                    self.metrics.build_ended(BuildEnd::Sealed(completion));
                }
            }
            Published::Failed { build, reason } => self.not_published(build, reason),
            Published::Leads => self.lead(),
            Published::Follows => self.follow(),
        }
    }

    fn effect(self: &Arc<Self>, effect: Effect<StateCache>) {
        let this = self.clone();
        match effect {
            Effect::Need { build, keys } => match self.questions.clone().try_acquire_owned() {
                Ok(turn) => {
                    tokio::spawn(async move {
                        let _turn = turn;
                        this.read(build, keys).await;
                    });
                }
                Err(_) => {
                    let cause = "too much is asked for already".into();
                    let _ = self.orders.give(Order::StateFailed { build, keys, cause });
                }
            },
            Effect::Locate { build, transaction } => {
                match self.questions.clone().try_acquire_owned() {
                    Ok(turn) => {
                        tokio::spawn(async move {
                            let _turn = turn;
                            this.locate(build, transaction).await;
                        });
                    }
                    Err(_) => {
                        // It stays a promise, for the next build to ask about.
                        let located = Located::Unknown;
                        let _ = self.orders.give(Order::Located { build, transaction, located });
                    }
                }
            }
            Effect::Recheck { number, hash, senders } => {
                tokio::spawn(async move { this.recheck(number, hash, senders).await });
            }
            Effect::Publish { build, cut } => {
                if let Some(late) = cut.late {
                    self.metrics.cut(late, &self.builds.trace(build));
                }
                if self.outgoing.try_send(Outgoing::Flashblock { build, cut }).is_err() {
                    warn!(build = build.0, "the build ends: the publisher is too far behind");
                    self.end(build, AbandonReason::SignerUnavailable);
                }
            }
            Effect::Complete { build, last, block, sidecars, completion } => {
                let span = info_span!("seal", build = build.0, ?completion);
                this.builds.trace(build).adopt(&span);
                let complete = async move {
                    this.complete(build, last, (*block, sidecars), completion).await;
                };
                tokio::spawn(complete.instrument(span));
            }
            Effect::Failed { build, failure } => {
                warn!(build = build.0, error = &failure as &dyn Error, "the build failed");
                let reason = AbandonReason::ExecutionFailed;
                let end = match failure {
                    Failure::NotOpened(_) => BuildEnd::NotOpened,
                    Failure::Execution(_) => BuildEnd::Abandoned(reason),
                };
                self.end_as(build, reason, end);
            }
        }
    }

    /// Seals a completed block; only then is its last flashblock published.
    async fn complete(
        &self,
        build: BuildId,
        last: Cut,
        (block, sidecars): (Paused<StateCache>, Vec<Arc<Sidecar>>),
        completion: Completion,
    ) {
        let Some(attributes) = self.builds.attributes(build) else { return };
        let started = Instant::now();
        let sealer = Sealer {
            fetcher: self.sealing.clone(),
            engine: self.engine.clone(),
            deadline: self.seal_budget,
        };
        let sealed = timeout(self.seal_budget, sealer.seal(block, sidecars, &attributes)).await;
        match sealed {
            Ok(Ok(sealed)) => self.hand_out(build, last, sealed, completion, started),
            Ok(Err(error)) => self.not_sealed(build, &error),
            Err(_) => {
                warn!(build = build.0, budget = ?self.seal_budget, "sealing took too long");
                self.end(build, AbandonReason::SealFailed);
            }
        }
    }

    /// The publisher has given up a build. Its block may have been handed out already.
    fn not_published(&self, build: BuildId, reason: AbandonReason) {
        match self.builds.published(build) {
            Some(_) => self.metrics.build_ended(BuildEnd::Abandoned(reason)),
            None => self.end(build, reason),
        }
    }

    pub(super) fn not_sealed(&self, build: BuildId, error: &SealError) {
        warn!(build = build.0, error = error as &dyn Error, "the block was not sealed");
        match error {
            SealError::Divergence { .. } | SealError::NotValid(_) => self.doubt_state(),
            SealError::Execution(_)
            | SealError::State(_)
            | SealError::StateRoot(_)
            | SealError::Blobs
            | SealError::NewPayload(_)
            | SealError::Panicked => {}
        }
        self.end(build, AbandonReason::SealFailed);
    }

    fn hand_out(
        &self,
        build: BuildId,
        last: Cut,
        sealed: SealedBlock,
        completion: Completion,
        started: Instant,
    ) {
        let sealed = Arc::new(sealed);
        let (block_hash, state_root) = (sealed.hash, sealed.header.state_root);
        let Some(slot) = self.builds.settle(build, Stage::Sealed(sealed.clone())) else { return };
        if slot.is_led() {
            // Counted when readers have its last flashblock, or will not get it.
            self.builds.publishing(build, completion);
        } else {
            self.metrics.build_ended(BuildEnd::Followed);
        }
        slot.say(Outgoing::Seal { build, last, block_hash, state_root });
        self.metrics.sealed(started.elapsed());
        info!(
            build = build.0,
            number = sealed.header.number,
            %block_hash,
            transactions = sealed.transactions.len(),
            ?completion,
            elapsed = ?started.elapsed(),
            "block sealed"
        );
    }
}
