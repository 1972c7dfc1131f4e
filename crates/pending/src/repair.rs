//! When to ask for what was missed, and when to go on without it (D10).
//!
//! A replay from a position brings everything after it too, so nothing is asked for while an
//! earlier replay is awaited. What the feed cannot replay is not asked for again.

use std::time::{Duration, Instant};

use preconf_primitives::Position;

/// How long a replay may take to bring what is missing before it is asked for again.
pub const REPLAY_PATIENCE: Duration = Duration::from_secs(2);

/// What was asked for and what cannot be had.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    asked: Option<(Position, Instant)>,
    /// The feed said that it has nothing from the first position up to the second.
    given_up: Option<(Position, Position)>,
}

impl Repair {
    /// Whether a replay from `missing` is to be asked for now. If so it counts as asked for.
    pub(crate) fn ask(&mut self, missing: Position, now: Instant) -> bool {
        let is_awaited = self.asked.is_some_and(|(from, at)| {
            from <= missing && now.saturating_duration_since(at) < REPLAY_PATIENCE
        });
        if is_awaited || self.is_given_up(missing) {
            return false;
        }
        self.asked = Some((missing, now));
        true
    }

    /// Whether a replay from exactly this position was asked for, or cannot be had: whoever meets
    /// the same gap again has to live with it.
    pub(crate) fn was_in_vain(&self, missing: Position) -> bool {
        self.asked.is_some_and(|(from, _)| from == missing) || self.is_given_up(missing)
    }

    /// Notes what the feed cannot replay.
    pub(crate) fn give_up(&mut self, wanted: Position, next: Position) {
        self.given_up = Some((wanted, next));
        self.asked = self.asked.filter(|(from, _)| !(wanted..next).contains(from));
    }

    /// Notes that the feed has come to this position. What was missing before it no longer matters.
    pub(crate) fn reached(&mut self, position: Position) {
        self.asked = self.asked.filter(|(from, _)| *from > position);
        self.given_up = self.given_up.filter(|(wanted, _)| *wanted > position);
    }

    /// Where a replay that is awaited begins.
    pub(crate) fn awaited(&self) -> Option<Position> {
        self.asked.map(|(from, _)| from)
    }

    fn is_given_up(&self, missing: Position) -> bool {
        self.given_up.is_some_and(|(wanted, next)| (wanted..next).contains(&missing))
    }
}

#[cfg(test)]
mod tests {
    use preconf_primitives::Seq;

    use super::*;

    fn at(index: u64) -> Position {
        Position::new(Seq::new(7), index)
    }

    #[test]
    fn what_a_replay_will_bring_is_not_asked_for_again_until_it_is_late() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        assert!(repair.ask(at(3), now));
        assert!(!repair.ask(at(3), now));
        assert!(!repair.ask(at(5), now));
        assert!(repair.ask(at(2), now), "an earlier position is not covered");
        assert!(repair.ask(at(2), now + REPLAY_PATIENCE));
    }

    #[test]
    fn reaching_a_position_ends_the_wait_for_it() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        repair.ask(at(3), now);
        repair.reached(at(2));
        assert_eq!(repair.awaited(), Some(at(3)));
        repair.reached(at(3));
        assert_eq!(repair.awaited(), None);
        assert!(repair.ask(at(5), now));
    }

    #[test]
    fn what_the_feed_does_not_have_is_not_asked_for() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        repair.ask(at(3), now);
        repair.give_up(at(3), at(6));
        assert_eq!(repair.awaited(), None);
        assert!(!repair.ask(at(3), now + REPLAY_PATIENCE));
        assert!(repair.was_in_vain(at(5)) && !repair.was_in_vain(at(6)));
        assert!(repair.ask(at(6), now));
    }

    #[test]
    fn a_hint_ends_with_the_gap_that_it_was_about() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        repair.give_up(at(0), at(u64::MAX));
        assert!(!repair.ask(at(3), now));
        repair.reached(at(1));
        assert!(repair.ask(at(3), now));
    }
}
