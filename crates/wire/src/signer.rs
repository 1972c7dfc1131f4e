//! The signer's door: it is asked for leases, sessions and signatures, and may refuse.
//!
//! A refusal travels as `FAILED_PRECONDITION` with its reason, evidence and expectation in the
//! status details.

use std::{future::Future, sync::Arc, time::Duration};

use preconf_primitives::{AbandonReason, Abandoned, Epoch, Position, Retracted, Sealed, Seq};
use preconf_signing::{
    Head, Lease, OpenSession, OpenedSession, PublicKey, SignFlashblock, Signatures,
    SignedStatement, SignerRefusal, SignerRefusalReason, v2::ContentHashes,
};
use prost::Message;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Channel};

use crate::{
    convert::{
        Invalid, InvalidScope, abandon_reason, bytes, digest, fixed, list, required, signature,
    },
    generated::signer::v1 as proto,
};

/// A retraction list is the largest thing the signer is sent.
const MAX_SIGNER_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of a holder's name.
const MAX_HOLDER_BYTES: usize = 64;
/// The most retractions in one list: as many as a flashblock has transactions.
const MAX_RETRACTIONS: usize = preconf_primitives::MAX_FLASHBLOCK_TRANSACTIONS;

/// Why the signer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It refused.
    #[error(transparent)]
    Refused(SignerRefusal),
    /// It could not be reached in time, or failed.
    #[error("the signer did not answer")]
    Unavailable(#[source] Box<Status>),
    /// Its answer has no meaning.
    #[error("the signer's answer is not valid")]
    Invalid(#[source] Invalid),
}

/// Ends the open session with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealSession {
    /// The lease.
    pub epoch: Epoch,
    /// The session.
    pub seq: Seq,
    /// The hash of the sealed block.
    pub block_hash: alloy_primitives::B256,
    /// Its state root.
    pub state_root: alloy_primitives::B256,
}

/// What a signer does. The caller is known to the transport, not to this trait.
pub trait SignerService: Send + Sync + 'static {
    /// Who signs, and how far it has come.
    fn head(&self) -> impl Future<Output = Result<Head, SignerRefusal>> + Send;
    /// Takes the right to build.
    fn acquire_lease(
        &self,
        holder: String,
        duration: Duration,
    ) -> impl Future<Output = Result<Lease, SignerRefusal>> + Send;
    /// Keeps it.
    fn renew_lease(
        &self,
        epoch: Epoch,
    ) -> impl Future<Output = Result<Duration, SignerRefusal>> + Send;
    /// Gives it back, for anyone to take at once.
    fn release_lease(&self, epoch: Epoch)
    -> impl Future<Output = Result<(), SignerRefusal>> + Send;
    /// Opens a session.
    fn open_session(
        &self,
        request: OpenSession,
    ) -> impl Future<Output = Result<OpenedSession, SignerRefusal>> + Send;
    /// Signs the next flashblock.
    fn sign(
        &self,
        request: SignFlashblock,
    ) -> impl Future<Output = Result<Signatures, SignerRefusal>> + Send;
    /// Ends the open session without a block.
    fn abandon(
        &self,
        epoch: Epoch,
        seq: Seq,
        reason: AbandonReason,
    ) -> impl Future<Output = Result<SignedStatement<Abandoned>, SignerRefusal>> + Send;
    /// Ends the open session with a block.
    fn seal(
        &self,
        request: SealSession,
    ) -> impl Future<Output = Result<SignedStatement<Sealed>, SignerRefusal>> + Send;
    /// Signs a list of retractions.
    fn retract(
        &self,
        epoch: Epoch,
        retracted: Retracted,
    ) -> impl Future<Output = Result<SignedStatement<Retracted>, SignerRefusal>> + Send;
    /// What was signed at a position; `None` if nothing was, or it is forgotten.
    fn evidence(
        &self,
        position: Position,
    ) -> impl Future<Output = Result<Option<Signatures>, SignerRefusal>> + Send;
}

/// The gRPC service of a [`SignerService`].
pub fn server<S: SignerService>(service: Arc<S>) -> SignerGrpc<S> {
    proto::signer_server::SignerServer::new(Adapter(service))
        .max_decoding_message_size(MAX_SIGNER_BYTES)
        .max_encoding_message_size(MAX_SIGNER_BYTES)
}

/// The gRPC service type of a [`SignerService`].
pub type SignerGrpc<S> = proto::signer_server::SignerServer<Adapter<S>>;

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct Adapter<S>(Arc<S>);

