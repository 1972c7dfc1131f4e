//! Whose turn it is: the proposer of a slot, in its newest round.
//!
//! Decides which announcement counts. Each slot has its own: a later round of one slot says nothing
//! of the next, which may have been announced before. The [`KEPT`] slots announced last are
//! remembered.
//!
//! Within a slot the highest round counts, whatever order announcements come in; but what a node
//! says replaces what it said before, a higher round too. A node that starts anew, or whose chain
//! does, may begin a height again at round 0: then whoever proposes there is the one whose turn it
//! is.
//!
//! Invariant: a word of [`Source::Node`] is newer than all of its earlier ones. Whoever passes such
//! words on asks one node only, one question after the other, and gives up a question before it
//! asks the next: so no answer can come late, and time does not run backward within the source.
//! What a node will be at is such a word too, until it says itself what it is.
//! Words of [`Source::Announcer`] may overtake one another: there only a higher round is surely a
//! newer one, and no word of theirs is taken back by a lower round, whoever says it.

use std::{collections::VecDeque, time::Duration};

use preconf_payload_api::ValidatorAddress;
use tokio::{sync::watch, time::timeout};

/// How many slots are remembered. Two are needed, one in which rounds change and the next; who knows
/// all proposers of an epoch may say so at once, and again for the next epoch.
const KEPT: usize = 64;

/// Who says whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A node that is asked what it is at. Each of its words is newer than the one before.
    Node,
    /// Whoever may announce, in any order.
    Announcer,
}

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
    source: Source,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Learns who proposes. Says whether that was news.
    pub(crate) fn announce(
        &self,
        source: Source,
        slot: u64,
        round: u32,
        proposer: ValidatorAddress,
    ) -> bool {
        let turn = Turn { slot, round, proposer, source };
        self.0.send_if_modified(|announced| announced.learn(turn))
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
            let is_same = (turn.round, turn.proposer) == (known.round, known.proposer);
            let is_news = !is_same && (turn.round >= known.round || turn.begins_anew(known));
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

impl Turn {
    /// Whether it is what a node says now instead of what it said before.
    fn begins_anew(&self, known: &Self) -> bool {
        match (self.source, known.source) {
            (Source::Node, Source::Node) => true,
            (Source::Node | Source::Announcer, Source::Announcer)
            | (Source::Announcer, Source::Node) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ValidatorAddress = ValidatorAddress([1; 20]);
    const B: ValidatorAddress = ValidatorAddress([2; 20]);

    fn announced(turns: &[(u64, u32, ValidatorAddress)]) -> Announced {
        let from = |&(slot, round, proposer)| (Source::Announcer, slot, round, proposer);
        heard(&turns.iter().map(from).collect::<Vec<_>>())
    }

    fn heard(turns: &[(Source, u64, u32, ValidatorAddress)]) -> Announced {
        let mut announced = Announced::default();
        for &(source, slot, round, proposer) in turns {
            announced.learn(Turn { slot, round, proposer, source });
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
    fn a_height_that_a_node_begins_anew_is_followed() {
        use Source::{Announcer, Node};
        let proposer = |turns: &[_]| heard(turns).proposer(5);
        assert_eq!(proposer(&[(Node, 5, 3, B), (Node, 5, 0, A)]), Some(A));
        assert_eq!(proposer(&[(Node, 5, 3, B), (Node, 5, 0, A), (Node, 5, 1, B)]), Some(B));
        // A block of the height before it was taken back, too.
        assert_eq!(proposer(&[(Node, 5, 3, B), (Node, 6, 0, B), (Node, 5, 0, A)]), Some(A));
        // What somebody else announces may be late, and what he announced is not the node's to
        // take back.
        assert_eq!(proposer(&[(Node, 5, 3, B), (Announcer, 5, 0, A)]), Some(B));
        assert_eq!(proposer(&[(Announcer, 5, 3, B), (Node, 5, 0, A)]), Some(B));
        assert_eq!(proposer(&[(Node, 5, 0, A), (Announcer, 5, 3, B), (Node, 5, 0, A)]), Some(B));
    }

    #[test]
    fn what_is_said_again_is_no_news() {
        let mut announced = announced(&[(5, 1, A)]);
        for source in [Source::Node, Source::Announcer] {
            assert!(!announced.learn(Turn { slot: 5, round: 1, proposer: A, source }));
        }
    }

    #[test]
    fn a_chain_that_begins_anew_is_followed() {
        let old = (1_000..).take(KEPT).map(|slot| (slot, 0, A));
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
            turns.announce(Source::Announcer, 7, 0, A);
            tokio::task::yield_now().await;
            turns.announce(Source::Announcer, 7, 1, B);
        };
        let (is_told, ()) = tokio::join!(waiting, announcing);
        assert!(is_told);
        assert!(!turns.is_of(7, A, Duration::from_millis(1)).await);
    }
}
