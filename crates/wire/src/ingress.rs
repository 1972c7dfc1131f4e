//! The builder's ingress: where transactions enter its pool.

use std::{future::Future, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes};
use preconf_primitives::{TransactionRefusal, TransactionRefusalReason};
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Channel};

use crate::{
    convert::{Invalid, address, bytes, fixed, required},
    generated::builder::v1 as proto,
};

/// The most bytes of an ingress message: a transaction of the largest size with its sidecar.
const MAX_INGRESS_BYTES: usize = 2 * 1024 * 1024;

/// Whoever takes transactions.
pub trait IngressService: Send + Sync + 'static {
    /// Offers a transaction; its hash if it is taken.
    fn submit(
        &self,
        transaction: Bytes,
    ) -> impl Future<Output = Result<B256, TransactionRefusal>> + Send;

    /// A transaction that waits, or is preconfirmed and not yet final.
    fn transaction(&self, hash: B256) -> impl Future<Output = Option<Bytes>> + Send;

    /// The nonce after the pool's contiguous transactions of a sender, if it holds any.
    fn next_nonce(&self, sender: Address) -> impl Future<Output = Option<u64>> + Send;
}

/// The gRPC service of an [`IngressService`].
pub fn server<S: IngressService>(service: Arc<S>) -> IngressGrpc<S> {
    proto::ingress_server::IngressServer::new(Adapter(service))
        .max_decoding_message_size(MAX_INGRESS_BYTES)
        .max_encoding_message_size(MAX_INGRESS_BYTES)
}

/// The gRPC service type of an [`IngressService`].
pub type IngressGrpc<S> = proto::ingress_server::IngressServer<Adapter<S>>;

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct Adapter<S>(Arc<S>);

#[tonic::async_trait]
impl<S: IngressService> proto::ingress_server::Ingress for Adapter<S> {
    async fn submit_transaction(
        &self,
        request: Request<proto::SubmitTransactionRequest>,
    ) -> Result<Response<proto::SubmitTransactionResponse>, Status> {
        use proto::submit_transaction_response::Outcome;
        let proto::SubmitTransactionRequest { transaction } = request.into_inner();
        let outcome = match self.0.submit(transaction.into()).await {
            Ok(hash) => Outcome::AcceptedHash(bytes(hash.as_slice())),
            Err(TransactionRefusal { reason, detail }) => {
                Outcome::Refused(proto::Refusal { reason: reason.number().into(), message: detail })
            }
        };
        Ok(Response::new(proto::SubmitTransactionResponse { outcome: Some(outcome) }))
    }

    async fn get_transaction(
        &self,
        request: Request<proto::GetTransactionRequest>,
    ) -> Result<Response<proto::GetTransactionResponse>, Status> {
        let proto::GetTransactionRequest { hash } = request.into_inner();
        let transaction = self.0.transaction(fixed("hash", &hash)?).await.unwrap_or_default();
        Ok(Response::new(proto::GetTransactionResponse { transaction: transaction.into() }))
    }

    async fn get_next_nonce(
        &self,
        request: Request<proto::GetNextNonceRequest>,
    ) -> Result<Response<proto::GetNextNonceResponse>, Status> {
        let proto::GetNextNonceRequest { address: sender } = request.into_inner();
        let nonce = self.0.next_nonce(address("address", &sender)?).await;
        Ok(Response::new(proto::GetNextNonceResponse { nonce }))
    }
}

/// Offers transactions to a builder.
#[derive(Clone, Debug)]
pub struct IngressClient {
    client: proto::ingress_client::IngressClient<Channel>,
    deadline: Duration,
    inject: fn(&mut MetadataMap),
}

/// Why the builder did not answer, or not with a yes.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// The transaction is not taken.
    #[error(transparent)]
    Refused(TransactionRefusal),
    /// The builder could not be reached in time.
    #[error("the sequencer did not answer")]
    Unavailable(#[source] Box<Status>),
    /// The answer has no meaning.
    #[error("the sequencer's answer is not valid")]
    Invalid(#[source] Invalid),
}

impl IngressClient {
    /// A client over a channel; each call ends at `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let client = proto::ingress_client::IngressClient::new(channel);
        Self { client, deadline, inject: |_| () }
    }

    /// Lets `inject` write into the metadata of each request, for the context of a trace.
    #[must_use]
    pub fn with_metadata(self, inject: fn(&mut MetadataMap)) -> Self {
        Self { inject, ..self }
    }

    /// Offers a transaction; its hash if it is taken.
    ///
    /// # Errors
    /// If it is refused or the builder does not answer.
    pub async fn submit(&self, transaction: Bytes) -> Result<B256, IngressError> {
        use proto::submit_transaction_response::Outcome;
        let request = proto::SubmitTransactionRequest { transaction: transaction.into() };
        let response =
            self.client.clone().submit_transaction(self.timed(request)).await.map_err(failed)?;
        let proto::SubmitTransactionResponse { outcome } = response.into_inner();
        match required("outcome", outcome).map_err(IngressError::Invalid)? {
            Outcome::AcceptedHash(hash) => {
                fixed("accepted_hash", &hash).map_err(IngressError::Invalid)
            }
            Outcome::Refused(proto::Refusal { reason, message }) => {
                let reason = u8::try_from(reason)
                    .ok()
                    .and_then(TransactionRefusalReason::from_number)
                    .unwrap_or(TransactionRefusalReason::Malformed);
                Err(IngressError::Refused(TransactionRefusal::new(reason, message)))
            }
        }
    }

    /// A transaction that waits, or is preconfirmed and not yet final.
    ///
    /// # Errors
    /// If the builder does not answer.
    pub async fn transaction(&self, hash: B256) -> Result<Option<Bytes>, IngressError> {
        let request = proto::GetTransactionRequest { hash: bytes(hash.as_slice()) };
        let response =
            self.client.clone().get_transaction(self.timed(request)).await.map_err(failed)?;
        let proto::GetTransactionResponse { transaction } = response.into_inner();
        Ok((!transaction.is_empty()).then(|| transaction.into()))
    }

    /// The nonce after the pool's contiguous transactions of a sender, if it holds any.
    ///
    /// # Errors
    /// If the builder does not answer.
    pub async fn next_nonce(&self, sender: Address) -> Result<Option<u64>, IngressError> {
        let request = proto::GetNextNonceRequest { address: bytes(sender.as_slice()) };
        let response =
            self.client.clone().get_next_nonce(self.timed(request)).await.map_err(failed)?;
        let proto::GetNextNonceResponse { nonce } = response.into_inner();
        Ok(nonce)
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        (self.inject)(request.metadata_mut());
        request
    }
}

fn failed(status: Status) -> IngressError {
    IngressError::Unavailable(Box::new(status))
}
