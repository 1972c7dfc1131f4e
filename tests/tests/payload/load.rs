//! Traffic while validators fetch their blocks: all of it is included and kept, and every block is the
//! sequencer's. How long it takes is printed; what is demanded of it, `--max-latency-ms` demands of an
//! optimised builder.

use preconf_tests::program::Program;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn under_load_everything_is_kept_and_every_block_is_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let path = path.to_str().unwrap();
    let flags = ["--fetch", "mixed", "--tps", "40", "--blocks", "6", "--report", path];

    let (status, said) = Program::start(&flags).await.end().await;

    assert_eq!(status.code(), Some(0), "{said:#?}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut fetched = 0;
    for kind in ["native", "sidecar"] {
        let validators = &report["validators"][kind];
        let of_kind = validators["fetched"].as_u64().unwrap();
        assert!(of_kind > 0 && validators["misses"] == 0, "{report}");
        fetched += of_kind;
        println!("{kind}: {validators}");
    }
    assert_eq!(fetched, 6, "{report}");
    let [preconfirmed, kept] = ["preconfirmed", "kept"].map(|what| &report["transactions"][what]);
    assert_eq!(preconfirmed, kept, "{report}");
    let within = |pointer: &str| report.pointer(pointer).unwrap().as_f64().unwrap();
    let (p50, p99) = (within("/latency_ms/overall/p50"), within("/latency_ms/overall/p99"));
    println!("sent to first receipt: p50 {p50:.0} ms, p99 {p99:.0} ms");
    assert!(p50 > 0.0 && p99 >= p50, "{report}");
}
