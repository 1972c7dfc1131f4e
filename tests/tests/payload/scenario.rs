//! The payload server is slow, lies, is dead, and is back: natively and behind sidecars.

use preconf_tests::program::Program;
use serde_json::Value;

/// Natively each of the five lies is told once, in their order.
const SCENARIO: &str = r#"
    [[at]]
    block = 2
    do = "slow"
    line = "payload-server"
    by_ms = 3000
    for_ms = 3000

    [[at]]
    block = 4
    do = "wrong"
    for_ms = 12000

    [[at]]
    block = 10
    do = "kill"
    target = "payload-server"
    for_ms = 2000
"#;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_payload_server_does_a_validator_with_a_sidecar_misses_nothing() {
    // A block that is valid and not the one that was ordered: only the other validators see that.
    assert!(misses("native").await >= 1);
    assert_eq!(misses("sidecar").await, 0);
}

/// How many rounds the validators miss in the scenario, in which they keep everything else.
async fn misses(fetch: &str) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (scenario, report) = (file("scenario.toml"), file("report.json"));
    std::fs::write(&scenario, SCENARIO).unwrap();
    let flags = ["--fetch", fetch, "--validators", "2", "--tps", "5", "--blocks", "13"];
    let flags = [&flags[..], &["--slot-ms", "2000", "--seal-budget-ms", "600"]].concat();
    let files = ["--scenario", &scenario, "--report", &report];

    let (status, said) = Program::start(&[&flags[..], &files].concat()).await.end().await;

    assert_eq!(status.code(), Some(0), "{said:#?}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let of = |what: &str| report["validators"][fetch][what].as_u64().unwrap();
    assert!(of("fetched") >= 2 && of("fallbacks") >= 2, "{report}");
    of("misses")
}
