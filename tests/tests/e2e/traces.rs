//! What happens to a flashblock can be followed through all services, and what they count is
//! documented.

use std::{collections::BTreeSet, fs, path::Path, time::Duration, time::SystemTime};

use preconf_tests::cluster::{Cluster, options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a flashblock may take through all services, unoptimised.
const THROUGH: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_flashblock_is_one_trace_from_the_builder_to_the_overlay() {
    let options = options(&["--traces"]).with_collector().await.unwrap();
    let collector = options.collector.clone().unwrap();
    let mut cluster = Cluster::of(options).await;
    let begun = SystemTime::now();
    cluster.canonical(6).await;
    let stopping = SystemTime::now();
    let counted = counted(&cluster).await;
    // Stopping sends what was not sent before.
    cluster.stop().await;

    let traces = collector.judge(begun, stopping - THROUGH);
    assert!(traces.flashblocks >= 20, "{traces}");
    assert!(traces.objections().is_empty(), "{traces}");
    assert!(traces.blocks >= 3 && traces.whole_blocks + 1 >= traces.blocks, "{traces}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let documented = fs::read_to_string(path).unwrap();
    let is_documented = |name: &&String| documented.contains(&format!("`{name}`"));
    let missing: Vec<_> = counted.iter().filter(|name| !is_documented(name)).collect();
    assert!(counted.len() > 50 && missing.is_empty(), "of {}: {missing:?}", counted.len());
}

/// What the services count, as their health ports say.
async fn counted(cluster: &Cluster) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, address) in &cluster.devnet.endpoints.health {
        let address = address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        for line in response.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            names.insert(format!("{name}{suffix}"));
        }
    }
    names
}
