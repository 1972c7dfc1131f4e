//! Whether a process is alive, has started, and can do its work.
//!
//! Three questions with three answers, because those who ask do different things with them. Alive:
//! it answers at all; it depends on no peer, since restarting would not help. Started: the service
//! is set up. Ready: it has started, is not draining, and every [`Check`] is ready. A check is not
//! ready until its owner says so.
//!
//! Served in plaintext on a port that serves nothing else: `/livez`, `/readyz` and `/metrics` over
//! HTTP, and `grpc.health.v1` for the services `liveness`, `readiness`, `startup` and the empty
//! name, which means readiness.

use std::{pin::Pin, sync::Arc};

use axum::{
    Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing,
};
use futures_util::{Stream, StreamExt, future, stream};
use preconf_telemetry::{Registry, metrics};
use tokio::sync::watch;
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as HealthService, HealthServer},
};
use tracing::{info, warn};

/// The health of one process. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<Condition>>,
}

#[derive(Debug, Default)]
struct Condition {
    started: bool,
    draining: bool,
    checks: Vec<(&'static str, Readiness)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Readiness {
    Ready,
    NotReady(String),
}

impl Condition {
    /// What keeps the process from being ready, one line each.
    fn obstacles(&self) -> Vec<String> {
        let phase = match (self.started, self.draining) {
            (_, true) => Some("process: draining".to_owned()),
            (false, false) => Some("process: starting".to_owned()),
            (true, false) => None,
        };
        let failing = self.checks.iter().filter_map(|(name, readiness)| match readiness {
            Readiness::Ready => None,
            Readiness::NotReady(reason) => Some(format!("{name}: {reason}")),
        });
        phase.into_iter().chain(failing).collect()
    }
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { state: Arc::new(watch::Sender::default()) }
    }

    /// Adds something that the process needs in order to be ready. It is not ready yet.
    #[must_use]
    pub fn check(&self, name: &'static str) -> Check {
        let mut at = 0;
        self.state.send_modify(|condition| {
            at = condition.checks.len();
            condition.checks.push((name, Readiness::NotReady("not yet".to_owned())));
        });
        Check { health: self.clone(), name, at }
    }

    /// Whether the process can do its work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().obstacles().is_empty()
    }

    /// Waits until the process can do its work.
    pub async fn until_ready(&self) {
        let mut changes = self.state.subscribe();
        let ready = changes.wait_for(|condition| condition.obstacles().is_empty());
        ready.await.map(drop).expect("the sender is `self`, which outlives the wait");
    }

    pub(crate) fn set_started(&self) {
        self.state.send_modify(|condition| condition.started = true);
    }

    pub(crate) fn set_draining(&self) {
        self.state.send_modify(|condition| condition.draining = true);
    }
}

/// One thing that the process needs in order to be ready. Clones are the same thing.
#[derive(Clone, Debug)]
pub struct Check {
    health: Health,
    name: &'static str,
    at: usize,
}

impl Check {
    /// It is there.
    pub fn ready(&self) {
        if self.set(Readiness::Ready) {
            info!(check = self.name, "ready");
        }
    }

    /// It is not there, because of `reason`, which a probe sees.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.set(Readiness::NotReady(reason.clone())) {
            warn!(check = self.name, reason, "not ready");
        }
    }

    /// Says whether this was news.
    fn set(&self, readiness: Readiness) -> bool {
        self.health.state.send_if_modified(|condition| {
            let (_, current) = &mut condition.checks[self.at];
            let changed = *current != readiness;
            *current = readiness;
            changed
        })
    }
}

/// Everything that the health port serves.
pub(crate) fn routes(health: &Health, registry: &Registry) -> Routes {
    let probes = Router::new()
        .route("/livez", routing::get(|| async { "ok\n" }))
        .route("/readyz", routing::get(readyz).with_state(health.clone()))
        .route("/metrics", routing::get(scrape).with_state(registry.clone()));
    Routes::from(probes).add_service(HealthServer::new(Probes(health.clone())))
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let obstacles = health.state.borrow().obstacles();
    if obstacles.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n")
    }
}

async fn scrape(State(registry): State<Registry>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], registry.encode())
}

/// `grpc.health.v1`, answered from the same state as the HTTP probes.
struct Probes(Health);

#[derive(Clone, Copy)]
enum Question {
    Liveness,
    Readiness,
    Startup,
}

impl Question {
    fn parse(service: &str) -> Option<Self> {
        match service {
            "" | "readiness" => Some(Self::Readiness),
            "liveness" => Some(Self::Liveness),
            "startup" => Some(Self::Startup),
            _ => None,
        }
    }

