//! The signer over a real socket: what it signs verifies, and what it refuses says why.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use clap::Parser;
use preconf_chassis::{Context, Endpoint, Security, channel};
use preconf_primitives::{
    AbandonReason, Base, Digest, Epoch, Flashblock, FlashblockParts, Opening, PayloadId, Position,
    Retracted, Retraction, RetractionCause, Seq, Withdrawal,
};
use preconf_signer::{Config, Seed, spawn};
use preconf_signing::{
    Checked, OpenSession, OpenedSession, SignFlashblock, Signatures, SignedFlashblock,
    SignerRefusal, SignerRefusalReason as Reason, Verifier, v2,
};
use preconf_wire::signer::{SealSession, SignerClient, SignerError};
use serde_json::Value;
use tempfile::TempDir;

use self::authority::{Authority, write_secret};

/// That of the chassis' own tests.
#[path = "../../../crates/chassis/tests/authority/mod.rs"]
mod authority;

const DEADLINE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(30);
const SEED: Seed = Seed { epoch: Epoch::new(0), seq: Seq::new(6) };
const KEY: &str = "0x144b27828e305a2d67fc7f4eea6de706b405cdd1ab8ad2daec046ccdeeec8b79";
const CHAIN_ID: u64 = 80094;

/// A signer on a socket of its own, and a client.
struct Running {
    context: Context,
    client: SignerClient,
    _directory: TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::with(KEY, CHAIN_ID).await
    }

    async fn with(key: &str, chain_id: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = format!("unix:{}", directory.path().join("signer.sock").display());
        let context = Context::for_test();
        let record = directory.path().join("record").display().to_string();
        let flags = ["--listen", &listen, "--record", &record];
        let config = config(directory.path(), key, chain_id, &flags);
        let endpoint = start(&config, &context).await;
        let client = client(&endpoint, &Security::default());
        Self { context, client, _directory: directory }
    }

    async fn lease(&self) -> Epoch {
        self.client.acquire_lease("builder-0", LEASE).await.unwrap().epoch
    }

    async fn open(&self, epoch: Epoch, block_number: u64) -> OpenedSession {
        let payload_id = PayloadId::from(block_number.to_be_bytes());
        let parent_hash = B256::repeat_byte(1);
        let request = OpenSession { epoch, block_number, parent_hash, payload_id };
        self.client.open_session(request).await.unwrap()
    }

    async fn finish(self) {
        self.context.finish(DEADLINE).await.unwrap();
    }
}

fn config(directory: &Path, key: &str, chain_id: u64, flags: &[&str]) -> Config {
    let file = directory.join("signing-key.hex");
    write_secret(&file, key);
    let chain_id = chain_id.to_string();
    let own = ["signer", "--chain-id", &chain_id, "--flashblock-signing-key"];
    let flags = own.into_iter().chain([file.to_str().unwrap()]).chain(flags.iter().copied());
    Config::try_parse_from(flags).unwrap()
}

async fn start(config: &Config, context: &Context) -> Endpoint {
    spawn(config.prepare().unwrap().with_seed(SEED), context).await.unwrap()
}

fn client(endpoint: &Endpoint, security: &Security) -> SignerClient {
    SignerClient::new(channel(endpoint, security).unwrap(), DEADLINE)
}

fn refusal<T>(answer: Result<T, SignerError>) -> SignerRefusal {
    match answer {
        Err(SignerError::Refused(refusal)) => refusal,
        Err(error) => panic!("not a refusal: {error:?}"),
        Ok(_) => panic!("not refused"),
    }
}

/// A flashblock of the session for block 100.
fn flashblock(index: u64, seq: Seq, is_last: bool, parent_digest: Digest) -> Flashblock {
    let base = || Base {
        parent_beacon_block_root: B256::ZERO,
        parent_hash: B256::repeat_byte(1),
        fee_recipient: Address::ZERO,
        prev_randao: B256::ZERO,
        block_number: 100,
        gas_limit: 30_000_000,
        timestamp: 1,
        extra_data: Bytes::new(),
        base_fee_per_gas: 7,
        prev_proposer_pubkey: None,
    };
    let withdrawal =
        || Withdrawal { index: 1, validator_index: 2, address: Address::ZERO, amount_gwei: 3 };
    Flashblock::new(FlashblockParts {
        payload_id: PayloadId::from(100_u64.to_be_bytes()),
        position: Position::new(seq, index),
        block_number: 100,
        opening: (index == 0).then(|| Opening { base: base(), withdrawals: vec![withdrawal()] }),
        transactions: vec![Bytes::from(vec![2, index as u8])],
        is_last,
        published_at_ms: 1_800_000_000_000 + index,
        traceparent: Some(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap(),
        ),
        parent_digest,
    })
    .unwrap()
}

