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
    scenario::{Fault, FaultKind, Plan, ScenarioError, Target},
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
    Kill(&'static str, Duration),
    Restart(&'static str),
    Pause(&'static str, Duration),
    Revive(&'static str),
    GoOn(&'static str),
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
                FaultKind::Kill(target, span) => Deed::Kill(target.as_str(), span),
                FaultKind::Pause(target, span) => Deed::Pause(target.as_str(), span),
                FaultKind::Restart(target) => Deed::Restart(target.as_str()),
                FaultKind::FailProposer
                | FaultKind::Outsider
                | FaultKind::LateHead(_)
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
                FaultKind::Reorg => RoundFault::Reorg,
                FaultKind::Kill(..) | FaultKind::Pause(..) | FaultKind::Restart(_) => {
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
    pub async fn act(&mut self, devnet: &mut Devnet) -> Result<(), ChildError> {
        let Some(Reverse(Due { deed, .. })) = self.due.pop() else { return Ok(()) };
        let children = devnet.children();
        self.console.line(format_args!("scenario: {deed:?}"));
        match deed {
            Deed::Kill(name, span) => {
                children.kill(name).await;
                self.plan_for(Instant::now() + span, Deed::Revive(name));
            }
            Deed::Restart(name) => {
                children.stop_one(name).await?;
                children.revive(name).await?;
            }
            Deed::Pause(name, span) => {
                children.pause(name, true);
                self.plan_for(Instant::now() + span, Deed::GoOn(name));
            }
            Deed::Revive(name) => children.revive(name).await?,
            Deed::GoOn(name) => children.pause(name, false),
        }
        Ok(())
    }

    /// Ends it: everything that is down is started, everything that stands still goes on.
    ///
    /// # Errors
    /// If a service does not start.
    pub async fn end(mut self, devnet: &mut Devnet) -> Result<(), ChildError> {
        for target in
            [Target::Signer, Target::Builder, Target::Gateway, Target::Consumer, Target::RpcOverlay]
        {
            devnet.children().pause(target.as_str(), false);
            devnet.children().revive(target.as_str()).await?;
        }
        self.due.clear();
        Ok(())
    }
}
