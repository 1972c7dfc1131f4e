//! Filters that are asked from time to time.

use std::time::Instant;

use alloy_primitives::{B256, U64};
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use preconf_chain::rpc::RpcTransaction;
use preconf_engine::RpcError;
use preconf_engine::rpc::{Params, code};

use super::logs;
use crate::client::ExecutionClient;
use crate::client::filters::{FilterError, Kind, News};
use crate::client::methods::{Answer, Method, answer};

pub(super) const METHODS: &[Method] = &[
    Method::new("eth_newFilter", new_filter),
    Method::new("eth_newBlockFilter", |client, _| {
        install(client, Kind::Blocks(client.head_changes()))
    }),
    Method::new("eth_newPendingTransactionFilter", |client, params| {
        let full = params.optional(0, "full transactions")?.unwrap_or(false);
        install(client, Kind::Transactions { full, arrivals: client.arrivals() })
    }),
    Method::new("eth_getFilterChanges", changes),
    Method::new("eth_getFilterLogs", |client, params| {
        let filter = client.filters.lock().logs(id(params)?).map_err(refusal)?;
        answer(&logs::search(client, &filter)?)
    }),
    Method::new("eth_uninstallFilter", |client, params| {
        answer(&client.filters.lock().uninstall(id(params)?))
    }),
];

fn new_filter(client: &ExecutionClient, params: &Params) -> Answer {
    let filter: Filter = params.required(0, "filter")?;
    if let FilterBlockOption::AtBlockHash(_) = filter.block_option {
        return Err(RpcError::invalid_params("nothing new happens in a block that is named"));
    }
    install(client, Kind::Logs(Box::new(filter), client.head_changes()))
}

fn install(client: &ExecutionClient, kind: Kind) -> Answer {
    answer(&client.filters.lock().install(kind, Instant::now()).map_err(refusal)?)
}

fn changes(client: &ExecutionClient, params: &Params) -> Answer {
    let news = client.filters.lock().news(id(params)?, Instant::now()).map_err(refusal)?;
    match news {
        News::Logs(filter, changes) => {
            let logs = changes.iter().flat_map(|change| logs::changed(client, change, &filter));
            answer(&logs.collect::<Vec<_>>())
        }
        News::Blocks(changes) => {
            let hashes = changes.iter().flat_map(|change| &change.added).map(|block| block.hash);
            answer(&hashes.collect::<Vec<B256>>())
        }
        News::Transactions { full: true, arrived } => {
            answer(&arrived.iter().map(RpcTransaction::pending).collect::<Vec<_>>())
        }
        News::Transactions { full: false, arrived } => {
            answer(&arrived.iter().map(|transaction| *transaction.hash()).collect::<Vec<_>>())
        }
    }
}

fn id(params: &Params) -> Result<U64, RpcError> {
    params.required(0, "filter id")
}

fn refusal(error: FilterError) -> RpcError {
    RpcError::new(code::SERVER_ERROR, error.to_string())
}
