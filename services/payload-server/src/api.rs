//! The requests, checked in beacon-kit's order: method, token, whitelist, body, turn, payload. Our
//! quota comes as soon as it is known whose it is; how many payloads he is being sent counts once one
//! is owed to him.
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
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use preconf_chassis::Chain;
use preconf_payload_api::{
    HEALTH_PATH, PAYLOAD_PATH, PayloadRequest, PayloadResponse, RequestBody, bearer,
};
use preconf_telemetry::{LogLimit, span_with_headers};
use preconf_wire::payload::{Absence, PayloadsClient, PayloadsError};
use tracing::{Instrument, Span, field, info, info_span, warn};

use crate::{
    Clock,
    answer::{self, Refusal},
    asked::{Asked, Question},
    health::Healths,
    metrics::Metrics,
    port::Visitor,
    quota::{Place, Quotas},
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

/// A payload that is going to be sent.
struct Served {
    payload: PayloadResponse,
    place: Place,
}

impl Api {
    pub(crate) fn complaints() -> Mutex<LogLimit> {
        Mutex::new(LogLimit::new(COMPLAINTS))
    }

    /// The two paths. A slash at the end does not matter, nor one more at the beginning: beacon-kit's
    /// client puts one there if the URL that it was given ends with a slash.
    pub(crate) fn router(self) -> Router {
        let mut router = Router::new();
        for (path, method) in [(PAYLOAD_PATH, any(payload)), (HEALTH_PATH, any(health))] {
            for path in [path.to_owned(), format!("{path}/"), format!("/{path}")] {
                router = router.route(&path, method.clone());
            }
        }
        router.fallback(async || answer::not_found()).with_state(Arc::new(self))
    }

    /// `span` becomes that of the request as soon as it is a validator's: strangers have no part in
    /// our traces.
    async fn serve(&self, request: Request, span: &mut Span) -> Result<Served, Refusal> {
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
        if let Some(visitor) = request.extensions().get::<Visitor>() {
            visitor.is_no_stranger();
        }
        *span =
            info_span!("payload", otel.kind = "server", slot = field::Empty, result = field::Empty);
        span_with_headers(span, request.headers());
        self.serve_validator(&caller, request.into_body()).instrument(span.clone()).await
    }

    async fn serve_validator(&self, caller: &Caller, body: Body) -> Result<Served, Refusal> {
        let (validator, wanted) = (caller.pubkey, read(body).await?);
        Span::current().record("slot", wanted.slot);
        self.check_turn(caller, wanted.slot).await?;
        info!(%validator, slot = wanted.slot, "Preconf server received payload request");
        let place = self.quotas.lock().place(validator).ok_or(Refusal::TooMany)?;
        Ok(Served { payload: self.fetch(wanted).await?, place })
    }

    /// The validator whose token this is.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let token = bearer(headers).inspect_err(|error| self.complain(error))?;
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
        let slot = wanted.slot;
        let question = Question::new(&self.metrics.builder_seconds, slot);
        let span = info_span!("preconf.payload.v1.Payloads/GetPayload", otel.kind = "client");
        let answered = self.builder.payload(wanted, self.builder_deadline).instrument(span).await;
        let elapsed = question.answered();
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
    let mut asked = Asked::new(&api.metrics);
    match written(api.serve(request, &mut asked.span).await).await {
        Ok((text, place)) => {
            asked.served();
            answer::payload(text, Some(place), &api.metrics.requests)
        }
        Err(refusal) => {
            asked.refused(refusal.result());
            refusal.answer()
        }
    }
}

/// Blobs make it megabytes: longer than a thread of the runtime may be held.
async fn written(served: Result<Served, Refusal>) -> Result<(Vec<u8>, Place), Refusal> {
    let Served { payload, place } = served?;
    let writing = tokio::task::spawn_blocking(move || (payload.to_json(), place));
    writing.await.map_err(|_| Refusal::Internal)
}

async fn health(State(api): State<Arc<Api>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return Refusal::Method.answer();
    }
    answer::health(api.healths.now())
}

/// What is wanted.
async fn read(mut body: Body) -> Result<PayloadRequest, Refusal> {
    let mut taken = RequestBody::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::BadRequest(Chain(&error).to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if !taken.take(&data) {
            break;
        }
    }
    Ok(taken.read()?)
}