    fn answer(self, condition: &Condition) -> ServingStatus {
        let yes = match self {
            Self::Liveness => true,
            Self::Readiness => condition.obstacles().is_empty(),
            Self::Startup => condition.started,
        };
        if yes { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

fn respond(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthService for Probes {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let HealthCheckRequest { service } = request.into_inner();
        let question =
            Question::parse(&service).ok_or_else(|| Status::not_found("no such health service"))?;
        Ok(Response::new(respond(question.answer(&self.0.state.borrow()))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let HealthCheckRequest { service } = request.into_inner();
        let Some(question) = Question::parse(&service) else {
            let unknown = Ok(respond(ServingStatus::ServiceUnknown));
            let forever = stream::once(future::ready(unknown)).chain(stream::pending());
            return Ok(Response::new(Box::pin(forever)));
        };
        let changes = stream::unfold(
            (self.0.state.subscribe(), None),
            move |(mut changes, last)| async move {
                loop {
                    let status = question.answer(&changes.borrow_and_update());
                    if last != Some(status) {
                        return Some((Ok(respond(status)), (changes, Some(status))));
                    }
                    changes.changed().await.ok()?;
                }
            },
        );
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn readiness_needs_every_check_and_a_process_that_has_started() {
        let health = Health::new();
        let (upstream, signer) = (health.check("upstream"), health.check("signer"));
        assert_eq!(
            readyz(&health).await,
            (503, "process: starting\nupstream: not yet\nsigner: not yet\n".to_owned())
        );

        health.set_started();
        upstream.ready();
        signer.not_ready("connection refused");
        assert_eq!(readyz(&health).await, (503, "signer: connection refused\n".to_owned()));

        signer.ready();
        assert_eq!(readyz(&health).await, (200, "ok\n".to_owned()));
        assert!(health.is_ready());

        upstream.not_ready("stream ended");
        assert!(!health.is_ready());

        upstream.ready();
        health.set_draining();
        assert_eq!(readyz(&health).await, (503, "process: draining\n".to_owned()));
    }

    #[tokio::test]
    async fn liveness_does_not_depend_on_peers() {
        let health = Health::new();
        health.check("upstream").not_ready("gone");

        assert_eq!(get(&health, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(grpc(&health, "liveness").await, Ok(ServingStatus::Serving));
        assert_eq!(grpc(&health, "startup").await, Ok(ServingStatus::NotServing));
        for readiness in ["", "readiness"] {
            assert_eq!(grpc(&health, readiness).await, Ok(ServingStatus::NotServing));
        }
        assert_eq!(grpc(&health, "preconf.feed.v1.Feed").await, Err(Code::NotFound));
    }

    #[tokio::test]
    async fn a_watcher_sees_each_change_of_its_answer_once() {
        let health = Health::new();
        let check = health.check("upstream");
        let request = HealthCheckRequest { service: "readiness".to_owned() };
        let probes = Probes(health.clone());
        let mut watch = probes.watch(Request::new(request)).await.unwrap().into_inner();
        let mut next = async || watch.next().await.unwrap().unwrap().status();

        assert_eq!(next().await, ServingStatus::NotServing);
        check.not_ready("a new reason is no change of the answer");
        health.set_started();
        check.ready();
        assert_eq!(next().await, ServingStatus::Serving);
        check.not_ready("gone");
        assert_eq!(next().await, ServingStatus::NotServing);
    }

    #[tokio::test]
    async fn waiting_for_readiness_ends_when_the_last_check_is_ready() {
        let health = Health::new();
        health.set_started();
        let check = health.check("upstream");
        let waiting = health.clone();
        let waiting = tokio::spawn(async move { waiting.until_ready().await });

        check.ready();

        let deadline = std::time::Duration::from_secs(10);
        tokio::time::timeout(deadline, waiting).await.unwrap().unwrap();
    }

    async fn readyz(health: &Health) -> (u16, String) {
        get(health, "/readyz").await
    }

    async fn get(health: &Health, path: &str) -> (u16, String) {
        let request = http::Request::get(path).body(tonic::body::Body::empty()).unwrap();
        let routes = routes(health, &Registry::new("test"));
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn grpc(health: &Health, service: &str) -> Result<ServingStatus, Code> {
        let request = HealthCheckRequest { service: service.to_owned() };
        match Probes(health.clone()).check(Request::new(request)).await {
            Ok(response) => Ok(response.into_inner().status()),
            Err(status) => Err(status.code()),
        }
    }
}
