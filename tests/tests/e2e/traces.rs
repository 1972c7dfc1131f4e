//! What happens to a flashblock can be followed through all services, and what they count is
//! documented.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use alloy_primitives::{Address, U256};
use preconf_devnet::{traces::Collector, traffic::Intent};
use preconf_tests::cluster::{Cluster, options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a flashblock may take through all services, unoptimised.
const THROUGH: Duration = Duration::from_secs(1);
/// How long everything may take to stop, one after the other, with spans that nobody takes.
const STOP: Duration = Duration::from_secs(60);
/// How many transactions are sent.
const TRANSACTIONS: u64 = 20;
/// Histograms of what happens in a span, in every run.
const EXEMPLARY: [&str; 12] = [
    "preconf_builder_flashblock_transactions",
    "preconf_builder_flashblock_bytes",
    "preconf_builder_publish_seconds",
    "preconf_builder_seal_seconds",
    "preconf_builder_cut_late_seconds",
    "preconf_signer_sign_seconds",
    "preconf_gateway_fanout_seconds",
    "preconf_gateway_flashblock_age_seconds",
    "preconf_consumer_execution_seconds",
    "preconf_consumer_age_seconds",
    "preconf_rpc_overlay_request_seconds",
    "preconf_rpc_overlay_flashblock_age_seconds",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_flashblock_is_one_trace_from_the_builder_to_the_overlay() {
    let options =
        options(&["--tps", "0", "--traces", "--fetch", "mixed"]).with_collector().await.unwrap();
    let collector = options.collector.clone().unwrap();
    let mut cluster = Cluster::of(options).await;
    let begun = SystemTime::now();
    for nonce in 0..TRANSACTIONS {
        let payment = Intent::payment(Address::repeat_byte(0x79), U256::from(1));
        let payment = payment.sign(&cluster.devnet.accounts[0], cluster.chain_id, nonce);
        cluster.overlay.send_raw_transaction(&payment).await.unwrap();
    }
    cluster.canonical(6).await;
    let stopping = SystemTime::now();
    let (counted, with_exemplars) = counted(&cluster).await;
    // Stopping sends what was not sent before.
    cluster.stop().await;

    let traces = collector.judge(begun, stopping - THROUGH);
    // Whatever becomes of the test: this is what it is about.
    writeln!(io::stdout(), "{traces}").unwrap();
    assert!(traces.flashblocks >= 20, "{traces}");
    assert!(traces.objections().is_empty(), "{traces}");
    assert!(traces.blocks >= 3 && traces.whole_blocks + 1 >= traces.blocks, "{traces}");
    assert_eq!([traces.transactions, traces.followed], [TRANSACTIONS as usize; 2], "{traces}");
    assert!(traces.fetched >= 1 && traces.followed_fetches == traces.fetched, "{traces}");
    assert!(traces.calls > 20 && traces.mapped_calls == traces.calls, "{traces}");
    assert_eq!(traces.names.len(), 7, "every service has spans: {:?}", traces.names);

    let spans = document("traces.md");
    for (service, names) in &traces.names {
        let short = service.trim_start_matches("preconf-");
        let row = |name: &str| format!("| {short} | `{name}` |");
        // The names of calls are those of methods.
        let is_call = |name: &str| {
            name.starts_with("preconf.") || short == "rpc-overlay" && name.contains('_')
        };
        let is_listed =
            |name: &&String| name == &"fault" || is_call(name) || spans.contains(&row(name));
        let missing: Vec<_> = names.iter().filter(|name| !is_listed(name)).collect();
        assert!(missing.is_empty(), "{service}: {missing:?} are not in docs/traces.md");
    }

    let metrics = document("metrics.md");
    let is_documented = |name: &&String| metrics.contains(&format!("`{name}`"));
    let missing: Vec<_> = counted.iter().filter(|name| !is_documented(name)).collect();
    assert!(counted.len() > 50 && missing.is_empty(), "of {}: {missing:?}", counted.len());
    for histogram in EXEMPLARY {
        assert!(with_exemplars.contains(histogram), "{histogram}: {with_exemplars:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
    let mut options = options(&[]);
    let (collector, connections) = Collector::deaf().await.unwrap();
    options.collector = Some(collector);
    let mut cluster = Cluster::of(options).await;

    // Each of them is the builder's.
    cluster.canonical(5).await;
    assert!(connections.load(Ordering::Relaxed) >= 5, "each service has tried");

    let stopping = Instant::now();
    cluster.stop().await;
    assert!(stopping.elapsed() < STOP, "{:?}", stopping.elapsed());
}

fn document(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::read_to_string(docs.join(name)).unwrap()
}

/// What the services count, as their health ports say, and which histograms lead to traces.
async fn counted(cluster: &Cluster) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut names, mut with_exemplars) = (BTreeSet::new(), BTreeSet::new());
    for (_, address) in &cluster.devnet.endpoints.health {
        let address = address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.contains("application/openmetrics-text"), "{address}");
        let buckets = response.lines().filter(|line| line.contains(" # {trace_id=\""));
        let names_of = |line: &str| Some(line.split_once("_bucket{")?.0.to_owned());
        with_exemplars.extend(buckets.filter_map(names_of));
        for line in response.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            names.insert(format!("{name}{suffix}"));
        }
    }
    (names, with_exemplars)
}