#[tonic::async_trait]
impl<S: SignerService> proto::signer_server::Signer for Adapter<S> {
    async fn get_head(
        &self,
        _request: Request<proto::GetHeadRequest>,
    ) -> Result<Response<proto::GetHeadResponse>, Status> {
        let head = self.0.head().await.map_err(refusal)?;
        Ok(Response::new(head.into()))
    }

    async fn acquire_lease(
        &self,
        request: Request<proto::AcquireLeaseRequest>,
    ) -> Result<Response<proto::AcquireLeaseResponse>, Status> {
        let proto::AcquireLeaseRequest { holder, duration_ms } = request.into_inner();
        at_most("holder", holder.len(), MAX_HOLDER_BYTES)?;
        let duration = Duration::from_millis(duration_ms);
        let lease = self.0.acquire_lease(holder, duration).await.map_err(refusal)?;
        Ok(Response::new(lease.into()))
    }

    async fn renew_lease(
        &self,
        request: Request<proto::RenewLeaseRequest>,
    ) -> Result<Response<proto::RenewLeaseResponse>, Status> {
        let proto::RenewLeaseRequest { epoch } = request.into_inner();
        let duration = self.0.renew_lease(Epoch::new(epoch)).await.map_err(refusal)?;
        Ok(Response::new(proto::RenewLeaseResponse { duration_ms: millis(duration) }))
    }

    async fn release_lease(
        &self,
        request: Request<proto::ReleaseLeaseRequest>,
    ) -> Result<Response<proto::ReleaseLeaseResponse>, Status> {
        let proto::ReleaseLeaseRequest { epoch } = request.into_inner();
        self.0.release_lease(Epoch::new(epoch)).await.map_err(refusal)?;
        Ok(Response::new(proto::ReleaseLeaseResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<proto::OpenSessionRequest>,
    ) -> Result<Response<proto::OpenSessionResponse>, Status> {
        let request = OpenSession::try_from(request.into_inner())?;
        let OpenedSession { seq, parent_digest } =
            self.0.open_session(request).await.map_err(refusal)?;
        Ok(Response::new(proto::OpenSessionResponse {
            seq: seq.get(),
            parent_digest: bytes(parent_digest.get().as_slice()),
        }))
    }

    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        let request = SignFlashblock::try_from(request.into_inner())?;
        let signatures = self.0.sign(request).await.map_err(refusal)?;
        let proto::GetEvidenceResponse { digest, signature, seal } = (&signatures).into();
        Ok(Response::new(proto::SignResponse { digest, signature, seal }))
    }

    async fn abandon(
        &self,
        request: Request<proto::AbandonRequest>,
    ) -> Result<Response<proto::AbandonResponse>, Status> {
        let proto::AbandonRequest { epoch, seq, reason } = request.into_inner();
        let reason = abandon_reason("reason", reason)?;
        let (epoch, seq) = (Epoch::new(epoch), Seq::new(seq));
        let abandoned = self.0.abandon(epoch, seq, reason).await.map_err(refusal)?;
        Ok(Response::new(proto::AbandonResponse { abandoned: Some((&abandoned).into()) }))
    }

    async fn seal(
        &self,
        request: Request<proto::SealRequest>,
    ) -> Result<Response<proto::SealResponse>, Status> {
        let proto::SealRequest { epoch, seq, block_hash, state_root } = request.into_inner();
        let request = SealSession {
            epoch: Epoch::new(epoch),
            seq: Seq::new(seq),
            block_hash: fixed("block_hash", &block_hash)?,
            state_root: fixed("state_root", &state_root)?,
        };
        let sealed = self.0.seal(request).await.map_err(refusal)?;
        Ok(Response::new(proto::SealResponse { sealed: Some((&sealed).into()) }))
    }

    async fn retract(
        &self,
        request: Request<proto::RetractRequest>,
    ) -> Result<Response<proto::RetractResponse>, Status> {
        let proto::RetractRequest { epoch, at, block_number, retractions } = request.into_inner();
        at_most("retractions", retractions.len(), MAX_RETRACTIONS)?;
        let retracted = Retracted {
            at: required("at", at)?.into(),
            block_number,
            retractions: list("retractions", retractions)?,
        };
        let retracted = self.0.retract(Epoch::new(epoch), retracted).await.map_err(refusal)?;
        Ok(Response::new(proto::RetractResponse { retracted: Some((&retracted).into()) }))
    }

    async fn get_evidence(
        &self,
        request: Request<proto::GetEvidenceRequest>,
    ) -> Result<Response<proto::GetEvidenceResponse>, Status> {
        let proto::GetEvidenceRequest { position } = request.into_inner();
        let position = Position::from(required("position", position)?);
        let evidence = self.0.evidence(position).await.map_err(refusal)?;
        match evidence {
            Some(signatures) => Ok(Response::new((&signatures).into())),
            None => Err(Status::not_found(format!("nothing is known to be signed at {position}"))),
        }
    }
}

/// Asks a signer.
#[derive(Clone, Debug)]
pub struct SignerClient {
    client: proto::signer_client::SignerClient<Channel>,
    deadline: Duration,
    inject: fn(&mut MetadataMap),
}

impl SignerClient {
    /// A client over a channel; each call ends at `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let client = proto::signer_client::SignerClient::new(channel);
        Self { client, deadline, inject: |_| () }
    }

