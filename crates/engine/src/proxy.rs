//! The Engine API proxy: between a consensus client and its execution client, in both their
//! critical paths.
//!
//! What it decides: nothing about the chain. Every request is forwarded byte for byte, and what
//! comes back is handed on byte for byte. Two calls are shown to a service through
//! [`EngineHooks`]: forkchoiceUpdated, after the execution client has answered it, whose payload id
//! the service may replace by its own; and getPayload, which the service may answer itself.
//!
//! Invariants:
//! - A hook that panics, hangs or declines changes nothing: the request is answered by the
//!   execution client. For a getPayload that means the client's own payload under the client's own
//!   id, which the proxy remembers beside ours, and asks for at once: it ends the client's build, and
//!   is there when the hook has spent its time; or, with a [`ProxyConfig::payload_budget`], when that is
//!   spent: the timer is the door's, and a fault is counted later. Such a call is seen to its end,
//!   whoever waits for it, and not made again meanwhile: a client may forget what nobody took.
//! - Forwarding shares no lock, no queue and no thread with hooks: they run on the runtime in which
//!   the proxy was made, and the router may be served by another one.
//! - Forkchoice updates of every version reach the execution client one at a time in the order they
//!   came, and hooks see them in that order; of one that they do not see they are told. One that was
//!   sent is seen to its end, even if the consensus client hangs up meanwhile.
//! - After [`ProxyConfig::fault_limit`] faults within [`ProxyConfig::fault_window`] the hooks are
//!   left alone: *passthrough*, which an operator may also switch on, and only an operator switches
//!   off. What was begun before ends; nothing new is begun.
//! - What the proxy does not understand (a batch, a method, a version, an attribute) it forwards
//!   without asking the hooks.
//! - An id that we handed out is never sent to the execution client: in a request for its payload,
//!   whatever its version and even in a batch, the client's own id is written in its place.
//!
//! HTTP statuses: 401 for a bad token, what the execution client answered for everything forwarded,
//! and 200 for what we answer. If the execution client cannot be reached the answer is 502 or 504,
//! as a refused connection would be to a consensus client: something to try again, where a JSON-RPC
//! error would be final.

mod call;
mod guard;
mod hooks;
mod ids;
mod own;
mod passthrough;
mod place;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use alloy_rpc_types_engine::PayloadId;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::sleep;
use tracing::{Instrument as _, debug, warn};

pub use self::hooks::{EngineHooks, ForkchoiceCall, HookFuture};
pub use self::passthrough::{Passthrough, PassthroughCause};
pub use crate::version::{ForkchoiceVersion, PayloadVersion};

use self::call::{Call, Forkchoice, Unseen};
use self::guard::Guard;
use self::ids::PayloadIds;
use self::own::{Asked, OwnPayloads};
use self::passthrough::Switch;
use self::place::Place;
use crate::client::{EngineClient, EngineError, Forwarded};
use crate::door::{admit, json};
use crate::jwt::JwtSecret;
use crate::rpc::{self, RpcError};

/// The limits of a proxy.
#[derive(Clone, Copy, Debug)]
pub struct ProxyConfig {
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How long the execution client may take to answer a forwarded request.
    pub forward_deadline: Duration,
    /// How long a hook may take, its wait for earlier forkchoice updates included.
    pub hook_deadline: Duration,
    /// After this time a getPayload is answered with the execution client's own payload as soon as
    /// that is there, though its hook may take until its deadline. Without such a time, or such a
    /// payload, the hook is waited for.
    pub payload_budget: Option<Duration>,
    /// After this many faults of hooks within the window, passthrough; at least one.
    pub fault_limit: usize,
    /// How far apart those faults may be. A hook that fails in every slot is found out, whatever
    /// succeeds between.
    pub fault_window: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            body_limit: 128 * 1024 * 1024,
            forward_deadline: Duration::from_secs(60),
            hook_deadline: Duration::from_secs(1),
            payload_budget: None,
            fault_limit: 5,
            fault_window: Duration::from_secs(300),
        }
    }
}

