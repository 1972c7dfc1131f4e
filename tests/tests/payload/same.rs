//! What is served over HTTP is the sealed block, to its proposer and nobody else.

use preconf_devnet::services::PAYLOAD_SERVER;
use preconf_payload_api::{FetchError, FetchFailure};

use crate::network::{ask, is_sequencers, next, said, start, until_both};

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_over_http_is_the_block_that_was_sealed() {
    for chain in ["berachain", "ethereum"] {
        let mut cluster = start(&["--chain", chain]).await;
        let blocks = until_both(&mut cluster, is_sequencers).await;

        assert!(said(&mut cluster, PAYLOAD_SERVER, "GetPayloadBySlot completed") >= 2);
        // On Ethereum slots are counted from a time that this test does not know.
        if chain == "berachain" {
            for block in blocks.iter().filter(|block| is_sequencers(block)) {
                let again = ask(&cluster, block.proposer, block.number).await.unwrap();
                let payload = again.execution_payload.payload_inner.payload_inner;
                assert_eq!(payload.block_hash, block.hash);
                assert_eq!(payload.block_number, block.number);

                let stranger = ask(&cluster, 1 - block.proposer, block.number).await.unwrap_err();
                assert_eq!(stranger.failure(), FetchFailure::Other);
                let FetchError::Refused { status, message, .. } = stranger else { panic!() };
                assert_eq!(status, 403);
                assert_eq!(message, "not the expected proposer for this slot");
            }
        }
        // Asking again did not hurt the block that is being built.
        next(&mut cluster).await;
        cluster.stop().await;
    }
}
