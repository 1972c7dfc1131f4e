//! What the tests of this service talk to: a signer and an execution client that do as they are
//! told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, FixedBytes};
use axum::{Json, Router, routing::post};
use parking_lot::Mutex;
use preconf_chassis::{Context, Endpoint, Security, channel, grpc};
use preconf_primitives::{
    AbandonReason, Abandoned, Base, Digest, Epoch, Flashblock, FlashblockParts, Opening, PayloadId,
    Position, Retracted, Sealed, Seq,
};
use preconf_signing::{
    Head, Lease, OpenSession, OpenedSession, SignFlashblock, Signature, Signatures,
    SignedStatement, SignerRefusal, SignerRefusalReason, v2,
};
use preconf_wire::{
    feed::FeedItem,
    signer::{SealSession, SignerClient, SignerService, server},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tonic::service::Routes;

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How long the client waits for the fake signer.
const SIGNER_DEADLINE: Duration = Duration::from_millis(100);

/// A signer that signs flashblocks, and statements unless it was told otherwise.
#[derive(Default)]
pub(crate) struct FakeSigner {
    session: Mutex<Option<(u64, PayloadId)>>,
    sessions: AtomicU64,
    /// Statements are not answered.
    pub(crate) is_silent: AtomicBool,
    /// Statements are refused.
    pub(crate) refuses: AtomicBool,
    /// Another builder has the lease.
    pub(crate) is_held: AtomicBool,
    /// How many statements it was asked for.
    pub(crate) asked: watch::Sender<usize>,
    /// How long a lease lasts, whatever is asked for.
    pub(crate) granted: Option<Duration>,
    /// How often the lease was renewed.
    pub(crate) renewed: watch::Sender<usize>,
    /// How many statements it had been asked for when the lease was given back, if it was.
    pub(crate) released: Mutex<Option<usize>>,
}

impl FakeSigner {
    /// It has opened this many sessions, the last one for [`flashblock`]s.
    pub(crate) fn remember_session(&self, sessions: u64) {
        *self.session.lock() = Some((1, PayloadId::ZERO));
        self.sessions.store(sessions, Ordering::SeqCst);
    }

    /// Serves it until `context` ends, and returns a client. The directory holds the socket.
    pub(crate) async fn serve(self: &Arc<Self>, context: &Context) -> (SignerClient, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(directory.path().join("signer.sock"));
        let security = Security::default();
        let listener = context.bind("signer", &endpoint, &security).await.unwrap();
        let routes = Routes::new(server(self.clone()));
        context.tasks.spawn("signer", grpc::serve(listener, routes, context.shutdown.clone()));
        (SignerClient::new(channel(&endpoint, &security).unwrap(), SIGNER_DEADLINE), directory)
    }

    async fn statement<T>(&self, statement: T) -> Result<SignedStatement<T>, SignerRefusal> {
        self.asked.send_modify(|asked| *asked += 1);
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::SeqCst) {
            return Err(refusal(SignerRefusalReason::NotOpen));
        }
        Ok(SignedStatement { statement, seal: FixedBytes::ZERO })
    }
}

fn refusal(reason: SignerRefusalReason) -> SignerRefusal {
    SignerRefusal { reason, evidence: None, expected: None }
}

impl SignerService for FakeSigner {
    async fn head(&self) -> Result<Head, SignerRefusal> {
        Err(refusal(SignerRefusalReason::NotOpen))
    }

    async fn acquire_lease(&self, _: String, duration: Duration) -> Result<Lease, SignerRefusal> {
        if self.is_held.load(Ordering::SeqCst) {
            return Err(refusal(SignerRefusalReason::LeaseHeld));
        }
        let duration = self.granted.unwrap_or(duration);
        Ok(Lease { epoch: Epoch::new(1), duration, last_digest: Digest::ZERO })
    }

    async fn renew_lease(&self, _: Epoch) -> Result<Duration, SignerRefusal> {
        if self.is_held.load(Ordering::SeqCst) {
            return Err(refusal(SignerRefusalReason::LeaseLost));
        }
        self.renewed.send_modify(|renewed| *renewed += 1);
        Ok(self.granted.unwrap_or(DEADLINE))
    }

    async fn release_lease(&self, _: Epoch) -> Result<(), SignerRefusal> {
        *self.released.lock() = Some(*self.asked.borrow());
        Ok(())
    }

