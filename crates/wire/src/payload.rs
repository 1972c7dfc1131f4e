//! How a payload server gets the builder's blocks, and learns whose turn it is.

mod messages;

use std::{future::Future, sync::Arc, time::Duration};

use preconf_payload_api::{HealthBody, PayloadRequest, PayloadResponse, ValidatorPubkey};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Channel};

use crate::{
    MAX_MESSAGE_BYTES,
    convert::{Invalid, InvalidScope, bytes, fixed, required},
    generated::payload::v1 as proto,
};

/// The most bytes of a message that holds no payload.
const MAX_SMALL_BYTES: usize = 4 * 1024;
/// What a builder says that has failed; its log says more.
const FAILED: &str = "the builder or its execution client failed";

/// Why a payload is not there, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Nothing was built with these attributes.
    NoBuild,
    /// Something was, and neither we nor the execution client have a block of it.
    NotAvailable,
    /// The builder does not say why, or in a word that is not known here.
    Unspecified,
}

/// Why a builder hands out no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPayload {
    /// It is not there: it may be in a moment.
    Absent(Absence),
    /// The builder or its execution client has failed: who asks learns no more than that.
    Failed,
}

impl From<Absence> for NoPayload {
    fn from(absence: Absence) -> Self {
        Self::Absent(absence)
    }
}

/// Whoever builds payloads.
pub trait PayloadService: Send + Sync + 'static {
    /// Seals the block that was asked for with these attributes, and returns it.
    ///
    /// # Errors
    /// If there is none, or getting it failed.
    fn payload(
        &self,
        request: PayloadRequest,
    ) -> impl Future<Output = Result<PayloadResponse, NoPayload>> + Send;

    /// Whether payloads can be built.
    fn health(&self) -> impl Future<Output = HealthBody> + Send;
}

/// Who proposes a slot, since some round of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposer {
    /// The slot.
    pub slot: u64,
    /// The round of it.
    pub round: u32,
    /// The validator.
    pub pubkey: ValidatorPubkey,
}

/// Whoever wants to know who proposes.
pub trait ProposerService: Send + Sync + 'static {
    /// Learns of a proposer.
    ///
    /// # Errors
    /// If the validator's key is no point of the curve.
    fn set_proposer(
        &self,
        proposer: Proposer,
    ) -> impl Future<Output = Result<(), NotAPoint>> + Send;
}

/// A validator whose key is no point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPoint;

