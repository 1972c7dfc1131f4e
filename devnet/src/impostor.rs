//! Whoever stands between validators and the payload server and changes what it says.
//!
//! A request is passed on as it is. The answer is altered, each time in another way, in the order of
//! [`LIES`]: cut off, a payload that is `null`, a state root that does not go with the hash, the block
//! of the slot before, and a block with another randomness that hashes to what it says. The last one is
//! valid by itself, and only whoever compares it with what was ordered finds out.
//!
//! What it cannot read, it passes on unaltered. Requests have at most [`MAX_REQUEST_BYTES`], answers at
//! most [`MAX_RESPONSE_BYTES`].

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use preconf_chain::ProposerPublicKey;
use preconf_engine::payload::{BesidePayload, PayloadError, from_payload, requests_hash};
use preconf_payload_api::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, PayloadRequest, PayloadResponse};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// What is done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It ends in the middle.
    CutOff,
    /// It has no payload.
    Null,
    /// Another state root, and the same hash.
    Root,
    /// The answer before.
    Stale,
    /// Another randomness, and the hash that goes with it.
    Randomness,
}

/// In this order.
const LIES: [Lie; 5] = [Lie::CutOff, Lie::Null, Lie::Root, Lie::Stale, Lie::Randomness];

/// A port that lies. Dropping it closes it.
#[derive(Debug)]
pub struct Impostor {
    at: SocketAddr,
    task: JoinHandle<()>,
}

struct Between {
    server: SocketAddr,
    client: Client<HttpConnector, Body>,
    /// Those who may have proposed the block before.
    proposers: Vec<ProposerPublicKey>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    lies: usize,
    /// The last answer, as it was.
    before: Option<Bytes>,
}

impl Impostor {
    /// Stands before the server at this address; the key of a block's parent's proposer is one of
    /// these.
    ///
    /// # Errors
    /// If nobody can listen.
    pub async fn open(server: SocketAddr, proposers: Vec<ProposerPublicKey>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = listener.local_addr()?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let between = Between { server, client, proposers, told: Mutex::default() };
        let router = Router::new().fallback(carry).with_state(Arc::new(between));
        let task = tokio::spawn(async move {
            // It ends with its owner.
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { at, task })
    }

    /// Where it listens.
    pub const fn at(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(State(between): State<Arc<Between>>, request: Request) -> Response {
    between.carry(request).await.unwrap_or_else(|| StatusCode::BAD_GATEWAY.into_response())
}

impl Between {
    /// None if there is no answer.
    async fn carry(&self, request: Request) -> Option<Response> {
        let (mut head, body) = request.into_parts();
        let asked = to_bytes(body, MAX_REQUEST_BYTES).await.ok()?;
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        head.uri = format!("http://{}{path}", self.server).parse().ok()?;
        let request = Request::from_parts(head, Body::from(asked.clone()));
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status();
        let said = to_bytes(Body::new(answer.into_body()), MAX_RESPONSE_BYTES).await.ok()?;
        let said = match PayloadRequest::decode(&asked) {
            Ok(asked) if status == StatusCode::OK => self.alter(&asked, said),
            Ok(_) | Err(_) => said,
        };
        let mut response = (status, said).into_response();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Some(response)
    }

    fn alter(&self, asked: &PayloadRequest, said: Bytes) -> Bytes {
        let (lie, before) = {
            let mut told = self.told.lock();
            let lie = LIES[told.lies % LIES.len()];
            told.lies += 1;
            (lie, told.before.replace(said.clone()))
        };
        let altered = match lie {
            Lie::CutOff => Some(said.slice(..said.len() / 2)),
            Lie::Null => with(&said, "/execution_payload", Value::Null),
            Lie::Root => {
                let root = format!("0x{}", "5a".repeat(32));
                with(&said, "/execution_payload/stateRoot", Value::String(root))
            }
            Lie::Stale => before,
            Lie::Randomness => self.other_randomness(asked, &said),
        };
        altered.unwrap_or(said)
    }

    fn other_randomness(&self, asked: &PayloadRequest, said: &Bytes) -> Option<Bytes> {
        let mut response = PayloadResponse::decode(said).ok()?;
        let requests = requests_hash(&response.execution_requests).ok()?;
        let read = |response: &PayloadResponse, key: Option<ProposerPublicKey>| {
            let beside = BesidePayload {
                parent_beacon_block_root: Some(asked.parent_block_root),
                requests_hash: Some(requests),
                prev_proposer_pubkey: key,
            };
            from_payload(response.execution_payload.clone(), &beside)
        };
        // Nobody proposed the genesis, and elsewhere than on Berachain there is no key.
        let keys = self.proposers.iter().copied().chain([ProposerPublicKey::ZERO]).map(Some);
        let key = keys.chain([None]).find(|key| read(&response, *key).is_ok())?;
        let payload = &mut response.execution_payload.payload_inner.payload_inner;
        payload.prev_randao = !payload.prev_randao;
        let Err(PayloadError::BlockHash { got, .. }) = read(&response, key) else { return None };
        response.execution_payload.payload_inner.payload_inner.block_hash = got;
        Some(response.to_json().into())
    }
}

/// The same JSON with another value at this place.
fn with(said: &Bytes, pointer: &str, value: Value) -> Option<Bytes> {
    let mut json: Value = serde_json::from_slice(said).ok()?;
    *json.pointer_mut(pointer)? = value;
    serde_json::to_vec(&json).ok().map(Bytes::from)
}