/// What an operator wants to know of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Why and since when the hooks are left alone, if they are.
    pub passthrough: Option<Passthrough>,
    /// Hooks that panicked or ran out of time, since the start.
    pub faults: u64,
    /// Calls of an intercepted method that were forwarded unseen because they hold something that
    /// we do not know, or are of a version that came after those that we know.
    pub not_understood: u64,
    /// Requests that the execution client did not answer.
    pub unanswered: u64,
}

/// The proxy. Clones are the same proxy.
#[derive(Clone)]
pub struct EngineProxy(Arc<Proxy>);

struct Proxy {
    client: EngineClient,
    inbound: Arc<JwtSecret>,
    hooks: Arc<dyn EngineHooks>,
    config: ProxyConfig,
    switch: Arc<Switch>,
    guard: Guard,
    ids: PayloadIds,
    own: Arc<OwnPayloads>,
    /// Held while a forkchoice update is forwarded. Tokio's mutex is fair: first come, first sent.
    forwarding: Arc<Mutex<()>>,
    /// Held while a hook looks at a forkchoice update, or is told of one that it does not see.
    looking: Arc<Mutex<()>>,
    not_understood: AtomicU64,
    unanswered: AtomicU64,
}

impl EngineProxy {
    /// A proxy in front of `client`, for callers that hold the `inbound` secret.
    ///
    /// The hooks run on the runtime that this is called in.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn new(
        client: EngineClient,
        inbound: Arc<JwtSecret>,
        hooks: Arc<dyn EngineHooks>,
        config: ProxyConfig,
    ) -> Self {
        let switch = Arc::<Switch>::default();
        Self(Arc::new(Proxy {
            client,
            inbound,
            hooks,
            config,
            guard: Guard::new(&config, Arc::clone(&switch)),
            switch,
            ids: PayloadIds::default(),
            own: Arc::default(),
            forwarding: Arc::default(),
            looking: Arc::default(),
            not_understood: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }))
    }

    /// The door itself: any path, POST only.
    pub fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(Arc::clone(&self.0))
    }

    /// Leaves the hooks alone, because an operator says so. If they already are, the reason is
    /// replaced and the time stays.
    pub fn enter_passthrough(&self, reason: impl Into<String>) {
        self.0.switch.turn_on(PassthroughCause::Operator, reason.into());
    }

    /// Asks the hooks again, whoever said that they are to be left alone.
    pub fn leave_passthrough(&self) {
        self.0.guard.forgive();
        self.0.switch.turn_off();
    }

    /// Whether the hooks are left alone. While they are, a change is also seen whenever a hook
    /// ends that had been asked before: what it began is to be given up, too.
    pub fn watch_passthrough(&self) -> watch::Receiver<Option<Passthrough>> {
        self.0.switch.watch()
    }

    /// What the proxy has seen so far.
    pub fn status(&self) -> ProxyStatus {
        ProxyStatus {
            passthrough: self.0.switch.state(),
            faults: self.0.guard.faults(),
            not_understood: self.0.not_understood.load(Ordering::Relaxed),
            unanswered: self.0.unanswered.load(Ordering::Relaxed),
        }
    }
}

async fn serve(State(proxy): State<Arc<Proxy>>, request: http::Request<Body>) -> Response {
    match admit(request, Some(&proxy.inbound), proxy.config.body_limit).await {
        Ok((headers, body)) => proxy.answer(&headers, body).await,
        Err(refusal) => refusal,
    }
}

