//! The builder's admin door: the off switch, and how the Engine API proxy is doing.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tonic::{Request, Response, transport::Channel};

use crate::{
    convert::{Invalid, required},
    generated::admin::v1 as proto,
};

/// The longest reason for switching, in bytes.
pub const MAX_REASON_BYTES: usize = 256;
/// The most bytes of an admin message.
const MAX_ADMIN_BYTES: usize = 16 * 1024;

/// How an Engine API proxy is doing, since its process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Why and since when all blocks are left to the execution client, if they are.
    pub passthrough: Option<Passthrough>,
    /// Calls on which our own code failed.
    pub faults: u64,
    /// Calls that were forwarded unseen because of something in them that we do not know.
    pub not_understood: u64,
    /// Calls that the execution client did not answer.
    pub unanswered: u64,
}

/// Why all blocks are left to the execution client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Who decided it.
    pub cause: PassthroughCause,
    /// In words.
    pub reason: String,
    /// When it began, to the millisecond.
    pub since: SystemTime,
}

/// Who decided that all blocks are left to the execution client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassthroughCause {
    /// An operator.
    Operator,
    /// The builder itself, after repeated faults.
    Faults,
}

/// Whoever can be switched.
pub trait AdminService: Send + Sync + 'static {
    /// Leaves all blocks to the execution client, or begins to build again.
    fn set_passthrough(&self, on: bool, reason: String) -> impl Future<Output = Status> + Send;

    /// How it is doing.
    fn status(&self) -> impl Future<Output = Status> + Send;
}

/// The gRPC service of an [`AdminService`].
pub fn server<S: AdminService>(service: Arc<S>) -> AdminGrpc<S> {
    proto::admin_server::AdminServer::new(Adapter(service))
        .max_decoding_message_size(MAX_ADMIN_BYTES)
        .max_encoding_message_size(MAX_ADMIN_BYTES)
}

/// The gRPC service type of an [`AdminService`].
pub type AdminGrpc<S> = proto::admin_server::AdminServer<Adapter<S>>;

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct Adapter<S>(Arc<S>);

#[tonic::async_trait]
impl<S: AdminService> proto::admin_server::Admin for Adapter<S> {
    async fn set_passthrough(
        &self,
        request: Request<proto::SetPassthroughRequest>,
    ) -> Result<Response<proto::SetPassthroughResponse>, tonic::Status> {
        let proto::SetPassthroughRequest { on, reason } = request.into_inner();
        if reason.len() > MAX_REASON_BYTES {
            let excess = format!("has {} bytes, at most {MAX_REASON_BYTES}", reason.len());
            return Err(Invalid::new("reason", excess).into());
        }
        let status = Some(self.0.set_passthrough(on, reason).await.into());
        Ok(Response::new(proto::SetPassthroughResponse { status }))
    }

    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, tonic::Status> {
        let proto::GetStatusRequest {} = request.into_inner();
        let status = Some(self.0.status().await.into());
        Ok(Response::new(proto::GetStatusResponse { status }))
    }
}

/// Switches a builder, and asks how it is doing.
#[derive(Clone, Debug)]
pub struct AdminClient {
    client: proto::admin_client::AdminClient<Channel>,
    deadline: Duration,
}

/// Why the builder did not answer, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It could not be reached in time, or refused.
    #[error("the builder did not do it")]
    Refused(#[source] Box<tonic::Status>),
    /// The answer has no meaning.
    #[error("the builder's answer is not valid")]
    Invalid(#[source] Invalid),
}

impl AdminClient {
    /// A client over a channel; each call ends at `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        Self { client: proto::admin_client::AdminClient::new(channel), deadline }
    }

    /// Leaves all blocks to the execution client, or begins to build again; how it is doing then.
    ///
    /// # Errors
    /// If the reason is longer than [`MAX_REASON_BYTES`], or the builder does not answer.
    pub async fn set_passthrough(&self, on: bool, reason: &str) -> Result<Status, AdminError> {
        let request = proto::SetPassthroughRequest { on, reason: reason.to_owned() };
        let response = self.client.clone().set_passthrough(self.timed(request)).await;
        let proto::SetPassthroughResponse { status } = response.map_err(refused)?.into_inner();
        read(status)
    }

    /// How it is doing.
    ///
    /// # Errors
    /// If the builder does not answer.
    pub async fn status(&self) -> Result<Status, AdminError> {
        let request = self.timed(proto::GetStatusRequest {});
        let response = self.client.clone().get_status(request).await;
        let proto::GetStatusResponse { status } = response.map_err(refused)?.into_inner();
        read(status)
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }
}

