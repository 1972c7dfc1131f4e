//! The feed's gRPC service, which sends messages that are encoded already.
//!
//! A message goes to every subscriber alike, so it is encoded once, by whoever serves it, and every
//! stream copies the same bytes. What the code generator makes would encode it for each of them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use preconf_primitives::Position;
use prost::Message;
use tonic::{
    Extensions, Request, Response, Status,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::{Body as HttpBody, BoxFuture, BoxStream, Service, StdError, http},
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{FeedItem, FeedService, SubscribeError};
use crate::{MAX_MESSAGE_BYTES, convert::Invalid, generated::feed::v1 as proto};

const SUBSCRIBE: &str = "/preconf.feed.v1.Feed/Subscribe";
const MAX_REQUEST_BYTES: usize = 1024;

/// A message of the feed as it goes over gRPC. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedItem(Bytes);

impl EncodedItem {
    /// Encodes a message.
    pub fn new(item: &FeedItem) -> Self {
        Self(proto::SubscribeResponse::from(item).encode_to_vec().into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The message that the bytes are; none if a newer version wrote it and this one does not know
    /// its kind.
    ///
    /// # Errors
    /// If the bytes are no message, or one without a meaning.
    pub fn decode(bytes: &[u8]) -> Result<Option<FeedItem>, DecodeError> {
        let message = proto::SubscribeResponse::decode(bytes).map_err(DecodeError::Protobuf)?;
        FeedItem::known(message).map_err(DecodeError::Invalid)
    }
}

/// Why bytes are no message of the feed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are not protobuf.
    #[error("the bytes are not a protobuf message")]
    Protobuf(#[source] prost::DecodeError),
    /// A field has no meaning.
    #[error("a feed message is not valid")]
    Invalid(#[source] Invalid),
}

/// A stream of encoded feed messages.
pub type EncodedFeedStream = Pin<Box<dyn Stream<Item = EncodedItem> + Send>>;

/// Whoever serves a feed in its encoded form, and wants to know to whom.
///
/// Every [`FeedService`] is one that encodes for each subscriber and does not want to know.
pub trait EncodedFeedService: Send + Sync + 'static {
    /// The feed from `cursor` on, or from index 0 of the current session. The extensions of the
    /// request tell who the subscriber is.
    ///
    /// # Errors
    /// If the subscriber cannot be taken.
    fn subscribe_encoded(
        &self,
        cursor: Option<Position>,
        extensions: &Extensions,
    ) -> Result<EncodedFeedStream, SubscribeError>;
}

impl<S: FeedService> EncodedFeedService for S {
    fn subscribe_encoded(
        &self,
        cursor: Option<Position>,
        _extensions: &Extensions,
    ) -> Result<EncodedFeedStream, SubscribeError> {
        Ok(Box::pin(self.subscribe(cursor)?.map(|item| EncodedItem::new(&item))))
    }
}

/// The gRPC service of a feed.
pub fn server<S: EncodedFeedService>(service: Arc<S>) -> FeedGrpc<S> {
    FeedGrpc(service)
}

/// The type of [`server`].
#[derive(Debug)]
pub struct FeedGrpc<S>(Arc<S>);

impl<S> Clone for FeedGrpc<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> NamedService for FeedGrpc<S> {
    const NAME: &'static str = proto::feed_server::SERVICE_NAME;
}

impl<S, B> Service<http::Request<B>> for FeedGrpc<S>
where
    S: EncodedFeedService,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = Subscribe(Arc::clone(&self.0));
        Box::pin(async move {
            if request.uri().path() != SUBSCRIBE {
                return Ok(Status::unimplemented("the feed has no such method").into_http());
            }
            let mut grpc = Grpc::new(FeedCodec)
                .apply_max_message_size_config(Some(MAX_REQUEST_BYTES), Some(MAX_MESSAGE_BYTES));
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

/// The one method.
struct Subscribe<S>(Arc<S>);

impl<S: EncodedFeedService> ServerStreamingService<proto::SubscribeRequest> for Subscribe<S> {
    type Response = EncodedItem;
    type ResponseStream = BoxStream<EncodedItem>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<proto::SubscribeRequest>) -> Self::Future {
        let (_, extensions, proto::SubscribeRequest { cursor }) = request.into_parts();
        let items = self.0.subscribe_encoded(cursor.map(Position::from), &extensions);
        Box::pin(async move {
            let items = items.map_err(|error| match error {
                SubscribeError::Full => Status::resource_exhausted(error.to_string()),
                SubscribeError::Draining => Status::unavailable(error.to_string()),
            })?;
            Ok(Response::new(Box::pin(items.map(Ok)) as BoxStream<EncodedItem>))
        })
    }
}

/// Reads requests as always, and copies answers.
struct FeedCodec;

impl Codec for FeedCodec {
    type Encode = EncodedItem;
    type Decode = proto::SubscribeRequest;
    type Encoder = Copier;
    type Decoder = ProstDecoder<proto::SubscribeRequest>;

    fn encoder(&mut self) -> Copier {
        Copier
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<proto::SubscribeResponse, proto::SubscribeRequest>::default().decoder()
    }
}

struct Copier;

impl Encoder for Copier {
    type Item = EncodedItem;
    type Error = Status;

    fn encode(&mut self, item: EncodedItem, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item.0);
        Ok(())
    }
}
