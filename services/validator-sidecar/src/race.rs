//! Which sequencer is asked when: in the order of the list, the next one as soon as one has failed,
//! or beside one that takes long.
//!
//! At most two are asked at a time, and a list of one is asked twice: the second request takes
//! another connection. Whoever has answered, or refused, is not asked again for the same block.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many are asked at a time.
const AT_A_TIME: usize = 2;

/// The state of one race. Sequencers are known by their place in the list.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<usize>,
    running: Vec<usize>,
    patience: Duration,
    last_asked: Option<Instant>,
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
        Self { waiting, running: Vec::new(), patience, last_asked: None }
    }

    /// What is to be done now.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if self.waiting.is_empty() {
            return if self.running.is_empty() { Step::Over } else { Step::Wait };
        }
        if self.running.len() >= AT_A_TIME {
            return Step::Wait;
        }
        let due = self.last_asked.map_or(now, |last| last + self.patience);
        if !self.running.is_empty() && now < due {
            return Step::WaitUntil(due);
        }
        let next = self.waiting.pop_front().expect("it was found not to be empty");
        self.running.push(next);
        self.last_asked = Some(now);
        Step::Ask(next)
    }

    /// A request has ended.
    pub(crate) fn ended(&mut self, sequencer: usize, end: End) {
        if let Some(at) = self.running.iter().position(|running| *running == sequencer) {
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
    fn the_second_is_asked_beside_a_slow_first_and_the_third_only_when_one_has_failed() {
        let (mut race, now) = (Race::new(3, PATIENCE), Instant::now());
        assert_eq!(race.step(now), Ask(0));
        assert_eq!(race.step(now), WaitUntil(now + PATIENCE));
        let later = now + PATIENCE;
        assert_eq!(race.step(later), Ask(1));
        assert_eq!(race.step(later + 2 * PATIENCE), Wait);
        race.ended(0, End::Silent);
        assert_eq!(race.step(later + 2 * PATIENCE), Ask(2));
        race.ended(1, End::Settled);
        race.ended(2, End::Silent);
        assert_eq!(race.step(later + 2 * PATIENCE), Over);
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
