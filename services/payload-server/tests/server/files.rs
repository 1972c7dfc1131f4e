//! The two files: what is refused at the start, and changes nothing later.

use std::{process::Command, time::Duration};

use preconf_chassis::Chain;

use crate::world::{
    KEYS, NOW, REQUEST, SECRETS, SOON, World, directory, prepare, secrets, whitelist, write,
};

/// Whitelists that are refused, with what is said of them.
fn bad_whitelists() -> Vec<(String, &'static str)> {
    let key = KEYS[0];
    let listed = |text: &str| format!("[{text:?}]");
    vec![
        ("[]".into(), "the whitelist is empty"),
        ("null".into(), "reading the JSON"),
        (String::new(), "reading the JSON"),
        ("{}".into(), "reading the JSON"),
        (format!("[{key:?}] x"), "reading the JSON"),
        (format!("[{key:?},null]"), "reading the JSON"),
        (format!("[{key:?},1]"), "reading the JSON"),
        (format!("[{key:?},\"\"]"), "invalid pubkey at index 1 in whitelist"),
        (listed(&key[2..]), "invalid pubkey at index 0 in whitelist"),
        (listed(&key[..96]), "invalid pubkey at index 0 in whitelist"),
        (listed(&format!("{key}00")), "invalid pubkey at index 0 in whitelist"),
        (listed(&key.replace('9', "g")), "invalid pubkey at index 0 in whitelist"),
        (listed(&format!("0x0x{}", &key[4..])), "invalid pubkey at index 0 in whitelist"),
    ]
}

/// Files of secrets that are refused, with what is said of them.
fn bad_secrets() -> Vec<(String, &'static str)> {
    let [key, other] = KEYS;
    let [secret, _] = SECRETS;
    let of = |secret: &str| format!("{{{key:?}:{secret:?}}}");
    let upper = key.to_ascii_uppercase().replace("0X", "0x");
    vec![
        ("{}".into(), "validator JWTs file is empty"),
        ("[]".into(), "reading the JSON"),
        (String::new(), "reading the JSON"),
        (format!("{} x", of(secret)), "reading the JSON"),
        (format!("{{{key:?}:null}}"), "reading the JSON"),
        (of(&secret[2..]), "a secret is 0x and 64 hex digits"),
        (of(&secret.replace("0x", "0X")), "a secret is 0x and 64 hex digits"),
        (of(&secret[..64]), "a secret is 0x and 64 hex digits"),
        (of(&format!("{secret}00")), "a secret is 0x and 64 hex digits"),
        (of(&format!(" {secret}")), "a secret is 0x and 64 hex digits"),
        (of(&secret.replace('a', "g")), "a secret is 0x and 64 hex digits"),
        (format!("{{{:?}:{secret:?}}}", &key[2..]), "among the validators' secrets"),
        (format!("{{{key:?}:{secret:?},{other:?}:{secret:?}}}"), "share a secret"),
        (format!("{{{key:?}:{secret:?},{key:?}:{:?}}}", SECRETS[1]), "is listed twice"),
        (format!("{{{key:?}:{secret:?},{upper:?}:{secret:?}}}"), "is listed twice"),
    ]
}