fn request(epoch: Epoch, flashblock: &Flashblock) -> SignFlashblock {
    SignFlashblock {
        epoch,
        position: flashblock.position(),
        hashes: v2::ContentHashes::of(flashblock),
        published_at_ms: flashblock.published_at_ms(),
        is_last: flashblock.is_last(),
        parent_digest: flashblock.parent_digest(),
    }
}

#[tokio::test]
async fn a_session_is_signed_from_its_opening_to_its_seal() {
    let signer = Running::start().await;
    let head = signer.client.head().await.unwrap();
    assert_eq!((head.chain_id, head.position, head.digest), (CHAIN_ID, None, Digest::ZERO));
    let verifier = Verifier::new(CHAIN_ID, vec![head.public_key]);
    let epoch = signer.lease().await;
    assert_eq!(signer.client.renew_lease(epoch).await.unwrap(), LEASE);
    let OpenedSession { seq, mut parent_digest } = signer.open(epoch, 100).await;

    for index in 0..3 {
        let flashblock = flashblock(index, seq, index == 2, parent_digest);
        let signatures = signer.client.sign(&request(epoch, &flashblock)).await.unwrap();
        let Signatures { digest, signature, seal } = signatures;
        let signed = SignedFlashblock { flashblock, signature, seal };
        let verified = verifier.flashblock(signed, Checked::Both).unwrap();
        assert_eq!(verified.digest(), digest);
        let evidence = signer.client.evidence(Position::new(seq, index)).await.unwrap();
        assert_eq!(evidence, Some(signatures));
        parent_digest = digest;
    }
    let (block_hash, state_root) = (B256::repeat_byte(0xaa), B256::repeat_byte(0xbb));
    let sealed = SealSession { epoch, seq, block_hash, state_root };
    let sealed = signer.client.seal(sealed).await.unwrap();
    assert_eq!(sealed.statement.last_digest, parent_digest);
    verifier.sealed(sealed).unwrap();

    let head = signer.client.head().await.unwrap();
    assert_eq!((head.epoch, head.last_seq), (epoch, seq));
    assert_eq!((head.position, head.digest), (Some(Position::new(seq, 2)), parent_digest));
    let next = signer.open(epoch, 101).await;
    assert_eq!(next.parent_digest, parent_digest);
    signer.finish().await;
}