    /// Lets `inject` write into the metadata of each request, for the context of a trace.
    #[must_use]
    pub fn with_metadata(self, inject: fn(&mut MetadataMap)) -> Self {
        Self { inject, ..self }
    }

    /// Who signs, and how far it has come.
    ///
    /// # Errors
    /// If the signer does not answer.
    pub async fn head(&self) -> Result<Head, SignerError> {
        let request = self.timed(proto::GetHeadRequest {});
        let response = self.client.clone().get_head(request).await.map_err(failed)?;
        Head::try_from(response.into_inner()).map_err(SignerError::Invalid)
    }

    /// Takes the right to build.
    ///
    /// # Errors
    /// If somebody else holds it or the signer does not answer.
    pub async fn acquire_lease(
        &self,
        holder: &str,
        duration: Duration,
    ) -> Result<Lease, SignerError> {
        let request = self.timed(proto::AcquireLeaseRequest {
            holder: holder.to_owned(),
            duration_ms: millis(duration),
        });
        let response = self.client.clone().acquire_lease(request).await.map_err(failed)?;
        Lease::try_from(response.into_inner()).map_err(SignerError::Invalid)
    }

    /// Keeps the right to build; for how long, from now.
    ///
    /// # Errors
    /// If it was lost or the signer does not answer.
    pub async fn renew_lease(&self, epoch: Epoch) -> Result<Duration, SignerError> {
        let request = self.timed(proto::RenewLeaseRequest { epoch: epoch.get() });
        let response = self.client.clone().renew_lease(request).await.map_err(failed)?;
        Ok(Duration::from_millis(response.into_inner().duration_ms))
    }

    /// Gives the right to build back, for anyone to take at once.
    ///
    /// # Errors
    /// If it was lost or the signer does not answer.
    pub async fn release_lease(&self, epoch: Epoch) -> Result<(), SignerError> {
        let request = self.timed(proto::ReleaseLeaseRequest { epoch: epoch.get() });
        self.client.clone().release_lease(request).await.map(drop).map_err(failed)
    }

    /// Opens a session.
    ///
    /// # Errors
    /// If the signer refuses or does not answer.
    pub async fn open_session(&self, request: OpenSession) -> Result<OpenedSession, SignerError> {
        let OpenSession { epoch, block_number, parent_hash, payload_id } = request;
        let request = self.timed(proto::OpenSessionRequest {
            epoch: epoch.get(),
            block_number,
            parent_hash: bytes(parent_hash.as_slice()),
            payload_id: bytes(payload_id.as_slice()),
        });
        let response = self.client.clone().open_session(request).await.map_err(failed)?;
        let proto::OpenSessionResponse { seq, parent_digest } = response.into_inner();
        let parent_digest =
            digest("parent_digest", &parent_digest).map_err(SignerError::Invalid)?;
        Ok(OpenedSession { seq: Seq::new(seq), parent_digest })
    }

    /// Signs the next flashblock.
    ///
    /// # Errors
    /// If the signer refuses or does not answer.
    pub async fn sign(&self, request: &SignFlashblock) -> Result<Signatures, SignerError> {
        let request = self.timed(request.into());
        let response = self.client.clone().sign(request).await.map_err(failed)?;
        let proto::SignResponse { digest, signature, seal } = response.into_inner();
        Signatures::try_from(proto::GetEvidenceResponse { digest, signature, seal })
            .map_err(SignerError::Invalid)
    }

    /// Ends the open session without a block.
    ///
    /// # Errors
    /// If the signer refuses or does not answer.
    pub async fn abandon(
        &self,
        epoch: Epoch,
        seq: Seq,
        reason: AbandonReason,
    ) -> Result<SignedStatement<Abandoned>, SignerError> {
        let request = self.timed(proto::AbandonRequest {
            epoch: epoch.get(),
            seq: seq.get(),
            reason: crate::generated::types::v1::AbandonReason::from(reason).into(),
        });
        let response = self.client.clone().abandon(request).await.map_err(failed)?;
        let abandoned = required("abandoned", response.into_inner().abandoned);
        abandoned
            .and_then(|message| SignedStatement::try_from(message).within("abandoned"))
            .map_err(SignerError::Invalid)
    }

