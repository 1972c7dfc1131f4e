//! What is served over HTTP is the sealed block, to its proposer and nobody else.

use preconf_devnet::services::PAYLOAD_SERVER;

use crate::network::{
    MIXED, VALIDATORS, ask, is_sequencers, next, refusal, start_quiet, until_each, until_said,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_over_http_is_the_block_that_was_sealed() {
    for chain in ["berachain", "ethereum"] {
        let mut cluster = start_quiet(MIXED, &["--chain", chain]).await;
        let blocks = until_each(&mut cluster, is_sequencers).await;

        let completed = "GetPayloadBySlot completed";
        until_said(&mut cluster, PAYLOAD_SERVER, completed, VALIDATORS).await;
        for block in blocks.iter().filter(|block| is_sequencers(block)) {
            let again = ask(&cluster, block.proposer, block.number).await.unwrap();
            let payload = again.execution_payload.payload_inner.payload_inner;
            assert_eq!((payload.block_hash, payload.block_number), (block.hash, block.number));

            let stranger = (block.proposer + 1) % VALIDATORS;
            let refused = refusal(&cluster, stranger, block.number).await;
            assert_eq!(refused, (403, "not the expected proposer for this slot".to_owned()));
        }
        // Asking again did not hurt the block that is being built.
        next(&mut cluster).await;
        cluster.stop().await;
    }
}
