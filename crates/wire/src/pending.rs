//! The pending chain, from a consumer to overlays.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use alloy_consensus::TransactionEnvelope as _;
use alloy_primitives::{B256, Bytes, Log, LogData, U256};
use futures_util::{Stream, StreamExt};
use preconf_chain::{Receipt, Transaction};
use preconf_evm::NextBlock;
use preconf_pending::snapshot::{
    BlockReference, Canonical, Closing, ExecutedFlashblock, ExecutedTransaction, Update,
};
use preconf_primitives::{Base, Seq};
use preconf_state::{Account, AccountDiff, Bytecode, Diff};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    MAX_MESSAGE_BYTES,
    convert::{
        Invalid, InvalidScope, address, base, bytes, fixed, list, optional_fixed, required, uint,
    },
    generated::pending::v1 as proto,
    generated::types::v1 as types,
};

/// A stream of updates. The first ones make up the current snapshot.
pub type UpdateStream = Pin<Box<dyn Stream<Item = Arc<Update>> + Send>>;

/// Whoever executes the pending chain.
pub trait PendingService: Send + Sync + 'static {
    /// The snapshots from now on, beginning with what makes up the current one. `None` if there is
    /// no room for another subscriber.
    fn subscribe(&self) -> Option<UpdateStream>;
}

/// The gRPC service of a [`PendingService`].
pub fn server<S: PendingService>(service: Arc<S>) -> PendingGrpc<S> {
    proto::pending_server::PendingServer::new(Adapter(service))
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .max_decoding_message_size(1024)
}

/// The gRPC service type of a [`PendingService`].
pub type PendingGrpc<S> = proto::pending_server::PendingServer<Adapter<S>>;

/// Between the generated trait and the domain's.
#[derive(Debug)]
pub struct Adapter<S>(Arc<S>);