    /// Ends the open session with a block.
    ///
    /// # Errors
    /// If the signer refuses or does not answer.
    pub async fn seal(&self, request: SealSession) -> Result<SignedStatement<Sealed>, SignerError> {
        let SealSession { epoch, seq, block_hash, state_root } = request;
        let request = self.timed(proto::SealRequest {
            epoch: epoch.get(),
            seq: seq.get(),
            block_hash: bytes(block_hash.as_slice()),
            state_root: bytes(state_root.as_slice()),
        });
        let response = self.client.clone().seal(request).await.map_err(failed)?;
        let sealed = required("sealed", response.into_inner().sealed);
        sealed
            .and_then(|message| SignedStatement::try_from(message).within("sealed"))
            .map_err(SignerError::Invalid)
    }

    /// Signs a list of retractions.
    ///
    /// # Errors
    /// If the signer refuses or does not answer.
    pub async fn retract(
        &self,
        epoch: Epoch,
        retracted: &Retracted,
    ) -> Result<SignedStatement<Retracted>, SignerError> {
        let Retracted { at, block_number, retractions } = retracted;
        let request = self.timed(proto::RetractRequest {
            epoch: epoch.get(),
            at: Some((*at).into()),
            block_number: *block_number,
            retractions: retractions.iter().map(Into::into).collect(),
        });
        let response = self.client.clone().retract(request).await.map_err(failed)?;
        let retracted = required("retracted", response.into_inner().retracted);
        retracted
            .and_then(|message| SignedStatement::try_from(message).within("retracted"))
            .map_err(SignerError::Invalid)
    }

    /// What was signed at a position.
    ///
    /// # Errors
    /// If the signer does not answer.
    pub async fn evidence(&self, position: Position) -> Result<Option<Signatures>, SignerError> {
        let request = self.timed(proto::GetEvidenceRequest { position: Some(position.into()) });
        match self.client.clone().get_evidence(request).await {
            Ok(response) => {
                Signatures::try_from(response.into_inner()).map(Some).map_err(SignerError::Invalid)
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed(status)),
        }
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        (self.inject)(request.metadata_mut());
        request
    }
}

fn refusal(refusal: SignerRefusal) -> Status {
    let message = refusal.to_string();
    let SignerRefusal { reason, evidence, expected } = refusal;
    let details = proto::Refusal {
        reason: reason.number().into(),
        evidence: evidence.as_deref().map(Into::into),
        expected: expected.map(Into::into),
    };
    Status::with_details(Code::FailedPrecondition, message, details.encode_to_vec().into())
}

fn failed(status: Status) -> SignerError {
    if status.code() != Code::FailedPrecondition {
        return SignerError::Unavailable(Box::new(status));
    }
    match proto::Refusal::decode(status.details()) {
        Ok(message) => {
            SignerRefusal::try_from(message).map_or_else(SignerError::Invalid, SignerError::Refused)
        }
        Err(_) => SignerError::Unavailable(Box::new(status)),
    }
}

