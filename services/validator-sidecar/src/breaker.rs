//! Whether a sequencer that did not answer is to be asked again.
//!
//! After a few failures in a row it is left alone for a while, which doubles with each further one;
//! then one request may find out whether it is back. Only silence counts as a failure: whoever
//! answers, however wrongly, costs no time. Half of each pause is jitter, so that validators do not
//! all return at once.

use std::time::{Duration, Instant};

/// How many failures in a row make a pause. One request may have two tries.
const FAILURES: u32 = 3;
/// The longest first pause: no more than a block.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of one sequencer.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It is asked.
    #[default]
    Closed,
    /// It is left alone.
    Open { until: Instant },
    /// One request is finding out.
    HalfOpen,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// It is left alone from now on.
    Lost,
    /// It is asked again.
    Back,
}

impl Breaker {
    /// Whether it is to be asked now. Who is told so tells the outcome.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } if until <= now => {
                self.state = State::HalfOpen;
                true
            }
            State::Open { .. } | State::HalfOpen => false,
        }
    }

    /// Whether it would be asked now.
    pub(crate) fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } => until <= now,
            State::HalfOpen => false,
        }
    }

    /// It answered, whatever it said.
    pub(crate) fn answered(&mut self) -> Change {
        let was = std::mem::take(self);
        if was.failures < FAILURES { Change::None } else { Change::Back }
    }

    /// It did not answer. `jitter`, in `0.0..=1.0`, chooses within the upper half of the pause.
    pub(crate) fn silent(&mut self, now: Instant, jitter: f64) -> Change {
        let known = self.failures >= FAILURES;
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = self.failures.checked_sub(FAILURES) else { return Change::None };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let half = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE) / 2;
        self.state = State::Open { until: now + half + half.mul_f64(jitter.clamp(0., 1.)) };
        if known { Change::None } else { Change::Lost }
    }

    /// Nobody waited for its answer: nothing is known, and the next may find out.
    pub(crate) fn abandoned(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        let changes = [(); 3].map(|()| breaker.silent(now, 1.));
        assert_eq!(changes, [Change::None, Change::None, Change::Lost]);
        breaker
    }

    #[test]
    fn one_timeout_costs_nothing() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(breaker.silent(now, 1.), Change::None);
            assert!(breaker.admit(now));
            assert_eq!(breaker.answered(), Change::None);
        }
    }

    #[test]
    fn after_three_failures_in_a_row_it_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut breaker = lost(now);
        for (millis, is_asked) in [(999, false), (1_000, true)] {
            let later = now + Duration::from_millis(millis);
            assert_eq!(breaker.would_admit(later), is_asked);
            assert_eq!(breaker.admit(later), is_asked);
        }
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_it_is_back() {
        let now = Instant::now();
        let mut breaker = lost(now);
        let later = now + Duration::from_secs(1);
        assert!(breaker.admit(later));
        assert!(!breaker.admit(later), "one is under way");
        assert_eq!(breaker.answered(), Change::Back);
        assert!(breaker.admit(later) && breaker.admit(later));
    }

    #[test]
    fn a_probe_that_nobody_waited_for_leaves_the_question_open() {
        let now = Instant::now();
        let mut breaker = lost(now);
        let later = now + Duration::from_secs(1);
        assert!(breaker.admit(later));
        breaker.abandoned(later);
        assert!(breaker.admit(later) && !breaker.admit(later));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_never_end_at_once() {
        for (jitter, pauses) in
            [(1., [2_000, 4_000, 8_000, 10_000, 10_000]), (0., [1_000, 2_000, 4_000, 5_000, 5_000])]
        {
            let mut now = Instant::now();
            let mut breaker = lost(now);
            now += LONGEST_PAUSE;
            for millis in pauses {
                assert!(breaker.admit(now));
                assert_eq!(breaker.silent(now, jitter), Change::None);
                assert!(!breaker.admit(now + Duration::from_millis(millis - 1)), "{millis}");
                now += Duration::from_millis(millis);
            }
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            breaker.silent(now, 1.);
        }
        assert!(breaker.admit(now + LONGEST_PAUSE));
    }
}