#[tokio::test]
async fn an_abandon_and_a_retraction_verify() {
    let signer = Running::start().await;
    let verifier = Verifier::new(CHAIN_ID, vec![signer.client.head().await.unwrap().public_key]);
    let epoch = signer.lease().await;
    let OpenedSession { seq, parent_digest } = signer.open(epoch, 100).await;
    let first = request(epoch, &flashblock(0, seq, false, parent_digest));
    let digest = signer.client.sign(&first).await.unwrap().digest;

    let abandoned = signer.client.abandon(epoch, seq, AbandonReason::HeadChanged).await.unwrap();
    let retracted = Retracted {
        at: Position::new(seq, 0),
        block_number: 100,
        retractions: vec![Retraction {
            transaction: B256::repeat_byte(1),
            cause: RetractionCause::BlockReplaced,
        }],
    };
    let answer = signer.client.retract(epoch, &retracted).await.unwrap();

    assert_eq!(abandoned.statement.last_digest, digest);
    verifier.abandoned(abandoned).unwrap();
    assert_eq!(answer.statement, retracted);
    verifier.retracted(answer).unwrap();
    signer.finish().await;
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_bytes() {
    let signer = Running::start().await;
    let epoch = signer.lease().await;
    let OpenedSession { seq, parent_digest } = signer.open(epoch, 100).await;
    let sign = request(epoch, &flashblock(0, seq, true, parent_digest));
    let seal = SealSession { epoch, seq, block_hash: B256::ZERO, state_root: B256::ZERO };
    let retracted =
        Retracted { at: Position::new(seq, 0), block_number: 100, retractions: Vec::new() };

    let first = (
        signer.client.sign(&sign).await.unwrap(),
        signer.client.seal(seal).await.unwrap(),
        signer.client.retract(epoch, &retracted).await.unwrap(),
    );
    let again = (
        signer.client.sign(&sign).await.unwrap(),
        signer.client.seal(seal).await.unwrap(),
        signer.client.retract(epoch, &retracted).await.unwrap(),
    );

    assert_eq!(first, again);
    let metrics = signer.context.registry.encode();
    for kind in ["flashblock", "sealed", "retracted"] {
        for name in ["signatures", "repeats"] {
            let line = format!("preconf_test_{name}_total{{kind=\"{kind}\"}} 1");
            assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
        }
    }
    assert!(metrics.contains("preconf_test_last_seq 7\n"), "{metrics}");
    signer.finish().await;
}

#[tokio::test]
async fn requests_at_once_for_one_position_get_one_content_signed() {
    let signer = Running::start().await;
    let epoch = signer.lease().await;
    let OpenedSession { seq, parent_digest } = signer.open(epoch, 100).await;
    let sign = request(epoch, &flashblock(0, seq, false, parent_digest));

    let asked = (0..20).map(|number| {
        let client = signer.client.clone();
        let request = SignFlashblock { published_at_ms: number % 4, ..sign };
        tokio::spawn(async move { client.sign(&request).await })
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap());
    }

    let signed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(signed.len(), 5, "one of the four contents, five times");
    assert!(signed.iter().all(|&signatures| signatures == signed[0]));
    let winner = *signed[0];
    for refused in answers.into_iter().filter(Result::is_err) {
        let refused = refusal(refused);
        assert_eq!(refused.reason, Reason::Equivocation);
        assert_eq!(refused.evidence.as_deref(), Some(&winner));
    }
    signer.finish().await;
}

#[tokio::test]
async fn an_equivocation_is_refused_with_the_evidence_against_it() {
    let signer = Running::start().await;
    let verifier = Verifier::new(CHAIN_ID, vec![signer.client.head().await.unwrap().public_key]);
    let epoch = signer.lease().await;
    let OpenedSession { seq, parent_digest } = signer.open(epoch, 100).await;
    let honest = flashblock(0, seq, false, parent_digest);
    let signatures = signer.client.sign(&request(epoch, &honest)).await.unwrap();

    let other = flashblock(0, seq, true, parent_digest);
    let refused = refusal(signer.client.sign(&request(epoch, &other)).await);

    assert_eq!((refused.reason, refused.expected), (Reason::Equivocation, None));
    let evidence = *refused.evidence.unwrap();
    assert_eq!(evidence, signatures);
    let Signatures { signature, seal, .. } = evidence;
    let proof = SignedFlashblock { flashblock: honest, signature, seal };
    verifier.flashblock(proof, Checked::Both).unwrap();
    let metrics = signer.context.registry.encode();
    let line = "preconf_test_refusals_total{reason=\"equivocation\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    signer.finish().await;
}

#[tokio::test]
async fn every_refusal_arrives_with_its_reason() {
    let signer = Running::start().await;
    let client = &signer.client;
    let epoch = signer.lease().await;
    let held = refusal(client.acquire_lease("builder-1", LEASE).await);
    assert_eq!(held, SignerRefusal::new(Reason::LeaseHeld));
    let lost = refusal(client.renew_lease(Epoch::new(0)).await);
    assert_eq!(lost, SignerRefusal::new(Reason::LeaseLost));

    let OpenedSession { seq, parent_digest } = signer.open(epoch, 100).await;
    let gap = request(epoch, &flashblock(1, seq, false, parent_digest));
    let expected = Some(Position::new(seq, 0));
    let out_of_order = SignerRefusal { expected, ..SignerRefusal::new(Reason::OutOfOrder) };
    assert_eq!(refusal(client.sign(&gap).await), out_of_order);

    let first = request(epoch, &flashblock(0, seq, false, parent_digest));
    let signed = client.sign(&first).await.unwrap();
    let orphan = SignFlashblock { position: Position::new(seq, 1), ..first };
    let wrong_parent = SignerRefusal {
        reason: Reason::WrongParent,
        evidence: Some(Box::new(signed)),
        expected: Some(Position::new(seq, 1)),
    };
    assert_eq!(refusal(client.sign(&orphan).await), wrong_parent);

    client.abandon(epoch, seq, AbandonReason::Expired).await.unwrap();
    let late = SignFlashblock { parent_digest: signed.digest, ..orphan };
    let ended = refusal(client.sign(&late).await);
    assert_eq!((ended.reason, ended.evidence), (Reason::Ended, Some(Box::new(signed))));

    let unknown = refusal(client.abandon(epoch, Seq::new(99), AbandonReason::Expired).await);
    assert_eq!(unknown, SignerRefusal::new(Reason::NotOpen));
    let parent_hash = B256::ZERO;
    let payload_id = PayloadId::ZERO;
    let far = OpenSession { epoch, block_number: 10_000, parent_hash, payload_id };
    assert_eq!(refusal(client.open_session(far).await), SignerRefusal::new(Reason::TooFar));
    for number in 1..16_u64 {
        let payload_id = PayloadId::from(number.to_be_bytes());
        let again = OpenSession { epoch, block_number: 100, parent_hash, payload_id };
        client.open_session(again).await.unwrap();
    }
    let more = OpenSession { epoch, block_number: 100, parent_hash, payload_id };
    let too_many = SignerRefusal::new(Reason::TooManySessions);
    assert_eq!(refusal(client.open_session(more).await), too_many);
    assert_eq!(client.evidence(Position::new(seq, 5)).await.unwrap(), None);
    signer.finish().await;
}

#[tokio::test]
async fn a_signer_that_is_started_again_uses_higher_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("signer.sock").display());
    let config = config(directory.path(), KEY, CHAIN_ID, &["--listen", &listen]);
    let mut used = Vec::new();
    for _ in 0..2 {
        let context = Context::for_test();
        let endpoint = spawn(config.prepare().unwrap(), &context).await.unwrap();
        let client = client(&endpoint, &Security::default());
        let epoch = client.acquire_lease("a", LEASE).await.unwrap().epoch;
        let (parent_hash, payload_id) = (B256::ZERO, PayloadId::ZERO);
        let request = OpenSession { epoch, block_number: 1, parent_hash, payload_id };
        let seq = client.open_session(request).await.unwrap().seq;
        used.push((epoch, seq));
        context.finish(DEADLINE).await.unwrap();
        // The numbers are milliseconds, of which a process takes more than one to start.
        while Seed::from_clock(SystemTime::now()).seq <= seq {
            tokio::task::yield_now().await;
        }
    }
    assert!(used[0].0 < used[1].0 && used[0].1 < used[1].1, "{used:?}");
}

