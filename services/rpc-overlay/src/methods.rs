//! Which method is answered from where: one table.
//!
//! | handling | meaning |
//! |---|---|
//! | served | computed from the snapshot; asked of the execution client if the snapshot has no say |
//! | pinned | asked of the execution client, about the canonical block that the snapshot builds upon |
//! | forwarded | asked of the execution client, word for word; so is every method not in the table |
//! | refused | not offered, and why |
//!
//! What is pinned is refused for a pending block. Without a fresh snapshot, what is served or pinned
//! is forwarded too.

use alloy_primitives::B256;
use alloy_rpc_types_eth::{BlockId, BlockNumberOrTag};

use crate::{
    failure::Failure,
    params::Params,
    pin::{Pin, Takes},
};

/// How a method is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handling {
    Served(Served),
    Pinned(Pin),
    Forwarded,
    Refused(&'static str),
}

/// What the overlay computes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// An answer about one block.
    At(AtBlock),
    BlockNumber,
    GasPrice,
    Logs,
    Receipt,
    SendRawTransaction,
    TransactionByHash,
}

/// A question about one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtBlock {
    pub(crate) question: Question,
    /// Where the block is named, and how.
    pub(crate) index: usize,
    pub(crate) named: Named,
}

/// What is asked about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    AccessList,
    Balance,
    Block,
    BlockReceipts,
    Call,
    Code,
    EstimateGas,
    Nonce,
    Simulation,
    Slot,
    Transaction,
    TransactionCount,
}

/// How a parameter may name a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By tag, number or hash (EIP-1898); if it is missing, the latest is meant.
    Any,
    /// By hash only.
    ByHash,
    /// By tag or number. The method of this name asks the same by hash.
    ByNumber(&'static str),
}

impl AtBlock {
    /// How the execution client is asked about one block.
    pub(crate) const fn takes(&self) -> Takes {
        match self.named {
            Named::Any | Named::ByHash => Takes::Id,
            Named::ByNumber(sibling) => Takes::NumberOr(sibling),
        }
    }

    /// The block that the parameters name.
    pub(crate) fn block(&self, params: &Params<'_>) -> Result<BlockId, Failure> {
        let index = self.index;
        match self.named {
            Named::Any => Ok(params.optional(index, "block")?.unwrap_or_else(BlockId::latest)),
            Named::ByHash => params.required::<B256>(index, "block hash").map(BlockId::from),
            Named::ByNumber(_) => {
                params.required::<BlockNumberOrTag>(index, "block number").map(BlockId::from)
            }
        }
    }
}

/// A method of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    /// Its name, `other` if the table does not have it: a label that no caller can invent.
    pub(crate) name: &'static str,
    pub(crate) handling: Handling,
}

/// Finds out how a method is handled.
pub(crate) fn find(name: &str) -> Method {
    match TABLE.binary_search_by_key(&name, |(known, _)| known) {
        Ok(at) => {
            let (name, handling) = TABLE[at];
            Method { name, handling }
        }
        Err(_) => Method { name: "other", handling: unlisted(name) },
    }
}

/// A public port takes questions to the execution client, never orders, and no transactions but by
/// one way.
fn unlisted(name: &str) -> Handling {
    const ORDERS: [&str; 10] = [
        "admin_",
        "anvil_",
        "clique_",
        "engine_",
        "evm_",
        "hardhat_",
        "miner_",
        "personal_",
        "shh_",
        "testing_",
    ];
    /// Of this namespace some methods write files or change the client.
    const DEBUG: &str = "debug_";
    const DEBUG_QUESTIONS: [&str; 5] = [
        "debug_executionWitness",
        "debug_get",
        "debug_intermediateRoots",
        "debug_storageRangeAt",
        "debug_trace",
    ];
    const SENDS: [&str; 4] = ["eth_send", "eth_sign", "eth_submit", "eth_cancel"];
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if begins(&ORDERS) || (name.starts_with(DEBUG) && !begins(&DEBUG_QUESTIONS)) {
        return Handling::Refused("it commands the execution client");
    }
    if begins(&SENDS) {
        return Handling::Refused("transactions are taken by eth_sendRawTransaction alone");
    }
    Handling::Forwarded
}

const fn at(question: Question, index: usize, named: Named) -> Handling {
    Handling::Served(Served::At(AtBlock { question, index, named }))
}

const SUBSCRIPTION: Handling =
    Handling::Refused("poll, or subscribe at the execution client; there are none yet");

const NO_KEYS: Handling = Handling::Refused("nobody's keys are used for others");