#[test]
fn a_server_does_not_start_with_a_file_that_is_wrong() {
    let cases = bad_whitelists().into_iter().map(|case| ("whitelist.json", 0o644, case));
    let cases = cases.chain(bad_secrets().into_iter().map(|case| ("jwts.json", 0o600, case)));
    for (file, mode, (text, reason)) in cases {
        let directory = directory();
        write(&directory, file, &text, mode);
        let refused = Chain(&prepare(&directory, &[]).unwrap_err()).to_string();
        let path = directory.path().join(file).display().to_string();
        assert!(refused.starts_with(&path) && refused.contains(reason), "{text}: {refused}");
        assert!(!refused.contains(&SECRETS[0][4..20]), "{refused}");
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_while_the_server_runs() {
    let world = World::new().await;
    let cases = bad_whitelists().into_iter().map(|case| ("whitelist.json", 0o644, case));
    let cases = cases.chain(bad_secrets().into_iter().map(|case| ("jwts.json", 0o600, case)));
    for (file, mode, (text, _)) in cases {
        world.reload(file, &text, mode, "failed").await;
    }
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    // Nor does one that others can read or write, or that is gone.
    world.reload("jwts.json", &secrets(&[1]), 0o604, "failed").await;
    world.reload("whitelist.json", &whitelist(&KEYS[1..]), 0o646, "failed").await;
    std::fs::remove_file(world.directory.path().join("whitelist.json")).unwrap();
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}

#[test]
fn files_that_others_may_touch_are_refused_with_the_remedy() {
    for mode in [0o604, 0o602] {
        let directory = directory();
        write(&directory, "jwts.json", &secrets(&[0]), mode);
        let refused = prepare(&directory, &[]).unwrap_err().to_string();
        assert!(refused.contains("run `chmod o-rwx"), "{refused}");
    }
    let directory = directory();
    write(&directory, "whitelist.json", &whitelist(&KEYS), 0o646);
    let refused = prepare(&directory, &[]).unwrap_err().to_string();
    assert!(refused.contains("run `chmod o-w "), "{refused}");
}

#[tokio::test]
async fn keys_are_taken_in_either_case_and_twice() {
    let world = World::new().await;
    let upper = KEYS[0].to_ascii_uppercase();
    let listed = [KEYS[0], upper.as_str(), KEYS[0]];
    world.reload("whitelist.json", &whitelist(&listed), 0o644, "ok").await;
    let entry = format!("{{{upper:?}:{:?}}}", SECRETS[0]);
    world.reload("jwts.json", &entry, 0o600, "ok").await;

    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn whitelist_and_secrets_are_read_anew_at_the_signal() {
    let world = World::new().await;
    world.reload("whitelist.json", &whitelist(&KEYS[1..]), 0o644, "ok").await;
    assert_eq!(world.ask(0, REQUEST).await.status, 403);
    world.reload("whitelist.json", &whitelist(&KEYS[..1]), 0o644, "ok").await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.reload("jwts.json", &secrets(&[1]), 0o600, "ok").await;
    assert_eq!(world.ask(0, REQUEST).await.status, 401);
    world.reload("jwts.json", &secrets(&[0, 1]), 0o600, "ok").await;
    assert_eq!(world.ask(0, REQUEST).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_file_that_changes_is_read_anew_without_a_signal() {
    let world = World::new().await;
    let read = r#"files_reloaded_total{file="whitelist",outcome="ok"}"#;
    // Another test's signal may come first: then it is read by that.
    write(&world.directory, "whitelist.json", &whitelist(&KEYS[1..]), 0o644);
    world.until("the file is read", || world.count(read) > 0).await;
    until_refused(&world).await;
    world.end().await;
}

#[tokio::test]
async fn what_is_written_while_the_server_starts_is_read_as_well() {
    let directory = directory();
    let prepared = prepare(&directory, &[]).unwrap().with_clock(|| NOW);
    // Another file, whatever the clock of the file system says.
    write(&directory, "new.json", &whitelist(&KEYS[1..]), 0o644);
    let path = |name: &str| directory.path().join(name);
    std::fs::rename(path("new.json"), path("whitelist.json")).unwrap();

    let world = World::start(directory, prepared).await;

    until_refused(&world).await;
    world.end().await;
}

/// Asks as the first validator until it is refused.
async fn until_refused(world: &World) {
    let refused = async {
        let mut asks = tokio::time::interval(Duration::from_millis(100));
        while world.ask(0, REQUEST).await.status != 403 {
            asks.tick().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
}

#[tokio::test]
async fn a_validator_whose_key_is_no_point_is_known_and_never_the_proposer() {
    let world = World::new().await;
    let no_point = format!("0x{}", "11".repeat(48));
    let both = format!("{{{no_point:?}:{:?}}}", SECRETS[0]);
    world.reload("whitelist.json", &whitelist(&[&no_point]), 0o644, "ok").await;
    world.reload("jwts.json", &both, 0o600, "ok").await;

    let answer = world.ask(0, REQUEST).await;

    assert_eq!((answer.status, answer.message().as_str()), {
        (403, "not the expected proposer for this slot")
    });
    world.end().await;
}

#[test]
fn the_process_says_in_one_line_which_file_is_wrong_before_any_socket_is_open() {
    let directory = directory();
    write(&directory, "whitelist.json", "[]", 0o644);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_preconf-payload-server"));
    command.env_clear();
    command.args(["--payload-addr", &taken, "--health-addr", &taken]);
    command.args(["--builder-payloads", &format!("unix:{}", path("builder.sock"))]);
    command.args(["--whitelist", &path("whitelist.json")]);
    command.args(["--validator-jwts", &path("jwts.json")]);
    command.args(["--cometbft-rpc", "http://127.0.0.1:1"]);

    let output = command.output().unwrap();

    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let line = format!("preconf-payload-server: error: {}: is not usable", path("whitelist.json"));
    assert!(stderr.starts_with(&line), "{stderr}");
}
