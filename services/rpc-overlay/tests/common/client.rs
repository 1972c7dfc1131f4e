//! An execution client that answers as it is told and remembers what it was asked.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use alloy_primitives::U64;
use jsonrpsee::{
    Methods,
    core::middleware::{Batch, BatchEntry, Notification, Request, RpcServiceT},
    server::{
        MethodResponse, ResponsePayload, Server, ServerHandle, middleware::rpc::RpcServiceBuilder,
    },
    types::ErrorObjectOwned,
};
use preconf_pending::snapshot::Canonical;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::snapshots;

type Answer = Result<Box<RawValue>, ErrorObjectOwned>;

pub(crate) struct ExecutionClient {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    server: ServerHandle,
}

#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<String, Answer>>,
    /// For these parameters only.
    particular: Mutex<HashMap<(String, Value), Answer>>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl ExecutionClient {
    /// A client of the chain of the snapshots that has their canonical block, and yet says that its
    /// head is block 99: so it is seen who answers.
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let (address, server) = listen("127.0.0.1:0".parse().unwrap(), &script).await;
        let client = Self { address, script, server };
        client.answer("eth_chainId", json!("0x539"));
        client.answer("eth_blockNumber", json!("0x63"));
        let mut genesis = serde_json::to_value(snapshots::spec().genesis_header()).unwrap();
        genesis["hash"] = json!(snapshots::spec().genesis_hash());
        client.answer("eth_getBlockByNumber", genesis);
        client.has(&snapshots::CANONICAL);
        client
    }

    /// Closes the port.
    pub(crate) async fn stop(&self) {
        self.server.stop().unwrap();
        self.server.clone().stopped().await;
    }

    /// Opens the port again.
    pub(crate) async fn come_back(&mut self) {
        (_, self.server) = listen(self.address, &self.script).await;
    }

    /// From now on the client has this block.
    pub(crate) fn has(&self, block: &Canonical) {
        let params = json!([U64::from(block.number), false]);
        self.answer_to("eth_getBlockByNumber", params, json!({ "hash": block.hash }));
    }

    /// Answers a method with these parameters.
    pub(crate) fn answer_to(&self, method: &str, params: Value, result: Value) {
        let result = RawValue::from_string(result.to_string()).unwrap();
        let question = (method.to_owned(), params);
        self.script.particular.lock().unwrap().insert(question, Ok(result));
    }

    pub(crate) fn answer(&self, method: &str, result: Value) {
        self.answer_raw(method, &result.to_string());
    }

    pub(crate) fn answer_raw(&self, method: &str, result: &str) {
        let result = RawValue::from_string(result.to_owned()).unwrap();
        self.script.answers.lock().unwrap().insert(method.to_owned(), Ok(result));
    }

    pub(crate) fn refuse(&self, method: &str, error: ErrorObjectOwned) {
        self.script.answers.lock().unwrap().insert(method.to_owned(), Err(error));
    }

    /// The parameters of every request of a method so far.
    pub(crate) fn asked(&self, method: &str) -> Vec<Value> {
        let asked = self.script.asked.lock().unwrap();
        asked.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }
}

async fn listen(address: SocketAddr, script: &Arc<Script>) -> (SocketAddr, ServerHandle) {
    let service = Scripted(Arc::clone(script));
    let middleware = RpcServiceBuilder::new().layer_fn(move |_| service.clone());
    let server = Server::builder().set_rpc_middleware(middleware).build(address).await.unwrap();
    (server.local_addr().unwrap(), server.start(Methods::new()))
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

impl Scripted {
    fn respond(&self, request: Request<'_>) -> MethodResponse {
        let params: Value = request
            .params
            .as_ref()
            .map_or(Value::Null, |params| serde_json::from_str(params.get()).unwrap());
        let question = (request.method.to_string(), params);
        let particular = self.0.particular.lock().unwrap().get(&question).cloned();
        let answer = particular
            .or_else(|| self.0.answers.lock().unwrap().get(request.method.as_ref()).cloned());
        self.0.asked.lock().unwrap().push(question);
        let unknown = || Err(ErrorObjectOwned::owned(-32_601, "not in the script", None::<()>));
        match answer.unwrap_or_else(unknown) {
            Ok(result) => {
                let payload = ResponsePayload::success_borrowed(&result);
                MethodResponse::response(request.id, payload, usize::MAX)
            }
            Err(error) => MethodResponse::error(request.id, error),
        }
    }
}

impl RpcServiceT for Scripted {
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        std::future::ready(self.respond(request))
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let mut all = jsonrpsee::BatchResponseBuilder::new_with_limit(usize::MAX);
        for entry in batch {
            let Ok(BatchEntry::Call(request)) = entry else { panic!("a call") };
            all.append(self.respond(request)).unwrap();
        }
        std::future::ready(MethodResponse::from_batch(all.finish()))
    }

    fn notification<'a>(
        &self,
        _: Notification<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        std::future::ready(MethodResponse::notification())
    }
}

/// An error with data, as clients answer a call that reverts.
pub(crate) fn reverted() -> ErrorObjectOwned {
    let data = to_raw_value(&json!({ "why": [1, "two"] })).unwrap();
    ErrorObjectOwned::owned(3, "execution reverted: no", Some(data))
}