/// Every method with a handling of its own, in alphabetical order.
const TABLE: &[(&str, Handling)] = {
    use Handling::{Pinned, Refused, Served as S};
    use Named::{Any, ByHash, ByNumber};
    use Pin::{Block, Context, Range};
    use Question as Q;
    use Takes::{Id, Number, NumberOr};
    &[
        ("debug_accountRange", Pinned(Block(0, Id))),
        ("debug_executionWitness", Pinned(Block(0, Number))),
        ("debug_getRawBlock", Pinned(Block(0, Id))),
        ("debug_getRawHeader", Pinned(Block(0, Id))),
        ("debug_getRawReceipts", Pinned(Block(0, Id))),
        ("debug_traceBlockByNumber", Pinned(Block(0, NumberOr("debug_traceBlockByHash")))),
        ("debug_traceCall", Pinned(Block(1, Id))),
        ("debug_traceCallMany", Pinned(Context(1))),
        ("eth_blockNumber", S(Served::BlockNumber)),
        ("eth_call", at(Q::Call, 1, Any)),
        ("eth_callMany", Pinned(Context(1))),
        ("eth_createAccessList", at(Q::AccessList, 1, Any)),
        ("eth_estimateGas", at(Q::EstimateGas, 1, Any)),
        ("eth_feeHistory", Pinned(Block(1, Number))),
        ("eth_gasPrice", S(Served::GasPrice)),
        ("eth_getAccount", Pinned(Block(1, Id))),
        ("eth_getAccountInfo", Pinned(Block(1, Id))),
        ("eth_getBalance", at(Q::Balance, 1, Any)),
        ("eth_getBlockAccessList", Pinned(Block(0, Id))),
        ("eth_getBlockByHash", at(Q::Block, 0, ByHash)),
        ("eth_getBlockByNumber", at(Q::Block, 0, ByNumber("eth_getBlockByHash"))),
        ("eth_getBlockReceipts", at(Q::BlockReceipts, 0, Any)),
        ("eth_getBlockTransactionCountByHash", at(Q::TransactionCount, 0, ByHash)),
        (
            "eth_getBlockTransactionCountByNumber",
            at(Q::TransactionCount, 0, ByNumber("eth_getBlockTransactionCountByHash")),
        ),
        ("eth_getCode", at(Q::Code, 1, Any)),
        ("eth_getHeaderByNumber", Pinned(Block(0, NumberOr("eth_getHeaderByHash")))),
        ("eth_getLogs", S(Served::Logs)),
        ("eth_getProof", Pinned(Block(2, Id))),
        (
            "eth_getRawTransactionByBlockNumberAndIndex",
            Pinned(Block(0, NumberOr("eth_getRawTransactionByBlockHashAndIndex"))),
        ),
        ("eth_getStorageAt", at(Q::Slot, 2, Any)),
        ("eth_getStorageValues", Pinned(Block(1, Id))),
        ("eth_getTransactionByBlockHashAndIndex", at(Q::Transaction, 0, ByHash)),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            at(Q::Transaction, 0, ByNumber("eth_getTransactionByBlockHashAndIndex")),
        ),
        ("eth_getTransactionByHash", S(Served::TransactionByHash)),
        ("eth_getTransactionCount", at(Q::Nonce, 1, Any)),
        ("eth_getTransactionReceipt", S(Served::Receipt)),
        (
            "eth_getUncleByBlockNumberAndIndex",
            Pinned(Block(0, NumberOr("eth_getUncleByBlockHashAndIndex"))),
        ),
        (
            "eth_getUncleCountByBlockNumber",
            Pinned(Block(0, NumberOr("eth_getUncleCountByBlockHash"))),
        ),
        ("eth_sendRawTransaction", S(Served::SendRawTransaction)),
        (
            "eth_sendRawTransactionSync",
            Refused("use eth_sendRawTransaction and ask for the receipt"),
        ),
        ("eth_sendTransaction", NO_KEYS),
        ("eth_sign", NO_KEYS),
        ("eth_signTransaction", NO_KEYS),
        ("eth_simulateV1", at(Q::Simulation, 1, Any)),
        ("eth_subscribe", SUBSCRIPTION),
        ("eth_unsubscribe", SUBSCRIPTION),
        ("trace_block", Pinned(Block(0, Id))),
        ("trace_call", Pinned(Block(2, Id))),
        ("trace_callMany", Pinned(Block(1, Id))),
        ("trace_filter", Pinned(Range(0))),
        ("trace_replayBlockTransactions", Pinned(Block(0, Id))),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_so_that_every_method_is_found() {
        assert!(TABLE.is_sorted_by(|(one, _), (next, _)| one < next));
        for (name, handling) in TABLE {
            let found = find(name);
            assert_eq!((found.name, found.handling), (*name, *handling));
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_forwarded_unless_it_is_an_order() {
        for name in ["eth_chainId", "net_version", "debug_traceTransaction", "x", ""] {
            assert_eq!(find(name).handling, Handling::Forwarded, "{name}");
            assert_eq!(find(name).name, "other");
        }
        for name in [
            "admin_stopHTTP",
            "debug_setHead",
            "debug_goTrace",
            "debug_writeMemProfile",
            "engine_newPayloadV4",
            "eth_sendPrivateTransaction",
            "eth_signTypedData_v4",
            "evm_mine",
            "testing_buildBlockV1",
        ] {
            assert!(matches!(find(name).handling, Handling::Refused(_)), "{name}");
        }
    }
}