#[tonic::async_trait]
impl<S: PendingService> proto::pending_server::Pending for Adapter<S> {
    type SubscribeStream =
        Pin<Box<dyn Stream<Item = Result<proto::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let proto::SubscribeRequest {} = request.into_inner();
        let updates = self.0.subscribe();
        let updates =
            updates.ok_or_else(|| Status::resource_exhausted("no room for another overlay"))?;
        let messages = updates.map(|update| {
            Ok(proto::SubscribeResponse { update: Some(proto::Update::from(update.as_ref())) })
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Reads the pending chain of a consumer.
#[derive(Clone, Debug)]
pub struct PendingClient(proto::pending_client::PendingClient<Channel>);

/// Why the pending chain could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// A message has no meaning. The stream is of no use after that.
    #[error("an update is not valid")]
    Invalid(#[source] Invalid),
    /// The stream broke or could not be opened.
    #[error("the stream of updates failed")]
    Stream(#[source] Box<Status>),
}

impl PendingClient {
    /// A client over a channel.
    pub fn new(channel: Channel) -> Self {
        let client = proto::pending_client::PendingClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self(client)
    }

    /// Subscribes, from what makes up the current snapshot on.
    ///
    /// # Errors
    /// If the stream cannot be opened.
    pub async fn subscribe(
        &mut self,
    ) -> Result<impl Stream<Item = Result<Update, PendingError>> + Send + use<>, PendingError> {
        let failed = |status| PendingError::Stream(Box::new(status));
        let stream = self.0.subscribe(proto::SubscribeRequest {}).await.map_err(failed)?;
        Ok(stream.into_inner().map(move |message| {
            let proto::SubscribeResponse { update } = message.map_err(failed)?;
            required("update", update)
                .and_then(|update| Update::try_from(update).within("update"))
                .map_err(PendingError::Invalid)
        }))
    }
}

impl From<&Update> for proto::Update {
    fn from(update: &Update) -> Self {
        let Update { snapshot_id, canonical, chain, executed, retracted, is_part } = update;
        Self {
            snapshot_id: *snapshot_id,
            canonical: Some(proto::Canonical {
                number: canonical.number,
                hash: bytes(canonical.hash.as_slice()),
                timestamp_seconds: canonical.timestamp,
            }),
            chain: chain.iter().map(Into::into).collect(),
            executed: executed.iter().map(|executed| executed.as_ref().into()).collect(),
            retracted: retracted.iter().map(Into::into).collect(),
            is_part: *is_part,
        }
    }
}

impl TryFrom<proto::Update> for Update {
    type Error = Invalid;

    fn try_from(message: proto::Update) -> Result<Self, Invalid> {
        let proto::Update { snapshot_id, canonical, chain, executed, retracted, is_part } = message;
        let proto::Canonical { number, hash, timestamp_seconds } =
            required("canonical", canonical)?;
        let executed: Vec<ExecutedFlashblock> = list("executed", executed)?;
        Ok(Self {
            snapshot_id,
            canonical: Canonical {
                number,
                hash: fixed("canonical.hash", &hash)?,
                timestamp: timestamp_seconds,
            },
            chain: list("chain", chain)?,
            executed: executed.into_iter().map(Arc::new).collect(),
            retracted: list("retracted", retracted)?,
            is_part,
        })
    }
}

impl From<&BlockReference> for proto::PendingBlock {
    fn from(block: &BlockReference) -> Self {
        let BlockReference { seq, number, flashblocks, hash, state_root, closing } = block;
        let requests_hash = closing.as_ref().and_then(|closing| closing.requests_hash);
        Self {
            seq: seq.get(),
            number: *number,
            flashblocks: *flashblocks,
            hash: bytes(hash.as_slice()),
            state_root: optional_bytes(state_root.as_ref()),
            closing: closing.as_ref().map(|closing| closing.diff.as_ref().into()),
            requests_hash: optional_bytes(requests_hash.as_ref()),
        }
    }
}

impl TryFrom<proto::PendingBlock> for BlockReference {
    type Error = Invalid;

    fn try_from(message: proto::PendingBlock) -> Result<Self, Invalid> {
        let proto::PendingBlock {
            seq,
            number,
            flashblocks,
            hash,
            state_root,
            closing,
            requests_hash,
        } = message;
        let requests_hash = optional_fixed("requests_hash", &requests_hash)?;
        let closing = closing.map(Diff::try_from).transpose().within("closing")?;
        Ok(Self {
            seq: Seq::new(seq),
            number,
            flashblocks,
            hash: fixed("hash", &hash)?,
            state_root: optional_fixed("state_root", &state_root)?,
            closing: closing.map(|diff| Closing { diff: Arc::new(diff), requests_hash }),
        })
    }
}

impl From<&ExecutedFlashblock> for proto::ExecutedFlashblock {
    fn from(executed: &ExecutedFlashblock) -> Self {
        let ExecutedFlashblock {
            position,
            environment,
            transactions,
            diff,
            gas_used,
            blob_gas_used,
            published_at_ms,
            traceparent,
        } = executed;
        Self {
            position: Some((*position).into()),
            environment: environment.as_deref().map(Into::into),
            transactions: transactions.iter().map(Into::into).collect(),
            diff: Some(diff.as_ref().into()),
            gas_used: *gas_used,
            blob_gas_used: *blob_gas_used,
            published_at_ms: *published_at_ms,
            traceparent: traceparent.as_ref().map_or_else(String::new, ToString::to_string),
        }
    }
}

impl TryFrom<proto::ExecutedFlashblock> for ExecutedFlashblock {
    type Error = Invalid;

    fn try_from(message: proto::ExecutedFlashblock) -> Result<Self, Invalid> {
        let proto::ExecutedFlashblock {
            position,
            environment,
            transactions,
            diff,
            gas_used,
            blob_gas_used,
            published_at_ms,
            traceparent,
        } = message;
        let environment = environment.map(NextBlock::try_from).transpose().within("environment")?;
        let diff = Diff::try_from(required("diff", diff)?).within("diff")?;
        Ok(Self {
            position: required("position", position)?.into(),
            environment: environment.map(Box::new),
            transactions: list("transactions", transactions)?,
            diff: Arc::new(diff),
            gas_used,
            blob_gas_used,
            published_at_ms,
            // For a trace only: one that is not valid is none.
            traceparent: traceparent.parse().ok(),
        })
    }
}

impl From<&NextBlock> for proto::Environment {
    fn from(block: &NextBlock) -> Self {
        let NextBlock {
            parent_hash,
            parent_beacon_block_root,
            number,
            timestamp,
            fee_recipient,
            prev_randao,
            // Zero since the merge.
            difficulty: _,
            gas_limit,
            base_fee_per_gas,
            extra_data,
            withdrawals,
            excess_blob_gas,
            prev_proposer_pubkey,
        } = block;
        let base = Base {
            parent_beacon_block_root: parent_beacon_block_root.unwrap_or_default(),
            parent_hash: *parent_hash,
            fee_recipient: *fee_recipient,
            prev_randao: *prev_randao,
            block_number: *number,
            gas_limit: *gas_limit,
            timestamp: *timestamp,
            extra_data: extra_data.clone(),
            base_fee_per_gas: *base_fee_per_gas,
            prev_proposer_pubkey: *prev_proposer_pubkey,
        };
        let withdrawals = withdrawals.iter().map(|withdrawal| types::Withdrawal {
            index: withdrawal.index,
            validator_index: withdrawal.validator_index,
            address: bytes(withdrawal.address.as_slice()),
            amount_gwei: withdrawal.amount,
        });
        Self {
            base: Some((&base).into()),
            block_number: *number,
            withdrawals: withdrawals.collect(),
            excess_blob_gas: *excess_blob_gas,
        }
    }
}

impl TryFrom<proto::Environment> for NextBlock {
    type Error = Invalid;

    fn try_from(message: proto::Environment) -> Result<Self, Invalid> {
        let proto::Environment { base: base_message, block_number, withdrawals, excess_blob_gas } =
            message;
        let base = base(required("base", base_message)?, block_number).within("base")?;
        let withdrawals: Vec<preconf_primitives::Withdrawal> = list("withdrawals", withdrawals)?;
        Ok(preconf_pending::next_block(&base, &withdrawals, excess_blob_gas))
    }
}

impl From<&ExecutedTransaction> for proto::ExecutedTransaction {
    fn from(executed: &ExecutedTransaction) -> Self {
        let ExecutedTransaction { transaction, receipt } = executed;
        Self {
            transaction: transaction.encoded().clone().into(),
            sender: bytes(transaction.signer().as_slice()),
            success: receipt.success,
            cumulative_gas_used: receipt.cumulative_gas_used,
            logs: receipt.logs.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::ExecutedTransaction> for ExecutedTransaction {
    type Error = Invalid;

    fn try_from(message: proto::ExecutedTransaction) -> Result<Self, Invalid> {
        let proto::ExecutedTransaction { transaction, sender, success, cumulative_gas_used, logs } =
            message;
        let sender = address("sender", &sender)?;
        let transaction = Transaction::decode_included(Bytes::from(transaction), sender)
            .map_err(|error| Invalid::new("transaction", error.to_string()))?;
        let receipt = Receipt {
            tx_type: transaction.envelope().tx_type(),
            success,
            cumulative_gas_used,
            logs: list("logs", logs)?,
        };
        Ok(Self { transaction, receipt })
    }
}

impl From<&Log> for proto::Log {
    fn from(log: &Log) -> Self {
        Self {
            address: bytes(log.address.as_slice()),
            topics: log.data.topics().iter().map(|topic| bytes(topic.as_slice())).collect(),
            data: log.data.data.clone().into(),
        }
    }
}

impl TryFrom<proto::Log> for Log {
    type Error = Invalid;

    fn try_from(message: proto::Log) -> Result<Self, Invalid> {
        let proto::Log { address: emitter, topics, data } = message;
        let topics: Vec<B256> =
            topics.iter().map(|topic| fixed("topics", topic)).collect::<Result<_, _>>()?;
        let data = LogData::new(topics, data.into())
            .ok_or_else(|| Invalid::new("topics", "has more than 4 elements"))?;
        Ok(Self { address: address("address", &emitter)?, data })
    }
}

impl From<&Diff> for proto::StateDiff {
    fn from(diff: &Diff) -> Self {
        let Diff { accounts, codes } = diff;
        Self {
            accounts: accounts
                .iter()
                .map(|(address, AccountDiff { account, wiped, slots })| proto::AccountDiff {
                    address: bytes(address.as_slice()),
                    account: account.as_ref().map(Into::into),
                    wiped: *wiped,
                    slots: slots
                        .iter()
                        .map(|(slot, value)| proto::SlotDiff {
                            slot: minimal(*slot),
                            value: minimal(*value),
                        })
                        .collect(),
                })
                .collect(),
            codes: codes
                .iter()
                .map(|(hash, code)| proto::Code {
                    hash: bytes(hash.as_slice()),
                    code: code.original_bytes().into(),
                })
                .collect(),
        }
    }
}

impl TryFrom<proto::StateDiff> for Diff {
    type Error = Invalid;

    fn try_from(message: proto::StateDiff) -> Result<Self, Invalid> {
        let proto::StateDiff { accounts, codes } = message;
        let mut diff = Self::default();
        for (index, account) in accounts.into_iter().enumerate() {
            let (address, account) = account_diff(account).at("accounts", index)?;
            diff.accounts.insert(address, account);
        }
        for (index, proto::Code { hash, code }) in codes.into_iter().enumerate() {
            let hash: B256 = fixed("hash", &hash).at("codes", index)?;
            let code = Bytecode::new_raw_checked(code.into())
                .map_err(|error| Invalid::new("code", error.to_string()))
                .at("codes", index)?;
            diff.codes.insert(hash, code);
        }
        Ok(diff)
    }
}

fn account_diff(
    message: proto::AccountDiff,
) -> Result<(alloy_primitives::Address, AccountDiff), Invalid> {
    let proto::AccountDiff { address: at, account, wiped, slots } = message;
    let account = account.map(Account::try_from).transpose().within("account")?;
    let slots = slots.iter().map(|proto::SlotDiff { slot, value }| {
        Ok((uint("slots.slot", slot)?, uint("slots.value", value)?))
    });
    let slots: HashMap<U256, U256> = slots.collect::<Result<_, Invalid>>()?;
    let slots = slots.into_iter().collect();
    Ok((address("address", &at)?, AccountDiff { account, wiped, slots }))
}

impl From<&Account> for proto::Account {
    fn from(account: &Account) -> Self {
        let Account { nonce, balance, code_hash } = *account;
        Self { nonce, balance: minimal(balance), code_hash: bytes(code_hash.as_slice()) }
    }
}

impl TryFrom<proto::Account> for Account {
    type Error = Invalid;

    fn try_from(message: proto::Account) -> Result<Self, Invalid> {
        let proto::Account { nonce, balance, code_hash } = message;
        Ok(Self {
            nonce,
            balance: uint("balance", &balance)?,
            code_hash: fixed("code_hash", &code_hash)?,
        })
    }
}

fn minimal(number: U256) -> bytes::Bytes {
    number.to_be_bytes_trimmed_vec().into()
}

fn optional_bytes(hash: Option<&B256>) -> bytes::Bytes {
    hash.map_or_else(Default::default, |hash| bytes(hash.as_slice()))
}