fn refused(status: tonic::Status) -> AdminError {
    AdminError::Refused(Box::new(status))
}

fn read(status: Option<proto::Status>) -> Result<Status, AdminError> {
    required("status", status).and_then(Status::try_from).map_err(AdminError::Invalid)
}

impl From<Status> for proto::Status {
    fn from(status: Status) -> Self {
        let Status { passthrough, faults, not_understood, unanswered } = status;
        let passthrough = passthrough.map(Into::into);
        Self { passthrough, faults, not_understood, unanswered }
    }
}

impl TryFrom<proto::Status> for Status {
    type Error = Invalid;

    fn try_from(status: proto::Status) -> Result<Self, Invalid> {
        let proto::Status { passthrough, faults, not_understood, unanswered } = status;
        let passthrough = passthrough.map(TryInto::try_into).transpose()?;
        Ok(Self { passthrough, faults, not_understood, unanswered })
    }
}

impl From<Passthrough> for proto::Passthrough {
    fn from(passthrough: Passthrough) -> Self {
        let Passthrough { cause, reason, since } = passthrough;
        let cause = match cause {
            PassthroughCause::Operator => proto::PassthroughCause::Operator,
            PassthroughCause::Faults => proto::PassthroughCause::Faults,
        };
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let since_unix_ms = u64::try_from(since).unwrap_or(u64::MAX);
        Self { cause: cause.into(), reason, since_unix_ms }
    }
}

impl TryFrom<proto::Passthrough> for Passthrough {
    type Error = Invalid;

    fn try_from(passthrough: proto::Passthrough) -> Result<Self, Invalid> {
        let proto::Passthrough { cause, reason, since_unix_ms } = passthrough;
        let unknown = |reason: &str| Invalid::new("passthrough.cause", reason);
        let cause = match proto::PassthroughCause::try_from(cause) {
            Ok(proto::PassthroughCause::Operator) => PassthroughCause::Operator,
            Ok(proto::PassthroughCause::Faults) => PassthroughCause::Faults,
            Ok(proto::PassthroughCause::Unspecified) => return Err(unknown("is missing")),
            Err(_) => return Err(unknown("is not known")),
        };
        let since = UNIX_EPOCH.checked_add(Duration::from_millis(since_unix_ms));
        let since = since.ok_or_else(|| {
            Invalid::new("passthrough.since_unix_ms", "is no time that this machine knows")
        })?;
        Ok(Self { cause, reason, since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_same_after_its_journey() {
        let since = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        for cause in [PassthroughCause::Operator, PassthroughCause::Faults] {
            let reason = "upgrade".to_owned();
            let passthrough = Some(Passthrough { cause, reason, since });
            for passthrough in [passthrough, None] {
                let status = Status { passthrough, faults: 1, not_understood: 2, unanswered: 3 };
                let sent = proto::Status::from(status.clone());
                assert_eq!(Status::try_from(sent), Ok(status));
            }
        }
    }

    #[test]
    fn a_cause_that_is_missing_or_unknown_is_named() {
        for cause in [0, 3, -1] {
            let passthrough = proto::Passthrough { cause, ..Default::default() };
            let invalid = Passthrough::try_from(passthrough).unwrap_err();
            assert_eq!(invalid.path(), "passthrough.cause");
        }
    }
}
