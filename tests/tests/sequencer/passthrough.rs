//! The off switch: what was being built is given up aloud, and the chain goes on.

use alloy_rpc_types_engine::PayloadStatusEnum;
use preconf_chassis::{Security, channel};
use preconf_primitives::AbandonReason;
use preconf_wire::admin::AdminClient;

use crate::system::{DEADLINE, System, attributes};

#[tokio::test(flavor = "multi_thread")]
async fn in_passthrough_the_chain_gets_the_clients_blocks_and_afterwards_ours() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    // What the builder takes stays with it: so it alone has to keep what it promised.
    let flags = ["--admin-listen", &admin, "--txpool.private"];
    let mut system = System::start_flagged(&flags).await;
    let channel = channel(&admin.parse().unwrap(), &Security::default()).unwrap();
    let operator = AdminClient::new(channel, DEADLINE);

    let id = system.build(attributes(2)).await.unwrap();
    let transaction = system.transfer(0, 0);
    system.submit(&transaction).await.unwrap();
    system.until_preconfirmed(1).await;
    let status = operator.set_passthrough(true, "an upgrade").await.unwrap();
    assert_eq!(status.passthrough.unwrap().reason, "an upgrade");
    assert_eq!(system.session_end().await, Some(AbandonReason::Passthrough));
    system.until_ended(AbandonReason::Passthrough.as_str()).await;

    // The id was handed out before.
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    // Only the execution client's own blocks say so.
    assert_eq!(payload.extra_data.as_ref(), b"preconf devnet");
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.block_hash).await;
    let theirs = system.build(attributes(4)).await.unwrap();
    let envelope = system.payload(theirs).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!((payload.block_number, payload.extra_data.as_ref()), (2, &b"preconf devnet"[..]));
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.advance(payload.block_hash).await;
    // No build has begun meanwhile.
    assert_eq!(system.ended(AbandonReason::Passthrough.as_str()), (1, 0));

    let status = operator.set_passthrough(false, "").await.unwrap();
    assert_eq!(status.passthrough, None);
    let id = system.build(attributes(6)).await.unwrap();
    // The first flashblock after it keeps what had been promised.
    let first = system.flashblock().await;
    assert_eq!(first.opening().unwrap().base.block_number, 3);
    assert_eq!(first.transactions(), [transaction.encoded().clone()]);
    let envelope = system.payload(id).await;
    let payload = &envelope.envelope_inner.execution_payload.payload_inner.payload_inner;
    assert_eq!(payload.transactions, [transaction.encoded().clone()]);
    assert_eq!(system.new_payload(&envelope).await.status, PayloadStatusEnum::Valid);
    system.stop().await;
}
