//! A scenario as it happens: the faults of each block, at their time, done to the system.
//!
//! What goes wrong in the consensus is ordered two blocks ahead, because the attributes of a block go
//! out when the one before is agreed on. What happens to a service is counted from when the block
//! before was settled.

use std::{cmp::Reverse, collections::BinaryHeap, path::Path, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    children::ChildError,
    consensus::RoundFault,
    console::Console,
    devnet::Devnet,
    links::Condition,
    scenario::{Fault, FaultKind, Plan, ScenarioError, Target},
    services::PAYLOAD_SERVER,
    wiring::Line,
};

/// A plan that is being carried out.
#[derive(Debug)]
pub struct Story {
    plan: Plan,
    /// What happens to services in the block after the next.
    ahead: Vec<Fault>,
    due: BinaryHeap<Reverse<Due>>,
    deeds: u64,
    console: Console,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    /// In the order in which they were planned.
    number: u64,
    deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Kill(Target, Duration),
    Restart(Target),
    Pause(Target, Duration),
    Passthrough(Duration),
    Cut(Line, Duration),
    Slow(Line, Duration, Duration),
    Wrong(Duration),
    Revive(&'static str),
    GoOn(&'static str),
    Build(&'static str),
    Mend(Line),
    Right,
}

/// What was done, for whoever measures what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The service that publishes cannot go on.
    Silenced,
    /// A builder was started again, and its Engine API answered so long after that.
    Serves(Duration),
    /// Something else.
    Other,
}

impl Story {
    /// Begins the scenario of a file; the first two blocks are ordered at once.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn begin(
        path: &Path,
        seed: u64,
        devnet: &Devnet,
        console: Console,
    ) -> Result<Self, ScenarioError> {
        let plan = Plan::read(path, seed)?;
        let (ahead, due) = (Vec::new(), BinaryHeap::new());
        let mut story = Self { plan, ahead, due, deeds: 0, console };
        story.settled(0, devnet);
        Ok(story)
    }

    /// A block is settled: what belongs to the next one begins.
    pub fn settled(&mut self, block: u64, devnet: &Devnet) {
        let now = Instant::now();
        for Fault { after, kind } in std::mem::take(&mut self.ahead) {
            let deed = match kind {
                FaultKind::Kill(target, span) => Deed::Kill(target, span),
                FaultKind::Pause(target, span) => Deed::Pause(target, span),
                FaultKind::Restart(target) => Deed::Restart(target),
                FaultKind::Passthrough(span) => Deed::Passthrough(span),
                FaultKind::Cut(line, span) => Deed::Cut(line, span),
                FaultKind::Slow(line, by, span) => Deed::Slow(line, by, span),
                FaultKind::Wrong(span) => Deed::Wrong(span),
                FaultKind::FailProposer
                | FaultKind::Outsider
                | FaultKind::LateHead(_)
                | FaultKind::LatePayload(_)
                | FaultKind::SkippedProposal(_)
                | FaultKind::Reorg => continue,
            };
            self.plan_for(now + after, deed);
        }
        let block = block + 2;
        for fault in self.plan.at(block) {
            let round = match &fault.kind {
                FaultKind::FailProposer => RoundFault::FailProposer,
                FaultKind::Outsider => RoundFault::Outsider,
                FaultKind::LateHead(late) => RoundFault::LateHead(*late),
                FaultKind::LatePayload(late) => RoundFault::LatePayload(*late),
                FaultKind::SkippedProposal(late) => RoundFault::SkippedProposal(*late),
                FaultKind::Reorg => RoundFault::Reorg,
                FaultKind::Kill(..)
                | FaultKind::Pause(..)
                | FaultKind::Restart(_)
                | FaultKind::Passthrough(_)
                | FaultKind::Cut(..)
                | FaultKind::Slow(..)
                | FaultKind::Wrong(_) => {
                    self.ahead.push(fault);
                    continue;
                }
            };
            self.console.line(format_args!("scenario: block {block}: {round:?}"));
            devnet.faults.order(block, round);
        }
    }

    fn plan_for(&mut self, at: Instant, deed: Deed) {
        self.deeds += 1;
        self.due.push(Reverse(Due { at, number: self.deeds, deed }));
    }

    /// Waits until something is to be done. Cancel safe.
    pub async fn next(&self) {
        match self.due.peek() {
            Some(Reverse(due)) => sleep_until(due.at).await,
            None => std::future::pending().await,
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// If a service does not end or start as it should.
    pub async fn act(&mut self, devnet: &mut Devnet) -> Result<Done, ChildError> {
        let Some(Reverse(Due { deed, .. })) = self.due.pop() else { return Ok(Done::Other) };
        self.console.line(format_args!("scenario: {deed:?}"));
        let builder = devnet.builders().0;
        let done = |name| if name == builder { Done::Silenced } else { Done::Other };
        let now = Instant::now();
        Ok(match deed {
            Deed::Kill(target, span) => {
                let Some(name) = name_of(target, devnet) else { return Ok(Done::Other) };
                devnet.children().kill(name).await;
                self.plan_for(now + span, Deed::Revive(name));
                done(name)
            }
            Deed::Restart(target) => {
                let Some(name) = name_of(target, devnet) else { return Ok(Done::Other) };
                devnet.children().stop_one(name).await?;
                revive(name, devnet).await?;
                done(name)
            }
            Deed::Pause(target, span) => {
                let Some(name) = name_of(target, devnet) else { return Ok(Done::Other) };
                devnet.children().pause(name, true);
                self.plan_for(now + span, Deed::GoOn(name));
                done(name)
            }
            Deed::Passthrough(span) => {
                devnet.children().pass_through(builder, true);
                self.plan_for(now + span, Deed::Build(builder));
                Done::Other
            }
            Deed::Cut(line, span) => {
                devnet.wiring.set(line, Condition::Cut);
                self.plan_for(now + span, Deed::Mend(line));
                Done::Other
            }
            Deed::Slow(line, by, span) => {
                devnet.wiring.set(line, Condition::Slow(by));
                self.plan_for(now + span, Deed::Mend(line));
                Done::Other
            }
            Deed::Wrong(span) => {
                devnet.wiring.lie(true);
                self.plan_for(now + span, Deed::Right);
                Done::Other
            }
            Deed::Right => {
                devnet.wiring.lie(false);
                Done::Other
            }
            Deed::Revive(name) => revive(name, devnet).await?,
            Deed::GoOn(name) => {
                devnet.children().pause(name, false);
                Done::Other
            }
            Deed::Build(name) => {
                devnet.children().pass_through(name, false);
                Done::Other
            }
            Deed::Mend(line) => {
                devnet.wiring.set(line, Condition::Whole);
                Done::Other
            }
        })
    }

    /// Ends it: everything that is down is started, everything that stands still goes on.
    ///
    /// # Errors
    /// If a service does not start.
    pub async fn end(mut self, devnet: &mut Devnet) -> Result<(), ChildError> {
        for line in Line::ALL {
            devnet.wiring.set(line, Condition::Whole);
        }
        devnet.wiring.lie(false);
        let others = [
            Target::Signer,
            Target::Gateway,
            Target::Consumer,
            Target::RpcOverlay,
            Target::PayloadServer,
            Target::Sidecar,
        ];
        let others = others.into_iter().filter_map(|target| name_of(target, devnet));
        for name in others.chain(devnet.all_builders()).collect::<Vec<_>>() {
            devnet.children().pause(name, false);
            revive(name, devnet).await?;
        }
        self.due.clear();
        Ok(())
    }
}

/// What the service is called; none if there is none.
fn name_of(target: Target, devnet: &Devnet) -> Option<&'static str> {
    let (builder, standby) = devnet.builders();
    match target {
        Target::Signer => Some("signer"),
        Target::Builder => Some(builder),
        Target::Standby => standby,
        Target::Gateway => Some("gateway"),
        Target::Consumer => Some("consumer"),
        Target::RpcOverlay => Some("rpc-overlay"),
        Target::PayloadServer => devnet.has_payload_server().then_some(PAYLOAD_SERVER),
        Target::Sidecar => devnet.sidecars().first().copied(),
    }
}

/// Starts a service again that is down.
async fn revive(name: &'static str, devnet: &mut Devnet) -> Result<Done, ChildError> {
    let is_builder = devnet.all_builders().contains(&name);
    let listener = if is_builder { "engine" } else { "health" };
    let started = Instant::now();
    let revived = devnet.children().revive(name, listener).await?;
    let serves = revived && is_builder;
    Ok(if serves { Done::Serves(started.elapsed()) } else { Done::Other })
}
