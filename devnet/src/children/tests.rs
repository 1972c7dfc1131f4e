//! Children that are shells: what happens to each kind of them.

use super::*;

const SOON: Duration = Duration::from_secs(20);
/// Stays until it is asked to stop.
const STEADY: &str = "trap 'echo stopping; exit 0' TERM; echo listening health http://127.0.0.1:1; \
                      while :; do sleep 0.1; done";

fn shell(name: &'static str, script: &str) -> Service {
    let flags = ["-c", script].map(OsString::from).to_vec();
    Service { name, program: "/bin/sh".into(), flags }
}

fn children() -> (tempfile::TempDir, Children) {
    let logs = tempfile::tempdir().unwrap();
    let children = Children::new(logs.path());
    (logs, children)
}

#[tokio::test]
async fn a_child_that_dies_at_once_is_named_with_its_last_lines() {
    let (_logs, mut children) = children();
    let script = "echo one; echo two >&2; exit 3";

    let error = children.start(shell("signer", script), &["health"]).await.unwrap_err();

    let text = error.to_string();
    assert!(text.starts_with("signer died (exit status: 3); its last lines:\n"), "{text}");
    assert!(text.contains("    one") && text.contains("    two"), "{text}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let (_logs, mut children) = children();
    let service = Service { name: "signer", program: "/nonexistent/x".into(), flags: vec![] };

    let error = children.start(service, &[]).await.unwrap_err();

    assert_eq!(error.to_string(), "starting signer (/nonexistent/x)");
}

#[tokio::test]
async fn the_first_child_to_end_is_noticed_even_if_it_ends_well() {
    let (logs, mut children) = children();
    let go = logs.path().join("go");
    let quitter = format!(
        "echo listening health x; until [ -e {} ]; do sleep 0.01; done; echo bye; exit 0",
        go.display()
    );
    let at = children.start(shell("gateway", STEADY), &["health"]).await.unwrap();
    assert_eq!(at["health"], "http://127.0.0.1:1");
    children.start(shell("consumer", &quitter), &["health"]).await.unwrap();
    std::fs::write(go, "").unwrap();

    let ended = timeout(SOON, children.first_end()).await.unwrap().to_string();

    assert!(ended.starts_with("consumer died (exit status: 0)"), "{ended}");
    assert!(ended.ends_with("    bye"), "{ended}");
}

#[tokio::test]
async fn children_are_asked_to_stop_and_their_output_is_kept_in_files() {
    let (logs, mut children) = children();
    children.start(shell("gateway", STEADY), &["health"]).await.unwrap();

    timeout(SOON, children.stop()).await.unwrap().unwrap();

    let log = std::fs::read_to_string(logs.path().join("gateway.log")).unwrap();
    assert!(log.starts_with("listening health http://127.0.0.1:1\n"), "{log}");
}

#[tokio::test]
async fn a_child_that_fails_while_it_stops_is_named() {
    let (_logs, mut children) = children();
    let failing = STEADY.replace("exit 0", "exit 4");
    children.start(shell("gateway", &failing), &["health"]).await.unwrap();

    let failures = timeout(SOON, children.stop()).await.unwrap().unwrap_err();

    let text = failures[0].to_string();
    assert!(text.starts_with("gateway did not stop cleanly: exit status: 4"), "{text}");
    assert!(text.ends_with("    stopping"), "{text}");
}

#[tokio::test]
async fn a_child_that_is_never_ready_is_named_with_what_it_waits_for() {
    let (_logs, mut children) = children();
    // A port where nobody listens: bound, and closed again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let script = STEADY.replace("127.0.0.1:1", &address);
    children.start(shell("gateway", &script), &["health"]).await.unwrap();

    let ready = children.until_ready(&["gateway"], Duration::ZERO, Console::Silent).await;
    let error = ready.unwrap_err();

    let text = error.to_string();
    assert!(text.starts_with("gateway was not ready within 0ns"), "{text}");
    assert!(text.contains("refused"), "{text}");
}
