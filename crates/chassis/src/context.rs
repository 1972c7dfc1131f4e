//! What a process gives to the service that runs in it.
//!
//! A service receives one [`Context`] and hands clones of its parts to whoever needs them. Outside
//! a process, as in a test, [`Context::for_test`] makes one whose owner ends it with
//! [`Context::finish`].

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io::{self, Write},
    time::Duration,
};

use preconf_telemetry::{
    Exports, Registry,
    metrics::{Counter, Described, Family},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Chain, Endpoint, Exit, Health, Listener, Security, Tasks,
    listener::{BindError, ConnectionMetrics},
};

/// How often the files of certificates are looked at.
const RELOAD: Duration = Duration::from_secs(10);

/// The wish that the process ends. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Makes a wish that nobody has uttered yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Utters it. Doing so again changes nothing.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was uttered.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it is uttered.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    pub(crate) fn cancelled_owned(self) -> impl Future<Output = ()> + Send + 'static {
        self.0.cancelled_owned()
    }
}

/// What a service runs in. Clones share it.
#[derive(Clone, Debug)]
pub struct Context {
    /// When to stop.
    pub shutdown: Shutdown,
    /// Where metrics are registered.
    pub registry: Registry,
    /// Whether the service can do its work.
    pub health: Health,
    /// The tasks of the service.
    pub tasks: Tasks,
    connections: ConnectionMetrics,
    certificates: Family<Counter, 1>,
    pub(crate) exports: Exports,
    announces: bool,
}

impl Context {
    /// Makes the context of a process.
    pub(crate) fn new(service: &str) -> Self {
        let registry = Registry::new(service);
        let shutdown = Shutdown::new();
        Self {
            connections: ConnectionMetrics::new(&registry),
            certificates: registry.counters(
                "certificates_reloaded",
                "Renewed certificates of links that were taken over, or could not be",
                ["outcome"],
            ),
            exports: Exports::new(&registry),
            tasks: Tasks::new(shutdown.clone()),
            health: Health::new(),
            shutdown,
            registry,
            announces: true,
        }
    }

    /// Makes a context without a process: nothing is printed, start-up counts as done, and the
    /// caller ends it with [`Context::finish`].
    #[must_use]
    pub fn for_test() -> Self {
        let context = Self { announces: false, ..Self::new("test") };
        context.health.set_started();
        context
    }

    /// Binds a listener between processes of ours, and announces it under `name`.
    ///
    /// # Errors
    ///
    /// If `security` does not allow it or the operating system refuses.
    pub async fn bind(
        &self,
        name: &'static str,
        endpoint: &Endpoint,
        security: &Security,
    ) -> Result<Listener, BindError> {
        let listener = Listener::bind(name, endpoint, security, self.connections.clone()).await?;
        self.announce(name, listener.local());
        Ok(listener)
    }

    /// Takes over the certificates of links when their files change: looks at once, and then every
    /// [`RELOAD`]. Files that cannot be used are logged and counted, and what was used is used on.
    pub fn follow_certificates(&self, security: &Security) {
        if security.tls().is_none() {
            return;
        }
        let (security, reloaded) = (security.clone(), self.certificates.clone());
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("certificates", async move {
            let mut ticks = interval(RELOAD);
            loop {
                tokio::select! {
                    _ = ticks.tick() => reload(&security, &reloaded).await,
                    () = shutdown.cancelled() => return Ok::<_, Infallible>(()),
                }
            }
        });
    }

    /// Says where a listener is, in the log and, in a process, as a line `listening NAME ADDRESS`
    /// on stdout, for whoever started it with port 0. For listeners that `bind` did not make.
    pub fn announce(&self, name: &'static str, address: &dyn fmt::Display) {
        info!(listener = name, %address, "listening");
        if self.announces {
            // Nobody may read it: a closed stdout does not stop a service.
            let _ = writeln!(io::stdout(), "listening {name} {address}");
        }
    }

    /// Asks the service to stop and waits for its tasks, as a process does at its end.
    ///
    /// # Errors
    ///
    /// The first failure of a task. Tasks that do not stop within `drain` are aborted.
    pub async fn finish(&self, drain: Duration) -> Result<(), Exit> {
        self.health.set_draining();
        self.shutdown.trigger();
        Ok(self.tasks.drain(Instant::now() + drain).await?)
    }

    /// Runs `body`, which sets the service up, and then waits for the end of the service: by a
    /// shutdown, or because `body` or a task failed. Whoever failed first is told.
    pub(crate) async fn supervise(
        &self,
        body: impl Future<Output = Result<(), Exit>>,
        drain: Duration,
    ) -> Result<(), Exit> {
        let mut body = std::pin::pin!(body);
        let set_up = tokio::select! {
            set_up = &mut body => Some(set_up),
            () = self.shutdown.cancelled() => None,
        };
        if matches!(set_up, Some(Ok(()))) && !self.tasks.is_empty() {
            self.health.set_started();
            self.shutdown.cancelled().await;
        }
        info!("draining");
        self.health.set_draining();
        self.shutdown.trigger();
        let deadline = Instant::now() + drain;
        match set_up {
            Some(Err(exit)) => {
                // What failed first is told; what fails because of it is not.
                let _ = self.tasks.drain(deadline).await;
                Err(exit)
            }
            Some(Ok(())) => Ok(self.tasks.drain(deadline).await?),
            None => {
                let late = timeout_at(deadline, body).await.unwrap_or_else(|_| {
                    warn!("the service was still starting at the drain deadline");
                    Ok(())
                });
                self.tasks.drain(deadline).await?;
                late
            }
        }
    }
}

/// What a process called `service` counts whose service registers with `register`: for
/// documentation.
#[must_use]
pub fn describe_metrics(service: &str, register: impl FnOnce(&Registry)) -> Vec<Described> {
    let context = Context::new(service);
    register(&context.registry);
    context.registry.described()
}

async fn reload(security: &Security, reloaded: &Family<Counter, 1>) {
    let security = security.clone();
    match spawn_blocking(move || security.reload()).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => {
            info!("the certificate of links was renewed");
            reloaded.get(["ok"]).inc();
        }
        Ok(Err(error)) => {
            error!(error = %Chain(&error), "the certificate of links was not renewed");
            reloaded.get(["failed"]).inc();
        }
        // The runtime ends.
        Err(_) => {}
    }
}