/// The gRPC service of a [`PayloadService`].
pub fn payloads<S: PayloadService>(service: Arc<S>) -> PayloadsGrpc<S> {
    proto::payloads_server::PayloadsServer::new(PayloadsAdapter(service))
        .max_decoding_message_size(MAX_SMALL_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The gRPC service of a [`ProposerService`].
pub fn proposers<S: ProposerService>(service: Arc<S>) -> ProposersGrpc<S> {
    proto::proposers_server::ProposersServer::new(ProposersAdapter(service))
        .max_decoding_message_size(MAX_SMALL_BYTES)
        .max_encoding_message_size(MAX_SMALL_BYTES)
}

/// The gRPC service type of a [`PayloadService`].
pub type PayloadsGrpc<S> = proto::payloads_server::PayloadsServer<PayloadsAdapter<S>>;
/// The gRPC service type of a [`ProposerService`].
pub type ProposersGrpc<S> = proto::proposers_server::ProposersServer<ProposersAdapter<S>>;

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct PayloadsAdapter<S>(Arc<S>);

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct ProposersAdapter<S>(Arc<S>);

#[tonic::async_trait]
impl<S: PayloadService> proto::payloads_server::Payloads for PayloadsAdapter<S> {
    async fn get_payload(
        &self,
        request: Request<proto::GetPayloadRequest>,
    ) -> Result<Response<proto::GetPayloadResponse>, Status> {
        use proto::get_payload_response::Outcome;
        let proto::GetPayloadRequest { slot, parent_beacon_block_root } = request.into_inner();
        let parent_block_root = fixed("parent_beacon_block_root", &parent_beacon_block_root)?;
        let absent = |absence: proto::Absence| Outcome::Absent(absence.into());
        let outcome = match self.0.payload(PayloadRequest { slot, parent_block_root }).await {
            Ok(payload) => Outcome::Payload(payload.into()),
            Err(NoPayload::Absent(Absence::NoBuild)) => absent(proto::Absence::NoBuild),
            Err(NoPayload::Absent(Absence::NotAvailable)) => absent(proto::Absence::NotAvailable),
            Err(NoPayload::Absent(Absence::Unspecified)) => absent(proto::Absence::Unspecified),
            Err(NoPayload::Failed) => return Err(Status::internal(FAILED)),
        };
        Ok(Response::new(proto::GetPayloadResponse { outcome: Some(outcome) }))
    }

    async fn get_health(
        &self,
        request: Request<proto::GetHealthRequest>,
    ) -> Result<Response<proto::GetHealthResponse>, Status> {
        let proto::GetHealthRequest {} = request.into_inner();
        let HealthBody { is_ready, is_syncing, el_connected } = self.0.health().await;
        let is_execution_connected = el_connected;
        let health = proto::GetHealthResponse { is_ready, is_syncing, is_execution_connected };
        Ok(Response::new(health))
    }
}

#[tonic::async_trait]
impl<S: ProposerService> proto::proposers_server::Proposers for ProposersAdapter<S> {
    async fn set_proposer(
        &self,
        request: Request<proto::SetProposerRequest>,
    ) -> Result<Response<proto::SetProposerResponse>, Status> {
        let proto::SetProposerRequest { slot, round, pubkey } = request.into_inner();
        let pubkey = ValidatorPubkey(fixed("pubkey", &pubkey)?.0);
        let set = self.0.set_proposer(Proposer { slot, round, pubkey }).await;
        let no_point = |NotAPoint| Invalid::new("pubkey", "is no point of the curve");
        set.map_err(no_point)?;
        Ok(Response::new(proto::SetProposerResponse {}))
    }
}

/// Gets payloads of a builder.
#[derive(Clone, Debug)]
pub struct PayloadsClient {
    client: proto::payloads_client::PayloadsClient<Channel>,
    inject: fn(&mut MetadataMap),
}

/// Why there is no payload.
#[derive(Debug, thiserror::Error)]
pub enum PayloadsError {
    /// The builder has none.
    #[error("the builder has no such payload")]
    Absent(Absence),
    /// The builder has failed, and says so.
    #[error("the builder could not get the payload")]
    Failed(#[source] Box<Status>),
    /// The builder could not be reached in time.
    #[error("the builder did not answer")]
    Unavailable(#[source] Box<Status>),
    /// The answer has no meaning.
    #[error("the builder's answer is not valid")]
    Invalid(#[source] Invalid),
}

impl PayloadsClient {
    /// A client over a channel.
    pub fn new(channel: Channel) -> Self {
        let client = proto::payloads_client::PayloadsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, inject: |_| () }
    }

    /// Lets `inject` write into the metadata of each request, for the context of a trace.
    #[must_use]
    pub fn with_metadata(self, inject: fn(&mut MetadataMap)) -> Self {
        Self { inject, ..self }
    }

    /// The block that was asked for with these attributes, `within` this time.
    ///
    /// # Errors
    /// If there is none, or the builder does not answer.
    pub async fn payload(
        &self,
        request: PayloadRequest,
        within: Duration,
    ) -> Result<PayloadResponse, PayloadsError> {
        use proto::get_payload_response::Outcome;
        let PayloadRequest { slot, parent_block_root } = request;
        let parent_beacon_block_root = bytes(parent_block_root.as_slice());
        let message = proto::GetPayloadRequest { slot, parent_beacon_block_root };
        let answer = self.client.clone().get_payload(self.timed(message, within)).await;
        let proto::GetPayloadResponse { outcome } = answer.map_err(failed)?.into_inner();
        match required("outcome", outcome).map_err(PayloadsError::Invalid)? {
            Outcome::Payload(payload) => {
                PayloadResponse::try_from(payload).within("payload").map_err(PayloadsError::Invalid)
            }
            Outcome::Absent(absence) => Err(PayloadsError::Absent(absent(absence))),
        }
    }

    /// Whether the builder can build payloads.
    ///
    /// # Errors
    /// If it does not answer `within` this time.
    pub async fn health(&self, within: Duration) -> Result<HealthBody, PayloadsError> {
        let request = self.timed(proto::GetHealthRequest {}, within);
        let answer = self.client.clone().get_health(request).await.map_err(failed)?;
        let proto::GetHealthResponse { is_ready, is_syncing, is_execution_connected } =
            answer.into_inner();
        Ok(HealthBody { is_ready, is_syncing, el_connected: is_execution_connected })
    }

    fn timed<T>(&self, message: T, within: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(within);
        (self.inject)(request.metadata_mut());
        request
    }
}

/// Tells payload servers who proposes.
#[derive(Clone, Debug)]
pub struct ProposersClient {
    client: proto::proposers_client::ProposersClient<Channel>,
    deadline: Duration,
}

impl ProposersClient {
    /// A client over a channel; each call ends at `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        Self { client: proto::proposers_client::ProposersClient::new(channel), deadline }
    }

    /// Says who proposes a slot.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub async fn set_proposer(&self, proposer: Proposer) -> Result<(), Box<Status>> {
        let Proposer { slot, round, pubkey } = proposer;
        let message = proto::SetProposerRequest { slot, round, pubkey: bytes(&pubkey.0) };
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        let proto::SetProposerResponse {} =
            self.client.clone().set_proposer(request).await?.into_inner();
        Ok(())
    }
}

fn failed(status: Status) -> PayloadsError {
    if status.code() == Code::Internal {
        return PayloadsError::Failed(Box::new(status));
    }
    PayloadsError::Unavailable(Box::new(status))
}

fn absent(absence: i32) -> Absence {
    match proto::Absence::try_from(absence) {
        Ok(proto::Absence::NoBuild) => Absence::NoBuild,
        Ok(proto::Absence::NotAvailable) => Absence::NotAvailable,
        Ok(proto::Absence::Unspecified) | Err(_) => Absence::Unspecified,
    }
}
