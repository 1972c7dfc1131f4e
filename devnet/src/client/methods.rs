//! How a method is offered: a name, and a function from parameters to a result.
//!
//! The table of all methods is [`super::engine::METHODS`] and [`super::engine::TESTING`] (what a
//! consensus client asks, and a test) and [`super::eth::methods`] (what everybody asks). A method
//! that is not in it does not exist; subscriptions are apart, in [`super::subscriptions`].
//!
//! Methods know nothing of sockets or tasks; [`super::server`] runs them, away from the runtime.

use preconf_engine::RpcError;
use preconf_engine::rpc::{self, Params};
use serde::Serialize;
use serde_json::value::RawValue;

use super::ExecutionClient;

/// What a method returns.
pub(crate) type Answer = Result<Box<RawValue>, RpcError>;

type Handler = fn(&ExecutionClient, &Params) -> Answer;

/// A method.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    handler: Handler,
}

impl Method {
    pub(crate) const fn new(name: &'static str, handler: Handler) -> Self {
        Self { name, handler }
    }

    pub(crate) fn call(&self, client: &ExecutionClient, params: &Params) -> Answer {
        (self.handler)(client, params)
    }
}

/// Writes a result.
pub(crate) fn answer<T: Serialize>(value: &T) -> Answer {
    rpc::result(value)
}
