//! `devnet` as people run it: its verdict, its report, and what it leaves behind.

#![cfg(target_os = "linux")]

use std::{fs, path::Path, time::Duration};

use preconf_tests::{
    cluster::DEADLINE,
    program::{Program, processes_in, send_signal},
};
use serde_json::Value;
use tokio::time::{Instant, interval};

#[tokio::test(flavor = "multi_thread")]
async fn a_short_run_keeps_every_promise_and_reports_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let flags = ["--blocks", "4", "--report", path.to_str().unwrap()];

    let (status, said) = Program::start(&flags).await.end().await;

    assert_eq!(status.code(), Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("  flashblock 2/1 ")), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("block 4 0x")), "{said:#?}");
    let report: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let number = |pointer: &str| {
        let value = report.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {report}"));
        value.as_f64().unwrap_or_else(|| panic!("{pointer} is {value}"))
    };
    assert_eq!(number("/blocks"), 4.0);
    assert!(number("/flashblocks") >= 4.0 * 7.0, "{report}");
    assert!(number("/transactions/preconfirmed") > 0.0);
    assert_eq!(number("/transactions/preconfirmed"), number("/transactions/kept"));
    for nothing in
        ["/transactions/retracted", "/gaps", "/invalid_signatures", "/comparisons/failed"]
    {
        assert_eq!(number(nothing), 0.0, "{nothing}");
    }
    assert!(number("/comparisons/made") > 0.0);
    for percentile in ["p50", "p90", "p99", "max"] {
        assert!(number(&format!("/latency_ms/{percentile}")) > 0.0);
        assert!(number(&format!("/latency_ms/build_window/{percentile}")) > 0.0);
    }
    assert!(number("/cadence_ms/p50") > 0.0 && number("/cadence_ms/p99") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_everything_and_leaves_nothing_behind() {
    let mut devnet = Program::start(&["--tps", "1"]).await;
    let directory = devnet.directory().await;
    devnet.line("block 1 ").await;
    assert_eq!(processes_in(&directory).len(), 5);

    devnet.signal("INT").await;
    let (status, said) = devnet.end().await;

    assert!(said.iter().any(|line| line == "stopping"), "{said:#?}");
    assert_eq!(status.code(), Some(0), "{said:#?}");
    assert!(!directory.exists());
    assert_eq!(processes_in(&directory), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_is_named_and_ends_the_run() {
    let mut devnet = Program::start(&["--tps", "0"]).await;
    let directory = devnet.directory().await;
    devnet.line("rpc-overlay is ready").await;
    let services = processes_in(&directory);
    let gateway = services.iter().find(|(_, line)| line.contains("preconf-gateway")).unwrap();

    send_signal("KILL", gateway.0).await;
    let (status, said) = devnet.end().await;

    let expected = "FAILED: gateway died (signal: 9 (SIGKILL)); its last lines:";
    assert!(said.iter().any(|line| line == expected), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("    listening websocket")), "{said:#?}");
    assert_eq!(status.code(), Some(1));
    assert_eq!(processes_in(&directory), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_do_not_outlive_a_devnet_that_is_killed() {
    let mut devnet = Program::start(&["--tps", "0"]).await;
    let directory = devnet.directory().await;
    devnet.line("rpc-overlay is ready").await;
    assert_eq!(processes_in(&directory).len(), 5);

    devnet.signal("KILL").await;
    devnet.end().await;

    until_gone(&directory).await;
    fs::remove_dir_all(directory).unwrap();
}

async fn until_gone(directory: &Path) {
    let started = Instant::now();
    let mut looks = interval(Duration::from_millis(20));
    while !processes_in(directory).is_empty() {
        looks.tick().await;
        assert!(started.elapsed() < DEADLINE, "left: {:#?}", processes_in(directory));
    }
}
