//! One connection to a feed over gRPC.
//!
//! Each connection has a channel of its own, so that starting again really starts again. That a
//! peer is gone is noticed by the channel's keepalive; a feed that says nothing is not idle.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use preconf_chassis::{Chain, Endpoint, Security};
use preconf_primitives::Position;
use preconf_wire::feed::{FeedClient, FeedError, Received};
use tokio::time::timeout;
use tonic::Code;

use crate::{BadFrame, Disconnect, DisconnectReason, Event};

pub(crate) struct GrpcFeed(Pin<Box<dyn Stream<Item = Received> + Send>>);

impl GrpcFeed {
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        security: &Security,
        cursor: Option<Position>,
        deadline: Duration,
    ) -> Result<Self, Disconnect> {
        let unreachable = |detail| Disconnect::new(DisconnectReason::Unreachable, detail);
        let channel = preconf_chassis::channel(endpoint, security)
            .map_err(|error| unreachable(Chain(&error).to_string()))?;
        let mut client = FeedClient::new(channel);
        let stream = timeout(deadline, client.subscribe(cursor))
            .await
            .map_err(|_| unreachable("no answer in time".to_owned()))?
            .map_err(|error| Disconnect::new(refusal(&error), said(&error)))?;
        Ok(Self(Box::pin(stream)))
    }

    pub(crate) async fn next(&mut self) -> Result<Event, Disconnect> {
        match self.0.next().await {
            Some(Ok(item)) => Ok(Event::Item(item)),
            Some(Err(FeedError::Invalid(invalid))) => {
                Ok(Event::BadFrame(BadFrame::Message(invalid)))
            }
            Some(Err(error @ FeedError::Stream(_))) => {
                Err(Disconnect::new(DisconnectReason::Broken, said(&error)))
            }
            None => Err(Disconnect::new(DisconnectReason::Closed, "end of stream")),
        }
    }
}

/// Whether the peer said no or said nothing.
fn refusal(error: &FeedError) -> DisconnectReason {
    let FeedError::Stream(status) = error else { return DisconnectReason::Broken };
    let refused = [Code::ResourceExhausted, Code::PermissionDenied, Code::Unimplemented];
    if refused.contains(&status.code()) {
        DisconnectReason::Refused
    } else {
        DisconnectReason::Unreachable
    }
}

/// What the peer or the transport said, without the layers it came through.
fn said(error: &FeedError) -> String {
    match error {
        FeedError::Stream(status) if status.message().is_empty() => status.code().to_string(),
        FeedError::Stream(status) => status.message().to_owned(),
        FeedError::Invalid(invalid) => invalid.to_string(),
    }
}
