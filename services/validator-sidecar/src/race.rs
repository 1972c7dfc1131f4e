//! Which sequencer is asked when: in the order of the list, the next one as soon as one has failed,
//! or beside one that takes long.
//!
//! However many are silent, the next one is asked as soon as each of them has had its time: those that
//! swallow what they are sent do not shut out the one that would answer. A list of one is asked twice:
//! the second request takes another connection. Whoever has answered, or refused, is not asked again
//! for the same block. So no more requests are under way than there are sequencers, or two.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The state of one race. Sequencers are known by their place in the list.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<usize>,
    /// Those that are being asked, and since when.
    running: Vec<(usize, Instant)>,
    patience: Duration,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this one, now.
    Ask(usize),
    /// Wait for an answer, and come back at this time if there was none.
    WaitUntil(Instant),
    /// Wait for an answer.
    Wait,
    /// There is nobody left.
    Over,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With an answer, good or bad, or without having been sent.
    Settled,
    /// With none: another try may have better luck.
    Silent,
}

impl Race {
    /// A race among the sequencers of a list of this length, of whom the next is asked when one has
    /// not answered within `patience`.
    pub(crate) fn new(sequencers: usize, patience: Duration) -> Self {
        let second = usize::from(sequencers == 1);
        let waiting = (0..sequencers).chain((0..sequencers).take(second)).collect();
        Self { waiting, running: Vec::new(), patience }
    }

    /// What is to be done now.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if self.waiting.is_empty() {
            return if self.running.is_empty() { Step::Over } else { Step::Wait };
        }
        let last_asked = self.running.iter().map(|(_, at)| *at).max();
        if let Some(due) = last_asked.map(|last| last + self.patience).filter(|due| now < *due) {
            return Step::WaitUntil(due);
        }
        let next = self.waiting.pop_front().expect("it was found not to be empty");
        self.running.push((next, now));
        Step::Ask(next)
    }

    /// A request has ended.
    pub(crate) fn ended(&mut self, sequencer: usize, end: End) {
        if let Some(at) = self.running.iter().position(|(running, _)| *running == sequencer) {
            self.running.swap_remove(at);
        }
        match end {
            End::Settled => self.waiting.retain(|waiting| *waiting != sequencer),
            End::Silent => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Ask, Over, Wait, WaitUntil};

    const PATIENCE: Duration = Duration::from_millis(150);

    #[test]
    fn the_next_is_asked_beside_those_that_are_slow_however_many_they_are() {
        let (mut race, now) = (Race::new(3, PATIENCE), Instant::now());
        assert_eq!(race.step(now), Ask(0));
        assert_eq!(race.step(now), WaitUntil(now + PATIENCE));
        let later = now + PATIENCE;
        assert_eq!(race.step(later), Ask(1));
        assert_eq!(race.step(later), WaitUntil(later + PATIENCE));
        let last = later + PATIENCE;
        assert_eq!(race.step(last), Ask(2));
        assert_eq!(race.step(last + 2 * PATIENCE), Wait);
        race.ended(0, End::Silent);
        race.ended(1, End::Settled);
        race.ended(2, End::Silent);
        assert_eq!(race.step(last + 2 * PATIENCE), Over);
    }

    #[test]
    fn whoever_failed_or_was_not_asked_at_all_does_not_delay_the_next() {
        let (mut race, now) = (Race::new(4, PATIENCE), Instant::now());
        assert_eq!(race.step(now), Ask(0));
        let later = now + PATIENCE;
        assert_eq!(race.step(later), Ask(1));
        race.ended(1, End::Settled);
        assert_eq!(race.step(later), Ask(2));
        race.ended(2, End::Silent);
        assert_eq!(race.step(later), Ask(3));
    }

    #[test]
    fn whoever_is_next_is_asked_at_once_when_nobody_is_being_asked() {
        let (mut race, now) = (Race::new(2, PATIENCE), Instant::now());
        assert_eq!(race.step(now), Ask(0));
        race.ended(0, End::Settled);
        assert_eq!(race.step(now), Ask(1));
    }

    #[test]
    fn the_only_one_is_asked_twice_if_it_is_slow_or_silent() {
        let now = Instant::now();
        let mut race = Race::new(1, PATIENCE);
        assert_eq!(race.step(now), Ask(0));
        assert_eq!(race.step(now + PATIENCE), Ask(0));
        assert_eq!(race.step(now + PATIENCE), Wait);

        let mut race = Race::new(1, PATIENCE);
        assert_eq!(race.step(now), Ask(0));
        race.ended(0, End::Silent);
        assert_eq!(race.step(now), Ask(0));
        race.ended(0, End::Silent);
        assert_eq!(race.step(now), Over);
    }

    #[test]
    fn the_only_one_is_not_asked_again_after_it_has_answered() {
        let (mut race, now) = (Race::new(1, PATIENCE), Instant::now());
        assert_eq!(race.step(now), Ask(0));
        race.ended(0, End::Settled);
        assert_eq!(race.step(now + PATIENCE), Over);
    }
}
