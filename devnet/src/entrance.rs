//! One entrance to several builders, as a Kubernetes Service is one to several pods.
//!
//! Who comes in is led to the builder that is ready: the one that has the lease. As long as none is,
//! he is led to one that answers at all, because its execution client answers through it. The one
//! where everybody is now is preferred, so that nobody is led away without need. All doors of the
//! entrance lead to the same builder.
//!
//! Decides by the health ports alone, every [`PROBE_INTERVAL`]; a builder that does not answer there
//! within [`PATIENCE`] is taken for dead, also if it only stands still.

use std::{io, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::warn;

use crate::{
    children::{Standing, standing},
    links::{Address, Link},
};

/// How often the builders are asked how they are.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(300);

/// A builder behind the entrance.
#[derive(Clone, Debug)]
pub struct Behind {
    /// What it is called.
    pub name: &'static str,
    /// Its health port.
    pub health: String,
    /// Where it listens, one for each door of the entrance.
    pub doors: Vec<Address>,
}

/// Doors that lead to one of several builders. Dropping it closes them.
#[derive(Debug)]
pub struct Entrance {
    at: Vec<Address>,
    current: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Entrance {
    /// Opens doors at these addresses, to the first builder until another one is better.
    ///
    /// # Errors
    /// If nobody can listen at one of them.
    ///
    /// # Panics
    /// If there is no builder.
    pub async fn open(at: &[Address], builders: Vec<Behind>) -> io::Result<Self> {
        assert!(!builders.is_empty(), "an entrance leads somewhere");
        let mut links = Vec::new();
        for (at, to) in at.iter().zip(&builders[0].doors) {
            links.push(Link::open(at, Some(to.clone())).await?);
        }
        let at = links.iter().map(|link| link.at().clone()).collect();
        let (announce, current) = watch::channel(0);
        let task = tokio::spawn(watch_over(links, builders, announce));
        Ok(Self { at, current, task })
    }

    /// Where the doors are, in the order in which they were given.
    pub fn at(&self) -> &[Address] {
        &self.at
    }

    /// To which builder they lead.
    pub fn current(&self) -> watch::Receiver<usize> {
        self.current.clone()
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_over(links: Vec<Link>, builders: Vec<Behind>, announce: watch::Sender<usize>) {
    let mut probes = interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        probes.tick().await;
        let asked = builders.iter().map(|builder| async {
            timeout(PATIENCE, standing(&builder.health)).await.unwrap_or(Standing::Dead)
        });
        let standings = join_all(asked).await;
        let before = *announce.borrow();
        let now = choose(before, &standings);
        if now == before {
            continue;
        }
        warn!(from = builders[before].name, to = builders[now].name, "another builder serves");
        for (link, to) in links.iter().zip(&builders[now].doors) {
            link.lead_to(Some(to.clone()));
        }
        announce.send_replace(now);
    }
}

/// The best, and of those the current one or else the first.
fn choose(current: usize, standings: &[Standing]) -> usize {
    let best = standings.iter().max();
    match standings.get(current) {
        now if now == best => current,
        _ => standings.iter().position(|one| Some(one) == best).unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_goes_to_the_best_and_nobody_without_need() {
        use Standing::{Alive, Dead, Ready};
        for (current, standings, expected) in [
            (0, [Ready, Alive], 0),
            (1, [Ready, Alive], 0),
            // Both may be ready while nobody can say who has the lease.
            (1, [Ready, Ready], 1),
            // The active one dies: the other one passes on until it has the lease, and then builds.
            (0, [Dead, Alive], 1),
            (1, [Dead, Ready], 1),
            // The first one comes back as the standby.
            (1, [Alive, Ready], 1),
            (1, [Alive, Alive], 1),
            // Nobody is there: whoever comes first.
            (1, [Dead, Dead], 1),
        ] {
            assert_eq!(choose(current, &standings), expected, "{current} {standings:?}");
        }
    }
}
