//! How a sequencer is asked.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_rpc_types_engine::ForkchoiceState;
use preconf_payload_api::ValidatorSecret;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::{
    sequencer::{Answer, Sequencer},
    world::{Proxied, SECRET, SOON, World},
};

const PATIENT: [&str; 2] = ["--fetch-budget-ms", "10000"];

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_is_asked_in_beacon_kits_words_for_the_slot_of_the_block() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let root = "0x3333333333333333333333333333333333333333333333333333333333333333";
    // Block 1, of time 102.
    for (rule, slot) in [("number", "0x1"), ("time:90:2", "0x6")] {
        let sequencer = Sequencer::start(Answer::ok(&good)).await;
        // A slash at the end does not count.
        let url = format!("{}/", sequencer.url());
        let flags = [&PATIENT[..], &["--slot-rule", rule]].concat();
        let sidecar = world.sidecar(&[url], &flags).await;
        assert!(world.propose(&sidecar).await);
        sidecar.stop().await;

        let asked = sequencer.last();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        let (line, head) = head.split_once("\r\n").unwrap();
        assert_eq!(line, "POST /eth/v1/preconf/payload HTTP/1.1");
        assert_eq!(body, format!("{{\"slot\":\"{slot}\",\"parent_block_root\":\"{root}\"}}"));
        let header = |name: &str| {
            let mut lines = head.lines().map(|line| line.split_once(": ").unwrap());
            let (_, value) = lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap();
            value.to_owned()
        };
        assert_eq!(header("content-type"), "application/json");
        let token = header("authorization");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let secret = ValidatorSecret::parse(SECRET).unwrap();
        assert_eq!(secret.verify(token.strip_prefix("Bearer ").unwrap(), now), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_that_is_back_is_asked_again() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start(Answer::HangUp).await;
    let sidecar = world.sidecar(&[sequencer.url()], &PATIENT).await;
    while sidecar.metric("sequencers_lost") == 0.0 {
        assert!(!world.propose(&sidecar).await);
    }
    sequencer.will(Answer::ok(good));
    let began = Instant::now();
    while !world.propose(&sidecar).await {
        assert!(began.elapsed() < SOON);
    }
    assert_eq!(sidecar.metric("sequencers_lost"), 0.0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_that_connecting_to_takes_longer_than_the_budget_is_connected_to_before() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let sequencer = Sequencer::start_far(Answer::ok(good), Duration::from_secs(3)).await;
    let sidecar = world.sidecar(&[sequencer.url()], &["--fetch-budget-ms", "2500"]).await;
    let state = ForkchoiceState { head_block_hash: world.head(), ..ForkchoiceState::default() };
    let updated = sidecar.door.fork_choice_updated_v3(state, Some(&world.attributes), SOON).await;
    let began = Instant::now();
    while sequencer.greeted() == 0 {
        assert!(began.elapsed() < SOON);
        tokio::task::yield_now().await;
    }
    let id = updated.unwrap().payload_id.unwrap();
    sidecar.door.get_payload_v4(id, SOON).await.unwrap();
    assert_eq!(sidecar.metric("payloads_total{source=\"sequencer\"}"), 1.0);
    sidecar.stop().await;
}

/// An authority, and what a server of this machine shows that has its certificate.
fn authority() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (authority, Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_sequencer_is_asked_that_the_pinned_authority_vouches_for_and_no_other() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let (pinned, config) = authority();
    let (_, of_others) = authority();
    let pinned = world.write("ca.pem", &pinned);
    let flags = [&PATIENT[..], &["--sequencer-ca-cert", &pinned]].concat();
    for (config, is_theirs) in [(config, true), (of_others, false)] {
        let sequencer = Sequencer::start_tls(Answer::ok(&good), config).await;
        let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
        assert_eq!(world.propose(&sidecar).await, is_theirs);
        // Whoever is not trusted does not even see the token.
        assert_eq!(sequencer.asked(), usize::from(is_theirs));
        sidecar.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_believed_as_soon_as_it_is_pinned() {
    let world = World::start().await;
    let good = world.built(&world.attributes).await.to_json();
    let (pinned, _) = authority();
    let (other, config) = authority();
    let sequencer = Sequencer::start_tls(Answer::ok(&good), config).await;
    let file = world.write("ca.pem", &pinned);
    let flags = [&PATIENT[..], &["--sequencer-ca-cert", &file]].concat();
    let sidecar = world.sidecar(&[sequencer.url()], &flags).await;
    assert!(!world.propose(&sidecar).await);
    for (text, outcome, is_theirs) in [("", "failed", false), (&other, "ok", true)] {
        let counted =
            format!("files_reloaded_total{{file=\"sequencer_ca_cert\",outcome=\"{outcome}\"}}");
        world.write("ca.pem", text);
        let began = Instant::now();
        while sidecar.metric(&counted) == 0.0 {
            assert!(began.elapsed() < SOON, "{outcome}");
            tokio::task::yield_now().await;
        }
        assert_eq!(until_asked(&world, &sidecar).await, is_theirs, "{outcome}");
    }
    sidecar.stop().await;
}

/// Proposes until a sequencer that was lost is asked again, or for long enough.
async fn until_asked(world: &World, sidecar: &Proxied) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        if world.propose(sidecar).await {
            return true;
        }
    }
    false
}
