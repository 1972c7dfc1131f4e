//! `eth_getLogs` over canonical and pending blocks: the client's logs up to the canonical block that
//! the snapshot builds upon, and then the snapshot's.

use std::sync::Arc;

use alloy_rpc_types_eth::Filter;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{Ask, Rpc};
use crate::{
    Answer,
    answers::logs::{self, Sources, Until},
    failure::Failure,
    pin::{self, Question},
    view::View,
};

impl Rpc {
    pub(super) async fn logs(&self, ask: Ask<'_>) -> Answer {
        let Some(view) = &ask.view else { return self.forward(&ask).await };
        let filter: Filter = ask.params.optional(0, "filter")?.unwrap_or_default();
        let Sources { client, pending } = logs::sources(&filter, &view.snapshot, self.latest)?;
        let below = match client {
            Some(Until::AsWritten) => Some(self.forward(&ask).await?),
            Some(Until::Block { from, to }) => Some(self.client_logs(&ask, view, from, to).await?),
            None => None,
        };
        match below {
            Some(below) if pending.is_empty() => Ok(below),
            below => {
                let (view, spec) = (Arc::clone(view), Arc::clone(&self.spec));
                let above = self
                    .apart(move || logs::of_blocks(&spec, &view.snapshot.blocks[pending], &filter));
                let above = to_raw_value(&above.await?).expect("logs can be written");
                match below {
                    Some(below) => self.joined(&below, &above),
                    None => Ok(above),
                }
            }
        }
    }

    /// The logs of canonical blocks.
    async fn client_logs(&self, ask: &Ask<'_>, view: &View, from: Option<u64>, to: u64) -> Answer {
        let range: Option<Map<String, Value>> = ask.params.optional(0, "filter")?;
        let mut range = range.unwrap_or_default();
        if let Some(from) = from {
            range.insert("fromBlock".to_owned(), pin::number(from));
        }
        range.insert("toBlock".to_owned(), pin::number(to));
        let params = ask.params.with(0, &pin::written(&json!(range)));
        if to < view.snapshot.canonical.number {
            self.reach(view).await?;
            return self.client.ask(ask.method, Some(params)).await;
        }
        let by_number = (ask.method.to_owned(), params);
        self.ask_canonical(view, Question { by_hash: None, by_number }).await
    }

    fn joined(&self, below: &RawValue, above: &RawValue) -> Result<Box<RawValue>, Failure> {
        let below: Option<Vec<&RawValue>> = self.client.read("eth_getLogs", below)?;
        let above: Vec<&RawValue> =
            serde_json::from_str(above.get()).expect("a list was written above");
        let all = below.into_iter().flatten().chain(above).collect::<Vec<_>>();
        Ok(to_raw_value(&all).expect("JSON that was read can be written"))
    }
}
