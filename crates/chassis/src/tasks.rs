//! The tasks of a process, and their common fate.
//!
//! A task runs as long as the process. The first one to end, by an error, a panic or a return that
//! nobody asked for, ends the rest, and is named in the error of the process. At shutdown all of
//! them are given the drain timeout to finish; those that do not are named and aborted.
//!
//! Work that ends by itself (a connection, a request) does not belong here: its owner keeps it in a
//! set of its own and ends it when it ends.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::{Shutdown, error::BoxError};

/// How long aborted tasks may take to be dropped.
const ABORT: Duration = Duration::from_secs(1);

/// How a task ended that should not have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It returned an error.
    #[error("task {task} failed")]
    Failed {
        /// The name it was spawned with.
        task: &'static str,
        /// What it returned.
        #[source]
        source: BoxError,
    },
    /// It panicked.
    #[error("task {task} panicked: {message}")]
    Panicked {
        /// The name it was spawned with.
        task: &'static str,
        /// What it panicked with.
        message: String,
    },
    /// It returned although nobody had asked for a shutdown.
    #[error("task {task} ended before shutdown")]
    Returned {
        /// The name it was spawned with.
        task: &'static str,
    },
}

/// The tasks of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    running: BTreeMap<u64, (&'static str, AbortHandle)>,
    first_failure: Option<TaskError>,
}

impl Tasks {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tracker: TaskTracker::new(), state: Arc::default() }
    }

    /// Runs `task` for as long as the process lives.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let tasks = self.clone();
        // The lock is held until the task is on the list, so it cannot end before it is there.
        let handle = self.tracker.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            tasks.ended(id, name, ended.map(|result| result.map_err(Into::into)));
        });
        state.running.insert(id, (name, handle.abort_handle()));
    }

    /// Runs `work` on a thread of its own, for what may not share a thread with others.
    ///
    /// It must watch the shutdown itself: a thread cannot be aborted, only left behind.
    pub fn spawn_thread<F, E>(&self, name: &'static str, work: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<BoxError>,
    {
        let (end, ended) = oneshot::channel();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // Nobody listens once the drain deadline has passed.
            let _ = end.send(result.map(|result| result.map_err(Into::<BoxError>::into)));
        };
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.spawn(name, async move {
            spawned?;
            match ended.await.expect("the thread sends its end even if it panics") {
                Ok(result) => result,
                Err(panic) => resume_unwind(panic),
            }
        });
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits for all tasks until `deadline`, then aborts those that are left.
    ///
    /// # Errors
    ///
    /// The first failure of a task since the beginning. Being aborted is not a failure.
    pub(crate) async fn drain(&self, deadline: Instant) -> Result<(), TaskError> {
        self.tracker.close();
        if timeout_at(deadline, self.tracker.wait()).await.is_err() {
            let left: Vec<_> = self.lock().running.values().cloned().collect();
            let names: Vec<_> = left.iter().map(|(name, _)| *name).collect();
            warn!(tasks = names.join(","), "tasks aborted at the drain deadline");
            for (_, handle) in left {
                handle.abort();
            }
            // A task that blocks its thread cannot be dropped, and is left behind.
            let _ = timeout(ABORT, self.tracker.wait()).await;
        }
        self.lock().first_failure.take().map_or(Ok(()), Err)
    }

    fn ended(
        &self,
        id: u64,
        task: &'static str,
        ended: Result<Result<(), BoxError>, Box<dyn Any + Send>>,
    ) {
        let failure = match ended {
            Ok(Ok(())) if self.shutdown.is_cancelled() => None,
            Ok(Ok(())) => Some(TaskError::Returned { task }),
            Ok(Err(source)) => Some(TaskError::Failed { task, source }),
            Err(panic) => Some(TaskError::Panicked { task, message: message(panic.as_ref()) }),
        };
        debug!(task, failed = failure.is_some(), "task ended");
        let mut state = self.lock();
        state.running.remove(&id);
        if let Some(failure) = failure {
            state.first_failure.get_or_insert(failure);
            drop(state);
            self.shutdown.trigger();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending, io};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_panicking_task_ends_the_others_and_is_named() {
        let (shutdown, tasks) = tasks();
        tasks.spawn("feed", until(&shutdown));
        tasks.spawn("journal", async {
            let empty: &[u8] = &[];
            assert!(!empty.is_empty(), "the journal is empty");
            Ok::<(), Infallible>(())
        });

        timeout(SOON, shutdown.cancelled()).await.unwrap();

        let failure = tasks.drain(Instant::now() + SOON).await.unwrap_err();
        assert_eq!(failure.to_string(), "task journal panicked: the journal is empty");
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_that_is_told() {
        let (shutdown, tasks) = tasks();
        let waits = shutdown.clone();
        tasks.spawn("second", async move {
            waits.cancelled().await;
            Err::<(), _>(io::Error::other("peer is gone"))
        });
        tasks.spawn("first", async { Err::<(), _>(io::Error::other("disk is full")) });

        timeout(SOON, shutdown.cancelled()).await.unwrap();

        let failure = tasks.drain(Instant::now() + SOON).await.unwrap_err();
        assert_eq!(crate::Chain(&failure).to_string(), "task first failed: disk is full");
    }

    #[tokio::test]
    async fn a_task_that_returns_before_shutdown_ends_the_process() {
        let (shutdown, tasks) = tasks();
        tasks.spawn("feed", async { Ok::<(), Infallible>(()) });

        timeout(SOON, shutdown.cancelled()).await.unwrap();

        let failure = tasks.drain(Instant::now() + SOON).await.unwrap_err();
        assert_eq!(failure.to_string(), "task feed ended before shutdown");
    }

    #[tokio::test]
    async fn a_task_that_returns_after_shutdown_is_no_failure() {
        let (shutdown, tasks) = tasks();
        tasks.spawn("feed", until(&shutdown));

        shutdown.trigger();

        assert!(tasks.drain(Instant::now() + SOON).await.is_ok());
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_drain_is_dropped_at_the_deadline() {
        let (shutdown, tasks) = tasks();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn("stuck", async move {
            let _held = held;
            pending::<Result<(), Infallible>>().await
        });
        shutdown.trigger();
        let started = Instant::now();

        let drain = Duration::from_millis(50);
        let drained = timeout(SOON, tasks.drain(started + drain)).await.unwrap();

        assert!(drained.is_ok());
        assert!(dropped.await.is_err(), "what the task held is dropped");
        assert!(started.elapsed() >= drain, "it had its time");
    }

    #[tokio::test]
    async fn a_thread_has_the_same_fate() {
        let (shutdown, tasks) = tasks();
        tasks.spawn_thread("executor", || -> Result<(), Infallible> { panic!("out of gas") });

        timeout(SOON, shutdown.cancelled()).await.unwrap();

        let failure = tasks.drain(Instant::now() + SOON).await.unwrap_err();
        assert_eq!(failure.to_string(), "task executor panicked: out of gas");
    }

    fn tasks() -> (Shutdown, Tasks) {
        let shutdown = Shutdown::new();
        (shutdown.clone(), Tasks::new(shutdown))
    }

    async fn wait(shutdown: Shutdown) -> Result<(), Infallible> {
        shutdown.cancelled().await;
        Ok(())
    }

    fn until(shutdown: &Shutdown) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        wait(shutdown.clone())
    }
}
