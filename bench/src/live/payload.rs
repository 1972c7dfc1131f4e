//! How long getPayload takes, from the question to the sealed block, by how much is in the block.
//!
//! The limit is what any sealed block costs with this execution client, asked directly: that it
//! computes the root of a block with the same transactions (`testing_buildBlockV1`), and checks it
//! (newPayload). Its block differs in `extra_data`, so that the client has seen neither before.

use std::time::{Duration, Instant};

use alloy_primitives::Bytes;
use tokio::time::sleep;

use super::{block_on, quantile, system::System, wrong};
use crate::{
    measure::{Rounds, Wrong, same},
    report::Row,
};

/// How many transactions are in the block.
const SIZES: [usize; 3] = [10, 100, 1_000];
/// How many blocks for each round: a p99 of few is their worst.
const BLOCKS: usize = 4;
/// How long the transactions of a block have to be preconfirmed.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut rows = Vec::new();
    for size in SIZES {
        let (ours, limit) = block_on(of(size, rounds.get() * BLOCKS))?;
        for share in [0.5, 0.99] {
            let name = format!("getPayload, {size} transactions, p{:.0}", share * 100.);
            let row = Row::time(name, &[quantile(&ours, share)]);
            rows.push(row.beside(1, &[quantile(&limit, share)]));
        }
    }
    Ok(rows)
}

async fn of(size: usize, blocks: usize) -> Result<(Vec<Duration>, Vec<Duration>), Wrong> {
    let mut system = System::start().await?;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for number in 0..blocks {
        let transfers = system.transfers(size)?;
        let attributes = system.attributes();
        let parent = system.head().1;
        let id = system.choose(parent, Some(&attributes)).await?;
        let id = id.ok_or(Wrong("an id".to_owned()))?;
        for transfer in &transfers {
            system.submit(transfer.clone()).await?;
        }
        sleep(SETTLE).await;
        let direct = async {
            let started = Instant::now();
            let (engine, rpc) = &system.direct;
            let marked = Bytes::from_static(b"limit");
            let built = rpc.testing_build_block(parent, &attributes, &transfers, &marked).await;
            let built = built.map_err(|error| wrong("testing_buildBlockV1", &error))?;
            system.check(engine, &built).await?;
            Ok::<_, Wrong>(started.elapsed())
        };
        let asked = async {
            let started = Instant::now();
            let envelope = system.payload(id).await?;
            Ok::<_, Wrong>((envelope, started.elapsed()))
        };
        // In turns: whoever comes second finds caches warm.
        let (direct, (envelope, took)) = if number % 2 == 0 {
            let direct = direct.await?;
            (direct, asked.await?)
        } else {
            let asked = asked.await?;
            (direct.await?, asked)
        };
        let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
        same("the number of transactions", &payload.transactions.len(), &size)?;
        ours.push(took);
        limit.push(direct);
        let hash = system.check(&system.engine, &envelope).await?;
        system.choose(hash, None).await?;
    }
    system.stop().await?;
    Ok((ours, limit))
}
