//! The link from the builder's feed to the gateway, over mutual TLS.

use crate::{
    authority::Authority,
    builder::{Builder, Script},
    sequencer::Sequencer,
    world::{Gateway, eventually},
};

#[tokio::test]
async fn a_gateway_with_the_right_name_is_served_and_one_with_another_is_refused() {
    let authority = Authority::new();
    let (mut sequencer, script) = (Sequencer::new(), Script::new());
    let security = authority.issue("builder");
    let (builder, endpoint) = Builder::start_for(&script, &security, "gateway").await;
    let upstream = endpoint.to_string();
    script.publish(sequencer.flashblock(1, 0));

    let ours = Gateway::start_as(authority.issue("gateway"), &upstream, &sequencer, &[]).await;
    let other = Gateway::start_as(authority.issue("consumer"), &upstream, &sequencer, &[]).await;

    ours.context.health.until_ready().await;
    assert_eq!(ours.reader().await.positions(1).await, ["1:0"]);
    let refused = r#"upstream_disconnected_total{reason="refused"}"#;
    eventually(|| other.count(refused) > 0, || other.context.registry.encode()).await;
    assert!(!other.context.health.is_ready());
    assert_eq!(script.cursors(), [None], "the other one never came to the feed");
    builder.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (sequencer, script) = (Sequencer::new(), Script::new());
    let security = authority.issue("builder");
    let (builder, endpoint) = Builder::start_for(&script, &security, "gateway").await;
    let impostor = stranger.issue_trusting("gateway", &authority);

    let gateway = Gateway::start_as(impostor, &endpoint.to_string(), &sequencer, &[]).await;

    let unreachable = r#"upstream_disconnected_total{reason="unreachable"}"#;
    eventually(|| gateway.count(unreachable) > 0, || gateway.context.registry.encode()).await;
    assert!(script.cursors().is_empty());
    builder.stop().await;
}
