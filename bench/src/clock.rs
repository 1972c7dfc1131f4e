//! How long something took.

#![expect(unsafe_code, reason = "the time that a thread has used is asked of libc")]

use std::{
    mem::MaybeUninit,
    time::{Duration, Instant},
};

/// How long this thread was at work on something. Whoever else wants the core does not count.
pub(crate) fn on_this_thread<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = thread_time();
    let result = work();
    (thread_time().saturating_sub(started), result)
}

/// How long something took that more than one thread works on.
pub(crate) fn on_all_cores<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}

fn thread_time() -> Duration {
    let mut time = MaybeUninit::uninit();
    // SAFETY: the pointer is to a timespec that may be written.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) };
    assert_eq!(failed, 0, "every thread has this clock");
    // SAFETY: the call has succeeded, so it has written.
    let libc::timespec { tv_sec, tv_nsec } = unsafe { time.assume_init() };
    Duration::new(tv_sec.unsigned_abs(), tv_nsec.unsigned_abs() as u32)
}