    async fn open_session(&self, request: OpenSession) -> Result<OpenedSession, SignerRefusal> {
        *self.session.lock() = Some((request.block_number, request.payload_id));
        let seq = Seq::new(self.sessions.fetch_add(1, Ordering::SeqCst) + 1);
        Ok(OpenedSession { seq, parent_digest: Digest::ZERO })
    }

    async fn sign(&self, request: SignFlashblock) -> Result<Signatures, SignerRefusal> {
        let SignFlashblock { position, hashes, published_at_ms, is_last, parent_digest, .. } =
            request;
        let session = *self.session.lock();
        let (block_number, payload_id) =
            session.ok_or_else(|| refusal(SignerRefusalReason::NotOpen))?;
        let content = v2::Content {
            position,
            block_number,
            payload_id,
            hashes,
            is_last,
            published_at_ms,
            parent_digest,
        };
        let (signature, seal) = (FixedBytes::ZERO, FixedBytes::ZERO);
        Ok(Signatures { digest: content.digest(), signature, seal })
    }

    async fn abandon(
        &self,
        _: Epoch,
        seq: Seq,
        reason: AbandonReason,
    ) -> Result<SignedStatement<Abandoned>, SignerRefusal> {
        let last_digest = Digest::ZERO;
        self.statement(Abandoned { seq, block_number: 1, last_digest, reason }).await
    }

    async fn seal(&self, request: SealSession) -> Result<SignedStatement<Sealed>, SignerRefusal> {
        let SealSession { seq, block_hash, state_root, .. } = request;
        let last_digest = Digest::ZERO;
        self.statement(Sealed { seq, block_number: 1, last_digest, block_hash, state_root }).await
    }

    async fn retract(
        &self,
        _: Epoch,
        retracted: Retracted,
    ) -> Result<SignedStatement<Retracted>, SignerRefusal> {
        self.statement(retracted).await
    }

    async fn evidence(&self, _: Position) -> Result<Option<Signatures>, SignerRefusal> {
        Ok(None)
    }
}

/// Serves JSON-RPC until the runtime of the test ends: `answer` gets method and parameters; without
/// an answer it is an error.
pub(crate) async fn execution_client(
    answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
) -> url::Url {
    let answer = Arc::new(answer);
    let router = Router::new().fallback(post(move |Json(request): Json<Value>| {
        let answer = answer.clone();
        async move {
            let one = |request: &Value| {
                let method = request["method"].as_str().unwrap_or_default();
                let id = &request["id"];
                match answer(method, &request["params"]) {
                    Some(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
                    // A payload that it has not is one that it does not know.
                    None => {
                        let is_payload = method.starts_with("engine_getPayload");
                        let code = if is_payload { -38001 } else { -32000 };
                        let error = json!({"code": code, "message": "not now"});
                        json!({"jsonrpc": "2.0", "id": id, "error": error})
                    }
                }
            };
            Json(match request.as_array() {
                Some(batch) => Value::Array(batch.iter().map(one).collect()),
                None => one(&request),
            })
        }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

pub(crate) fn at(seq: u64, index: u64) -> Position {
    Position::new(Seq::new(seq), index)
}

/// An empty flashblock of block 1.
pub(crate) fn flashblock(position: Position) -> Flashblock {
    let base = Base {
        parent_beacon_block_root: B256::ZERO,
        parent_hash: B256::ZERO,
        fee_recipient: Default::default(),
        prev_randao: B256::ZERO,
        block_number: 1,
        gas_limit: 1,
        timestamp: 1,
        extra_data: Default::default(),
        base_fee_per_gas: 1,
        prev_proposer_pubkey: None,
    };
    let flashblock = Flashblock::new(FlashblockParts {
        payload_id: PayloadId::ZERO,
        position,
        block_number: 1,
        opening: (position.index == 0).then(|| Opening { base, withdrawals: vec![] }),
        transactions: vec![],
        is_last: false,
        published_at_ms: 0,
        traceparent: None,
        parent_digest: Digest::ZERO,
    });
    flashblock.unwrap()
}

/// A hash that says nothing.
pub(crate) fn hash(number: u8) -> B256 {
    B256::repeat_byte(number)
}

/// The end of a session, which nobody has signed.
pub(crate) fn abandoned(seq: u64) -> FeedItem {
    let statement = Abandoned {
        seq: Seq::new(seq),
        block_number: 1,
        last_digest: Digest::ZERO,
        reason: AbandonReason::HeadChanged,
    };
    FeedItem::Abandoned(SignedStatement { statement, seal: Signature::ZERO })
}
