//! The requests, checked in beacon-kit's order: method, token, whitelist, body, turn, payload. Our
//! quota comes as soon as it is known whose it is.
//!
//! Who may not know anything is told nothing of what comes later: a body is read only of a validator
//! on the whitelist, and the builder is asked only for the one whose turn it is. Asking seals the
//! block, so nobody else can end a build.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use http::{HeaderMap, Method, header::AUTHORIZATION};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use preconf_chassis::Chain;
use preconf_payload_api::{
    HEALTH_PATH, MAX_REQUEST_BYTES, PAYLOAD_PATH, PayloadRequest, PayloadResponse, RequestError,
};
use preconf_telemetry::LogLimit;
use preconf_wire::payload::{Absence, PayloadsClient, PayloadsError};
use tracing::{Instrument, info, info_span, warn};

use crate::{
    Clock,
    answer::{self, Refusal},
    health::Healths,
    metrics::Metrics,
    quota::Quotas,
    turns::Turns,
    validators::{Caller, Validators},
};

/// How long a request waits for the announcement that it is its validator's turn.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);
/// How often a stranger's refusal is logged.
const COMPLAINTS: Duration = Duration::from_secs(1);

/// All that requests share.
pub(crate) struct Api {
    pub(crate) validators: Validators,
    pub(crate) quotas: Mutex<Quotas>,
    pub(crate) turns: Turns,
    pub(crate) builder: PayloadsClient,
    pub(crate) builder_deadline: Duration,
    pub(crate) healths: Healths,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) complaints: Mutex<LogLimit>,
}

impl Api {
    pub(crate) fn complaints() -> Mutex<LogLimit> {
        Mutex::new(LogLimit::new(COMPLAINTS))
    }

    /// The two paths, with and without a slash at the end.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route(PAYLOAD_PATH, any(payload))
            .route(&format!("{PAYLOAD_PATH}/"), any(payload))
            .route(HEALTH_PATH, any(health))
            .route(&format!("{HEALTH_PATH}/"), any(health))
            .fallback(async || answer::not_found())
            .with_state(Arc::new(self))
    }

    async fn serve(&self, request: Request) -> Result<PayloadResponse, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::Method);
        }
        let caller = self.caller(request.headers())?;
        let validator = caller.pubkey;
        if !self.quotas.lock().take(validator, Instant::now()) {
            return Err(Refusal::TooMany);
        }
        if !caller.is_whitelisted {
            warn!(%validator, "Validator not whitelisted");
            return Err(Refusal::NotWhitelisted);
        }
        let wanted = read(request.into_body()).await?;
        self.check_turn(&caller, wanted.slot).await?;
        info!(%validator, slot = wanted.slot, "Preconf server received payload request");
        let span = info_span!("payload", slot = wanted.slot);
        self.fetch(wanted).instrument(span).await
    }

    /// The validator whose token this is.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let token = bearer(headers).inspect_err(|refusal| self.complain(refusal))?;
        self.validators.identify(token, (self.clock)()).map_err(|error| {
            self.complain(&error);
            Refusal::Token
        })
    }

    /// Anybody can be refused as often as he likes.
    fn complain(&self, reason: &(dyn std::error::Error + 'static)) {
        if let Some(suppressed) = self.complaints.lock().admit(Instant::now()) {
            warn!(error = %Chain(reason), suppressed, "JWT validation failed");
        }
    }

    async fn check_turn(&self, caller: &Caller, slot: u64) -> Result<(), Refusal> {
        let is_turn = match caller.address {
            Some(address) => self.turns.is_of(slot, address, PATIENCE).await,
            None => false,
        };
        self.metrics.turns.get([if is_turn { "true" } else { "false" }]).inc();
        if is_turn {
            return Ok(());
        }
        let validator = caller.pubkey;
        warn!(%validator, slot, "Validator is not the expected proposer for slot");
        Err(Refusal::WrongProposer)
    }

    async fn fetch(&self, wanted: PayloadRequest) -> Result<PayloadResponse, Refusal> {
        let begun = Instant::now();
        let answered = self.builder.payload(wanted, self.builder_deadline).await;
        let elapsed = begun.elapsed();
        self.metrics.builder_seconds.observe(elapsed.as_secs_f64());
        let slot = wanted.slot;
        match answered {
            Ok(payload) => {
                let block_hash = payload.execution_payload.payload_inner.payload_inner.block_hash;
                info!(slot, ?elapsed, %block_hash, "GetPayloadBySlot completed");
                Ok(payload)
            }
            Err(error) => {
                warn!(slot, ?elapsed, error = %Chain(&error), "Failed to get payload");
                Err(match error {
                    PayloadsError::Absent(Absence::NoBuild) => Refusal::NoBuild,
                    PayloadsError::Absent(Absence::NotAvailable) => Refusal::NotAvailable,
                    PayloadsError::Absent(Absence::Unspecified) => Refusal::Unspecified,
                    PayloadsError::Failed(_)
                    | PayloadsError::Unavailable(_)
                    | PayloadsError::Invalid(_) => Refusal::Internal,
                })
            }
        }
    }
}

async fn payload(State(api): State<Arc<Api>>, request: Request) -> Response {
    let begun = Instant::now();
    let (result, answer) = match written(api.serve(request).await).await {
        Ok(text) => ("ok", answer::payload(text, &api.metrics.requests)),
        Err(refusal) => {
            let result = refusal.result();
            api.metrics.requests.get([result]).inc();
            (result, refusal.answer())
        }
    };
    api.metrics.request_seconds.get([result]).observe(begun.elapsed().as_secs_f64());
    answer
}

/// Blobs make it megabytes: longer than a thread of the runtime may be held.
async fn written(served: Result<PayloadResponse, Refusal>) -> Result<Vec<u8>, Refusal> {
    let payload = served?;
    tokio::task::spawn_blocking(move || payload.to_json()).await.map_err(|_| Refusal::Internal)
}

async fn health(State(api): State<Arc<Api>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return Refusal::Method.answer();
    }
    answer::health(api.healths.now())
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(AUTHORIZATION).filter(|value| !value.is_empty());
    let value = value.ok_or(Refusal::NoToken)?.to_str().map_err(|_| Refusal::TokenForm)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token),
        Some(_) | None => Err(Refusal::TokenForm),
    }
}

/// What is wanted. Bytes after it are of no interest, if they are not too many to see where it ends.
async fn read(mut body: Body) -> Result<PayloadRequest, Refusal> {
    let mut bytes = Vec::new();
    let mut has_more = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::BadRequest(Chain(&error).to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = MAX_REQUEST_BYTES - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(room)]);
        has_more = data.len() > room;
        if has_more {
            break;
        }
    }
    match PayloadRequest::decode(&bytes) {
        Err(RequestError::Empty | RequestError::Truncated) if has_more => Err(Refusal::TooLarge),
        decoded => Ok(decoded?),
    }
}