impl Proxy {
    async fn answer(self: &Arc<Self>, headers: &HeaderMap, body: Bytes) -> Response {
        match Call::parse(&body) {
            Call::Forkchoice { id, call } => {
                let (sent, headers) = (body.clone(), headers.clone());
                let update = |proxy: Arc<Self>, turn| async move {
                    proxy.forkchoice_updated(&headers, &sent, &id, *call, turn).await
                };
                self.in_turn(&body, update).await
            }
            Call::GetPayload { id, version, payload } => {
                self.get_payload(headers, &body, &id, version, payload).await
            }
            Call::NotUnderstood { method } => {
                self.not_understood(&method);
                self.pass(headers, &body).await
            }
            Call::Other => self.pass(headers, &body).await,
        }
    }

    /// Forwards what no hook is asked about, or what all of them left to the execution client.
    async fn pass(self: &Arc<Self>, headers: &HeaderMap, body: &Bytes) -> Response {
        let Unseen { body: sent, is_forkchoice } = Unseen::read(body, |ours| self.ids.theirs(ours));
        if !is_forkchoice {
            return self.hand_on(&self.forward(headers, sent).await, body);
        }
        let (asked, headers) = (body.clone(), headers.clone());
        let update = |proxy: Arc<Self>, turn: OwnedMutexGuard<()>| async move {
            let forwarded = proxy.forward(&headers, sent).await;
            proxy.unseen(Place::take(&proxy.looking).await, None);
            drop(turn);
            proxy.hand_on(&forwarded, &asked)
        };
        self.in_turn(body, update).await
    }