fn at_most(path: &str, length: usize, limit: usize) -> Result<(), Invalid> {
    if length > limit {
        return Err(Invalid::new(path, format!("has a length of {length}, over {limit}")));
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

impl TryFrom<proto::Refusal> for SignerRefusal {
    type Error = Invalid;

    fn try_from(message: proto::Refusal) -> Result<Self, Invalid> {
        let proto::Refusal { reason, evidence, expected } = message;
        let known = u8::try_from(reason).ok().and_then(SignerRefusalReason::from_number);
        Ok(Self {
            reason: known
                .ok_or_else(|| Invalid::new("reason", format!("{reason} is not known")))?,
            evidence: evidence
                .map(|message| Signatures::try_from(message).map(Box::new))
                .transpose()
                .within("evidence")?,
            expected: expected.map(Into::into),
        })
    }
}

impl From<Head> for proto::GetHeadResponse {
    fn from(head: Head) -> Self {
        let Head { public_key, chain_id, epoch, position, digest, last_seq } = head;
        Self {
            public_key: bytes(public_key.to_bytes().as_slice()),
            chain_id,
            epoch: epoch.get(),
            position: position.map(Into::into),
            digest: bytes(digest.get().as_slice()),
            last_seq: last_seq.get(),
        }
    }
}

impl TryFrom<proto::GetHeadResponse> for Head {
    type Error = Invalid;

    fn try_from(message: proto::GetHeadResponse) -> Result<Self, Invalid> {
        let proto::GetHeadResponse {
            public_key,
            chain_id,
            epoch,
            position,
            digest: last,
            last_seq,
        } = message;
        let public_key = PublicKey::from_bytes(fixed("public_key", &public_key)?)
            .map_err(|error| Invalid::new("public_key", error.to_string()))?;
        Ok(Self {
            public_key,
            chain_id,
            epoch: Epoch::new(epoch),
            position: position.map(Into::into),
            digest: digest("digest", &last)?,
            last_seq: Seq::new(last_seq),
        })
    }
}

impl From<Lease> for proto::AcquireLeaseResponse {
    fn from(lease: Lease) -> Self {
        let Lease { epoch, duration, last_digest } = lease;
        Self {
            epoch: epoch.get(),
            duration_ms: millis(duration),
            last_digest: bytes(last_digest.get().as_slice()),
        }
    }
}

impl TryFrom<proto::AcquireLeaseResponse> for Lease {
    type Error = Invalid;

    fn try_from(message: proto::AcquireLeaseResponse) -> Result<Self, Invalid> {
        let proto::AcquireLeaseResponse { epoch, duration_ms, last_digest } = message;
        Ok(Self {
            epoch: Epoch::new(epoch),
            duration: Duration::from_millis(duration_ms),
            last_digest: digest("last_digest", &last_digest)?,
        })
    }
}

impl TryFrom<proto::OpenSessionRequest> for OpenSession {
    type Error = Invalid;

    fn try_from(message: proto::OpenSessionRequest) -> Result<Self, Invalid> {
        let proto::OpenSessionRequest { epoch, block_number, parent_hash, payload_id } = message;
        Ok(Self {
            epoch: Epoch::new(epoch),
            block_number,
            parent_hash: fixed("parent_hash", &parent_hash)?,
            payload_id: fixed("payload_id", &payload_id)?,
        })
    }
}

impl From<&SignFlashblock> for proto::SignRequest {
    fn from(request: &SignFlashblock) -> Self {
        let SignFlashblock { epoch, position, hashes, published_at_ms, is_last, parent_digest } =
            request;
        let ContentHashes { base, transactions, withdrawals, traceparent } = hashes;
        Self {
            epoch: epoch.get(),
            position: Some((*position).into()),
            hashes: Some(proto::ContentHashes {
                base: bytes(base.as_slice()),
                transactions: bytes(transactions.as_slice()),
                withdrawals: bytes(withdrawals.as_slice()),
                traceparent: bytes(traceparent.as_slice()),
            }),
            published_at_ms: *published_at_ms,
            is_last: *is_last,
            parent_digest: bytes(parent_digest.get().as_slice()),
        }
    }
}

impl TryFrom<proto::SignRequest> for SignFlashblock {
    type Error = Invalid;

    fn try_from(message: proto::SignRequest) -> Result<Self, Invalid> {
        let proto::SignRequest { epoch, position, hashes, published_at_ms, is_last, parent_digest } =
            message;
        Ok(Self {
            epoch: Epoch::new(epoch),
            position: required("position", position)?.into(),
            hashes: content_hashes(required("hashes", hashes)?).within("hashes")?,
            published_at_ms,
            is_last,
            parent_digest: digest("parent_digest", &parent_digest)?,
        })
    }
}

fn content_hashes(message: proto::ContentHashes) -> Result<ContentHashes, Invalid> {
    let proto::ContentHashes { base, transactions, withdrawals, traceparent } = message;
    Ok(ContentHashes {
        base: fixed("base", &base)?,
        transactions: fixed("transactions", &transactions)?,
        withdrawals: fixed("withdrawals", &withdrawals)?,
        traceparent: fixed("traceparent", &traceparent)?,
    })
}

impl From<&Signatures> for proto::GetEvidenceResponse {
    fn from(signatures: &Signatures) -> Self {
        let Signatures { digest, signature, seal } = signatures;
        Self {
            digest: bytes(digest.get().as_slice()),
            signature: bytes(signature.as_slice()),
            seal: bytes(seal.as_slice()),
        }
    }
}

impl TryFrom<proto::GetEvidenceResponse> for Signatures {
    type Error = Invalid;

    fn try_from(message: proto::GetEvidenceResponse) -> Result<Self, Invalid> {
        let proto::GetEvidenceResponse { digest: signed, signature: v1, seal } = message;
        Ok(Self {
            digest: digest("digest", &signed)?,
            signature: signature("signature", &v1)?,
            seal: signature("seal", &seal)?,
        })
    }
}
