//! Follows a feed over WebSocket or gRPC: connects, decodes, resumes, and starts again.
//!
//! A [`Subscription`] turns a [`FeedUrl`] into a sequence of [`Event`]s that ends only when it is
//! dropped. It asks its owner for a cursor each time it connects, so that nothing is missed and
//! little is seen twice.
//!
//! Invariants: what was received before [`Subscription::reconnect`] is not told after it; one
//! message that has no meaning does not end a connection; no wait is without a deadline, except the
//! owner's.
//!
//! This crate never verifies a signature and never judges what follows what: that is its owner's.

mod event;
mod grpc;
mod subscription;
mod url;
mod websocket;

pub use event::{BadFrame, Disconnect, DisconnectReason, Event};
pub use subscription::{Config, Subscription};
pub use url::{FeedUrl, FeedUrlError, WebSocketUrl};