    /// Waits for the turn of a forkchoice update, which is nothing yet if the consensus client hangs
    /// up meanwhile. What comes then is a task of its own: what was sent is seen to its end.
    async fn in_turn<F>(
        self: &Arc<Self>,
        body: &Bytes,
        update: impl FnOnce(Arc<Self>, OwnedMutexGuard<()>) -> F,
    ) -> Response
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let turn = Arc::clone(&self.forwarding).lock_owned().await;
        let update = tokio::spawn(update(Arc::clone(self), turn).in_current_span());
        match update.await {
            Ok(answer) => answer,
            // It panicked: what became of the update is not known.
            Err(_) => self.unanswered(StatusCode::BAD_GATEWAY, body),
        }
    }

    /// Tells the hooks in their turn of a forkchoice update that they do not see. In passthrough
    /// there is nobody to be told: what was begun is given up.
    fn unseen(&self, mut place: Place, head: Option<B256>) {
        if self.switch.is_on() {
            return;
        }
        let hooks = Arc::clone(&self.hooks);
        self.guard.tell(async move {
            place.reached().await;
            hooks.forkchoice_unseen(head);
        });
    }

    fn not_understood(&self, method: &str) {
        if self.not_understood.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(method, "forwarded unseen: the call holds something unknown");
        }
    }

    async fn forkchoice_updated(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        id: &RawValue,
        call: ForkchoiceCall,
        turn: OwnedMutexGuard<()>,
    ) -> Response {
        let forwarded = self.forward(headers, body.clone()).await;
        // Before the next update may be sent, but let that one be sent before we wait.
        let mut place = Place::take(&self.looking).await;
        drop(turn);

        let head = call.state.head_block_hash;
        let Some(forkchoice) = forwarded.as_ref().ok().and_then(Forkchoice::parse) else {
            self.unseen(place, Some(head));
            return self.hand_on(&forwarded, body);
        };
        if forkchoice.is_valid_for_another_than(head) {
            self.not_understood(call.version.forkchoice_updated());
            self.unseen(place, Some(head));
            return self.hand_on(&forwarded, body);
        }
        let theirs = forkchoice.updated.payload_id;
        // What is built on this head has other attributes, unless none came.
        let missed = call.attributes.is_none().then_some(head);
        let hooks = Arc::clone(&self.hooks);
        let updated = forkchoice.updated.clone();
        let looked = self.guard.call("forkchoiceUpdated", async {
            place.reached().await;
            self.guard.apart(async move { hooks.forkchoice_updated(&call, &updated).await }).await
        });
        let looked = looked.await;
        if looked.is_none() {
            self.unseen(place, missed);
        }
        let ours = looked.flatten().filter(|_| forkchoice.updated.is_valid());
        if let Some(ours) = ours {
            self.ids.remember(ours, theirs);
        }
        match ours.filter(|ours| Some(*ours) != theirs) {
            Some(ours) => json(StatusCode::OK, forkchoice.with_payload_id(id, ours)),
            None => self.hand_on(&forwarded, body),
        }
    }

    async fn get_payload(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: &Bytes,
        id: &RawValue,
        version: PayloadVersion,
        payload: PayloadId,
    ) -> Response {
        let ask = || self.ask_for_own(headers, body, id, version, payload);
        // Before the hook is asked, and to its end even if the hook answers: it ends the client's
        // build.
        let mut theirs = self.ids.behind(payload).map(|_| ask());
        let proxy = Arc::clone(self);
        let mut hook = Box::pin(async move {
            let hooks = Arc::clone(&proxy.hooks);
            let asked = proxy.guard.apart(async move { hooks.get_payload(version, payload).await });
            proxy.guard.call("getPayload", asked).await.flatten()
        });
        let their_turn = async {
            let Some(budget) = self.config.payload_budget else { return pending().await };
            sleep(budget).await;
            // Where there is none, the hook's would be better than an error.
            if !theirs.get_or_insert_with(ask).is_payload().await {
                pending().await
            }
        };
        let ours = tokio::select! {
            biased;
            ours = &mut hook => ours,
            () = their_turn => {
                // Whether it is a fault shows at its deadline, and nobody waits for that.
                drop(tokio::spawn(hook.in_current_span()));
                None
            }
        };
        if let Some(ours) = ours {
            return json(StatusCode::OK, rpc::answer_body(Some(id), Ok(&ours)));
        }
        match theirs.unwrap_or_else(ask).answer(id).await {
            Some(outcome) => self.hand_on(&outcome, body),
            None => self.unanswered(StatusCode::BAD_GATEWAY, body),
        }
    }

    /// Asks the execution client for its own payload, unless it is being asked.
    fn ask_for_own(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        id: &RawValue,
        version: PayloadVersion,
        payload: PayloadId,
    ) -> Asked {
        let (client, headers) = (self.client.clone(), headers.clone());
        let Unseen { body: sent, .. } = Unseen::read(body, |ours| self.ids.theirs(ours));
        let deadline = self.config.forward_deadline;
        let call = async move { client.forward(sent, &headers, deadline).await };
        self.own.ask(version, payload, id, call)
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Result<Forwarded, EngineError> {
        self.client.forward(body, headers, self.config.forward_deadline).await
    }

    /// The answer as it came, or the status that says there was none.
    fn hand_on(&self, forwarded: &Result<Forwarded, EngineError>, body: &Bytes) -> Response {
        let error = match forwarded {
            // Our token was refused, not the caller's: a 401 would send its operator astray.
            Ok(Forwarded { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }) => {
                warn!(host = self.client.host(), "the execution client refused our token");
                return self.unanswered(StatusCode::BAD_GATEWAY, body);
            }
            Ok(Forwarded { status, content_type, body }) => {
                let mut response = json(*status, body.clone());
                if let Some(content_type) = content_type {
                    response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
                }
                return response;
            }
            Err(error) => error,
        };
        warn!(error = error as &dyn std::error::Error, "the execution client did not answer");
        let timed_out = matches!(error, EngineError::Timeout { .. });
        let status = if timed_out { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
        self.unanswered(status, body)
    }

    fn unanswered(&self, status: StatusCode, body: &Bytes) -> Response {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let id = call::id_of(body);
        debug!(%status, "answering for the execution client");
        let error = RpcError::internal("the execution client did not answer");
        json(status, rpc::answer_body(id.as_deref(), Err(&error)))
    }
}
