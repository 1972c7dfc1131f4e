//! Whose turn it is: the proposer of a slot, in its newest round.
//!
//! Decides which announcement counts. Each slot has its own: a later round of one slot says nothing
//! of the next, which may have been announced before. Within a slot the highest round counts,
//! whatever order announcements come in. The [`KEPT`] slots announced last are remembered.

use std::{collections::VecDeque, time::Duration};

use preconf_payload_api::ValidatorAddress;
use tokio::{sync::watch, time::timeout};

/// How many slots are remembered. Two are needed: one in which rounds change, and the next.
const KEPT: usize = 8;

/// The proposers that were announced, and those who wait for an announcement. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns(watch::Sender<Announced>);

#[derive(Debug, Default)]
struct Announced(VecDeque<Turn>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    slot: u64,
    round: u32,
    proposer: ValidatorAddress,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Learns who proposes. Says whether that was news.
    pub(crate) fn announce(&self, slot: u64, round: u32, proposer: ValidatorAddress) -> bool {
        self.0.send_if_modified(|announced| announced.learn(Turn { slot, round, proposer }))
    }

    /// Whether it is this validator's turn, or becomes known to be within this time.
    pub(crate) async fn is_of(
        &self,
        slot: u64,
        proposer: ValidatorAddress,
        patience: Duration,
    ) -> bool {
        let mut announced = self.0.subscribe();
        let is_told = announced.wait_for(|announced| announced.proposer(slot) == Some(proposer));
        matches!(timeout(patience, is_told).await, Ok(Ok(_)))
    }
}

impl Announced {
    fn proposer(&self, slot: u64) -> Option<ValidatorAddress> {
        self.0.iter().find(|turn| turn.slot == slot).map(|turn| turn.proposer)
    }

    fn learn(&mut self, turn: Turn) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.slot == turn.slot) {
            let is_news = turn.round >= known.round && turn != *known;
            if is_news {
                *known = turn;
            }
            return is_news;
        }
        // The one announced first goes, not the lowest: a chain may begin anew.
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(turn);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ValidatorAddress = ValidatorAddress([1; 20]);
    const B: ValidatorAddress = ValidatorAddress([2; 20]);

    fn announced(turns: &[(u64, u32, ValidatorAddress)]) -> Announced {
        let mut announced = Announced::default();
        for &(slot, round, proposer) in turns {
            announced.learn(Turn { slot, round, proposer });
        }
        announced
    }

    #[test]
    fn a_slot_that_nobody_has_announced_has_no_proposer() {
        assert_eq!(announced(&[]).proposer(0), None);
        assert_eq!(announced(&[(5, 0, A)]).proposer(6), None);
    }

    #[test]
    fn the_highest_round_counts_in_whatever_order_it_comes() {
        assert_eq!(announced(&[(5, 0, A), (5, 3, B)]).proposer(5), Some(B));
        assert_eq!(announced(&[(5, 3, B), (5, 0, A)]).proposer(5), Some(B));
    }

    #[test]
    fn a_later_round_of_one_slot_leaves_the_next_slot_alone() {
        // The block of slot 5 is proposed again in round 1: slot 6 was announced in between.
        let announced = announced(&[(5, 0, A), (6, 0, B), (5, 1, B)]);
        assert_eq!((announced.proposer(5), announced.proposer(6)), (Some(B), Some(B)));
    }

    #[test]
    fn a_chain_that_begins_anew_is_followed() {
        let old = (1_000..1_008).map(|slot| (slot, 0, A));
        let turns: Vec<_> = old.chain([(1, 0, B), (2, 0, B)]).collect();
        let announced = announced(&turns);
        assert_eq!(announced.proposer(2), Some(B));
        assert_eq!(announced.0.len(), KEPT);
    }

    #[tokio::test]
    async fn who_asks_too_early_waits_for_the_announcement() {
        let turns = Turns::new();
        let waiting = turns.is_of(7, B, Duration::from_secs(30));
        let announcing = async {
            turns.announce(7, 0, A);
            tokio::task::yield_now().await;
            turns.announce(7, 1, B);
        };
        let (is_told, ()) = tokio::join!(waiting, announcing);
        assert!(is_told);
        assert!(!turns.is_of(7, A, Duration::from_millis(1)).await);
    }
}
