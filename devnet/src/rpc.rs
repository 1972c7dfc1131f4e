//! A caller of JSON-RPC, as a wallet is one.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64};
use preconf_chain::rpc::RpcReceipt;
use preconf_upstream::{Upstream, UpstreamConfig, UpstreamError};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;
use url::Url;

/// How many calls may be under way at once; more wait.
const AT_ONCE: usize = 1_024;
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// One port that speaks JSON-RPC. Clones share connections.
#[derive(Clone, Debug)]
pub struct Rpc(Upstream);

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RpcFailure {
    /// The URL cannot be used, or the call failed or was refused.
    #[error(transparent)]
    Call(UpstreamError),
    /// Parameters or result have another shape than the method.
    #[error("the parameters or the result of {method}")]
    Shape {
        /// The method.
        method: String,
        /// What the serializer said.
        #[source]
        source: serde_json::Error,
    },
}

impl RpcFailure {
    /// What the port said, if it refused the call.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Call(error) => error.refusal().map(|refusal| refusal.message()),
            Self::Shape { .. } => None,
        }
    }
}

impl Rpc {
    /// A caller of the port at `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn new(url: Url) -> Result<Self, RpcFailure> {
        let mut config = UpstreamConfig::new(url);
        config.timeout = DEADLINE;
        config.max_concurrent = AT_ONCE.try_into().expect("1024 is not zero");
        Upstream::new(config).map(Self).map_err(RpcFailure::Call)
    }

    /// Calls any method.
    ///
    /// # Errors
    /// If it is refused, not answered in time, or answered with something else.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R, RpcFailure> {
        let shape = |source| RpcFailure::Shape { method: method.to_owned(), source };
        let params = to_raw_value(&params).map_err(shape)?;
        let result = self.0.request(method, Some(params)).await.map_err(RpcFailure::Call)?;
        serde_json::from_str(result.get()).map_err(shape)
    }

    /// Hands in a signed transaction.
    ///
    /// # Errors
    /// If it is refused or not answered.
    pub async fn send_raw_transaction(&self, transaction: &Bytes) -> Result<B256, RpcFailure> {
        self.call("eth_sendRawTransaction", (transaction,)).await
    }

    /// The receipt of a transaction, if there is one.
    ///
    /// # Errors
    /// If the question is not answered.
    pub async fn receipt(&self, transaction: B256) -> Result<Option<RpcReceipt>, RpcFailure> {
        self.call("eth_getTransactionReceipt", (transaction,)).await
    }

    /// The number of the newest block.
    ///
    /// # Errors
    /// If the question is not answered.
    pub async fn block_number(&self) -> Result<u64, RpcFailure> {
        let number: U64 = self.call("eth_blockNumber", [(); 0]).await?;
        Ok(number.to())
    }

    /// The nonce that the next transaction of an account has, those that wait included.
    ///
    /// # Errors
    /// If the question is not answered.
    pub async fn next_nonce(&self, account: Address) -> Result<u64, RpcFailure> {
        let nonce: U64 = self.call("eth_getTransactionCount", (account, "pending")).await?;
        Ok(nonce.to())
    }
}