#[tokio::test]
async fn over_tls_only_certificates_with_an_allowed_name_are_served() {
    let authority = Authority::new();
    let context = Context::for_test();
    let files = authority.args("signer");
    let flag = |path: &Option<PathBuf>| path.clone().unwrap().display().to_string();
    let (cert, key, ca) = (flag(&files.tls_cert), flag(&files.tls_key), flag(&files.tls_ca));
    let links = ["--listen", "https://localhost:0", "--tls-cert", &cert, "--tls-key", &key];
    let flags: Vec<&str> = links.into_iter().chain(["--tls-ca", &ca]).collect();
    let config = config(authority.directory.path(), KEY, CHAIN_ID, &flags);
    let endpoint = start(&config, &context).await;

    client(&endpoint, &authority.issue("builder")).head().await.unwrap();
    let denied = client(&endpoint, &authority.issue("gateway")).head().await.unwrap_err();

    let SignerError::Unavailable(status) = denied else { panic!("{denied:?}") };
    assert_eq!(status.message(), "the certificate has no allowed name");
    context.finish(DEADLINE).await.unwrap();
}

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn v2_vectors() -> Value {
    vectors(include_str!("../../../crates/signing/testdata/v2.json"))
}

fn fixed<const N: usize>(value: &Value) -> FixedBytes<N> {
    value.as_str().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// The request for the flashblock of a v2 vector.
fn vector_request(epoch: Epoch, vector: &Value) -> SignFlashblock {
    let traceparent = vector["traceparent"].as_str().map(|text| text.parse().unwrap());
    SignFlashblock {
        epoch,
        position: Position::new(Seq::new(number(&vector["seq"])), number(&vector["index"])),
        hashes: v2::ContentHashes {
            base: fixed(&vector["base_hash"]),
            transactions: fixed(&vector["tx_hash"]),
            withdrawals: fixed(&vector["withdrawals_hash"]),
            traceparent: v2::traceparent_hash(traceparent.as_ref()),
        },
        published_at_ms: number(&vector["published_at_ms"]),
        is_last: vector["is_last"].as_bool().unwrap(),
        parent_digest: Digest::new(fixed(&vector["parent_digest"])),
    }
}

/// A signer that has signed the three flashblocks of the vectors' session 7.
async fn after_the_chain(vectors: &Value) -> (Running, Epoch) {
    let signer = Running::with(vectors["secret_key"].as_str().unwrap(), CHAIN_ID).await;
    let epoch = signer.lease().await;
    let chain = &vectors["flashblocks"].as_array().unwrap()[..3];
    let block_number = number(&chain[0]["block_number"]);
    let parent_hash = fixed(&chain[0]["base"]["parent_hash"]);
    let payload_id = fixed(&chain[0]["payload_id"]);
    let request = OpenSession { epoch, block_number, parent_hash, payload_id };
    let opened = signer.client.open_session(request).await.unwrap();
    assert_eq!(opened.seq.get(), number(&chain[0]["seq"]));
    for vector in chain {
        let name = &vector["name"];
        let signed = signer.client.sign(&vector_request(epoch, vector)).await.unwrap();
        assert_eq!(signed.digest.get(), fixed::<32>(&vector["digest"]), "{name}");
        assert_eq!(signed.seal, fixed::<96>(&vector["seal"]), "{name}");
    }
    (signer, epoch)
}

#[tokio::test]
async fn the_chain_of_the_v2_vectors_is_reproduced_to_its_seal() {
    let vectors = v2_vectors();
    let (signer, epoch) = after_the_chain(&vectors).await;
    let vector = &vectors["statements"][2];
    assert_eq!(vector["kind"], "sealed");
    let (block_hash, state_root) = (fixed(&vector["block_hash"]), fixed(&vector["state_root"]));
    let seq = Seq::new(number(&vector["seq"]));

    let sealed = signer.client.seal(SealSession { epoch, seq, block_hash, state_root }).await;

    assert_eq!(sealed.unwrap().seal, fixed::<96>(&vector["seal"]));
    signer.finish().await;
}

#[tokio::test]
async fn the_abandons_and_retractions_of_the_v2_vectors_are_reproduced() {
    let vectors = v2_vectors();
    for vector in &vectors["statements"].as_array().unwrap()[..2] {
        assert_eq!(vector["kind"], "abandoned");
        let (signer, epoch) = after_the_chain(&vectors).await;
        let reason = AbandonReason::from_number(number(&vector["reason"]) as u8).unwrap();
        let abandoned = signer.client.abandon(epoch, Seq::new(7), reason).await.unwrap();
        assert_eq!(abandoned.seal, fixed::<96>(&vector["seal"]));

        let OpenedSession { seq, mut parent_digest } = signer.open(epoch, 100).await;
        for index in 0..2 {
            let next = request(epoch, &flashblock(index, seq, false, parent_digest));
            parent_digest = signer.client.sign(&next).await.unwrap().digest;
        }
        for vector in &vectors["statements"].as_array().unwrap()[3..] {
            assert_eq!(vector["kind"], "retracted");
            let retraction = |item: &Value| Retraction {
                transaction: fixed(&item[0]),
                cause: RetractionCause::from_number(number(&item[1]) as u8).unwrap(),
            };
            let retracted = Retracted {
                at: Position::new(Seq::new(number(&vector["seq"])), number(&vector["index"])),
                block_number: number(&vector["block_number"]),
                retractions: vector["retractions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(retraction)
                    .collect(),
            };
            let signed = signer.client.retract(epoch, &retracted).await.unwrap();
            assert_eq!(signed.seal, fixed::<96>(&vector["seal"]));
        }
        signer.finish().await;
    }
}

#[tokio::test]
async fn the_v1_vectors_are_reproduced() {
    let vectors = vectors(include_str!("../../../crates/signing/testdata/v1.json"));
    let mut reproduced = 0;
    for vector in vectors["signing"].as_array().unwrap() {
        let index = number(&vector["index"]);
        if index > 1 {
            continue;
        }
        let signer =
            Running::with(vector["secret_key"].as_str().unwrap(), number(&vector["chain_id"]))
                .await;
        let epoch = signer.lease().await;
        let block_number = number(&vector["block_number"]);
        let (parent_hash, payload_id) = (B256::ZERO, fixed(&vector["payload_id"]));
        let open = OpenSession { epoch, block_number, parent_hash, payload_id };
        let OpenedSession { seq, mut parent_digest } =
            signer.client.open_session(open).await.unwrap();
        for before in 0..index {
            let request = request(epoch, &flashblock(before, seq, false, parent_digest));
            parent_digest = signer.client.sign(&request).await.unwrap().digest;
        }
        let mut request = request(epoch, &flashblock(index, seq, false, parent_digest));
        request.hashes.transactions = fixed(&vector["tx_hash"]);

        let signed = signer.client.sign(&request).await.unwrap();

        assert_eq!(signed.signature, fixed::<96>(&vector["signature"]), "{}", vector["name"]);
        reproduced += 1;
        signer.finish().await;
    }
    assert_eq!(reproduced, 12, "all but the one whose index is the largest number");
}
