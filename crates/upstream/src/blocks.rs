//! Blocks, headers and receipts. What can be computed from their content is computed and compared:
//! a header is believed only with the right hash, a block only with the right roots.

use std::fmt;

use alloy_primitives::{B256, U64};
use preconf_chain::rpc::{RpcBlock, RpcBlockError, RpcReceipt};
use preconf_chain::{Block, Header, Transaction};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::client::Upstream;
use crate::error::UpstreamError;

/// A block that is, or was, part of the canonical chain, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The block's number.
    pub number: u64,
    /// The block's hash, which is that of `header`.
    pub hash: B256,
    /// The parent's hash.
    pub parent_hash: B256,
    /// The block's timestamp.
    pub timestamp: u64,
    /// The whole header.
    pub header: Header,
}

/// A whole block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullBlock {
    /// The block's hash, which is that of its header.
    pub hash: B256,
    /// The block.
    pub block: Block,
    /// Its transactions with their senders, as the client names them.
    pub transactions: Vec<Transaction>,
}

/// A block object, whatever it shows of its body.
#[derive(Deserialize)]
struct NamedHeader {
    hash: B256,
    #[serde(flatten)]
    header: Header,
}

/// The one field of a block that is needed to know it again.
#[derive(Deserialize)]
pub(crate) struct Named {
    pub(crate) hash: B256,
}

impl Upstream {
    /// The block with this hash; `None` if the client does not have it.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn block_by_hash(&self, hash: B256) -> Result<Option<FullBlock>, UpstreamError> {
        let call = format!("eth_getBlockByHash {hash}");
        let found = self.ask("eth_getBlockByHash", &call, (hash, true)).await?;
        let Some(found) = self.read_block(call.clone(), found).await? else { return Ok(None) };
        self.expect(&call, hash, found.hash)?;
        Ok(Some(found))
    }

    /// The canonical block with this number; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn block_by_number(&self, number: u64) -> Result<Option<FullBlock>, UpstreamError> {
        let call = format!("eth_getBlockByNumber {number}");
        let found = self.ask("eth_getBlockByNumber", &call, (U64::from(number), true)).await?;
        self.read_block(call, found).await
    }

    /// The header of the block with this hash; `None` if the client does not have it.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn header(&self, hash: B256) -> Result<Option<Head>, UpstreamError> {
        let call = format!("eth_getBlockByHash {hash}");
        let found = self.ask("eth_getBlockByHash", &call, (hash, false)).await?;
        let Some(head) = self.read_header(&call, &found)? else { return Ok(None) };
        self.expect(&call, hash, head.hash)?;
        Ok(Some(head))
    }

    /// The header of the canonical chain's head.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn latest(&self) -> Result<Head, UpstreamError> {
        let head = self.latest_unless(None).await?;
        head.ok_or_else(|| self.nothing("eth_getBlockByNumber latest"))
    }

    /// The receipts of the block with this hash; `None` if the client does not have it.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn block_receipts(
        &self,
        hash: B256,
    ) -> Result<Option<Vec<RpcReceipt>>, UpstreamError> {
        let call = format!("eth_getBlockReceipts {hash}");
        let found = self.ask("eth_getBlockReceipts", &call, (hash,)).await?;
        self.decode_apart(call, found).await
    }

    /// `eth_chainId`.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn chain_id(&self) -> Result<u64, UpstreamError> {
        let id: U64 = self.call("eth_chainId", [(); 0], "").await?;
        Ok(id.to())
    }

    /// The hash of block 0, as the client says it: before Paris a header may hold what ours does
    /// not.
    ///
    /// # Errors
    ///
    /// See [`UpstreamError`].
    pub async fn genesis_hash(&self) -> Result<B256, UpstreamError> {
        let Named { hash } = self.call("eth_getBlockByNumber", ("0x0", false), 0).await?;
        Ok(hash)
    }

    /// The head, unless it is `known`.
    pub(crate) async fn latest_unless(
        &self,
        known: Option<B256>,
    ) -> Result<Option<Head>, UpstreamError> {
        let call = "eth_getBlockByNumber latest";
        let found = self.ask("eth_getBlockByNumber", call, ("latest", false)).await?;
        let named: Option<Named> = self.decode(call, &found)?;
        match named {
            Some(Named { hash }) if Some(hash) == known => Ok(None),
            Some(_) => self.read_header(call, &found),
            None => Err(self.nothing(call)),
        }
    }

    /// Reads a header object, or `null`.
    pub(crate) fn read_header(
        &self,
        call: &str,
        object: &RawValue,
    ) -> Result<Option<Head>, UpstreamError> {
        let Some(NamedHeader { hash, header }) = self.decode(call, object)? else {
            return Ok(None);
        };
        self.expect(call, hash, header.hash_slow())?;
        let Header { number, parent_hash, timestamp, .. } = header;
        Ok(Some(Head { number, hash, parent_hash, timestamp, header }))
    }

    async fn read_block(
        &self,
        call: String,
        object: Box<RawValue>,
    ) -> Result<Option<FullBlock>, UpstreamError> {
        let upstream = self.clone();
        away(move || {
            let Some(object) = upstream.decode::<Option<RpcBlock>>(&call, &object)? else {
                return Ok(None);
            };
            let (block, transactions) =
                object.to_block().map_err(|source| upstream.unbelievable(&call, source))?;
            Ok(Some(FullBlock { hash: object.hash, block, transactions }))
        })
        .await
    }

    async fn decode_apart<R: DeserializeOwned + Send + 'static>(
        &self,
        call: String,
        result: Box<RawValue>,
    ) -> Result<R, UpstreamError> {
        let upstream = self.clone();
        away(move || upstream.decode(&call, &result)).await
    }

    async fn ask(
        &self,
        method: &str,
        call: &str,
        params: impl serde::Serialize,
    ) -> Result<Box<RawValue>, UpstreamError> {
        let params = to_raw_value(&params).expect("hex strings and booleans always serialize");
        self.request_about(method, call, Some(params)).await
    }

    fn expect(&self, call: &str, shown: B256, computed: B256) -> Result<(), UpstreamError> {
        if shown == computed {
            return Ok(());
        }
        Err(self.unbelievable(call, RpcBlockError::Hash { shown, computed }))
    }

    fn unbelievable(&self, call: &str, source: RpcBlockError) -> UpstreamError {
        let (call, host) = (call.to_owned(), self.host().to_owned());
        UpstreamError::Unbelievable { call, host, source }
    }

    /// The client has no block where there always is one.
    pub(crate) fn nothing(&self, call: &str) -> UpstreamError {
        let source = <serde_json::Error as serde::de::Error>::custom("null instead of a block");
        UpstreamError::Decode { call: call.to_owned(), host: self.host().to_owned(), source }
    }
}

/// Runs work that can take milliseconds, such as reading a full block, away from the runtime.
pub(crate) async fn away<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels: nobody waits for the answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.hash)
    }
}
