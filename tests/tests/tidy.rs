//! The rules that a program can check: who may depend on whom, how long a file may be, what may
//! not be in it, and that the map names every part.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// The most lines of a file, its inline tests apart.
const MAX_LINES: usize = 700;
/// The most lines of a file of tests.
const MAX_TEST_LINES: usize = 1_000;

const PURE: [&str; 8] =
    ["primitives", "signing", "chain", "state", "trie", "evm", "assembly", "pending"];
const SERVICES: [&str; 7] = [
    "signer",
    "builder",
    "gateway",
    "consumer",
    "rpc-overlay",
    "payload-server",
    "validator-sidecar",
];
/// May depend on everything.
const FREE: [&str; 3] = ["devnet", "tests", "bench"];

/// Whom these crates must not name among their dependencies, tests apart.
const NEVER: &[(&[&str], &[&str])] = &[
    // Input and time go in, effects come out.
    (
        &PURE,
        &[
            "tokio",
            "tokio-util",
            "tokio-stream",
            "tonic",
            "tonic-prost",
            "prost",
            "prost-types",
            "clap",
            "rand",
            "chrono",
            "time",
            "axum",
            "hyper",
            "jsonrpsee",
            "preconf-wire",
            "preconf-engine",
            "preconf-upstream",
            "preconf-subscribe",
            "preconf-chassis",
            "preconf-telemetry",
        ],
    ),
    // The key's process knows as little as possible.
    (&["signer"], &["preconf-evm", "preconf-state", "preconf-upstream", "preconf-engine"]),
    // What every process is made of knows nothing of what they do.
    (
        &["chassis", "telemetry"],
        &[
            "preconf-primitives",
            "preconf-signing",
            "preconf-chain",
            "preconf-state",
            "preconf-evm",
            "preconf-assembly",
            "preconf-pending",
            "preconf-wire",
            "preconf-engine",
            "preconf-upstream",
            "preconf-subscribe",
            "alloy-primitives",
            "alloy-consensus",
            "revm",
        ],
    ),
];

/// Dependencies that only these crates may name, tests and [`FREE`] crates apart.
const ONLY: &[(&str, &[&str])] = &[
    ("prost", &["wire"]),
    ("prost-types", &["wire", "codegen"]),
    ("tonic-prost", &["wire"]),
    ("tonic-prost-build", &["codegen"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry-otlp", &["telemetry"]),
    ("opentelemetry-proto", &[]),
    ("tracing-opentelemetry", &["telemetry"]),
    ("alloy-provider", &["upstream"]),
    // The proofs of blobs are looked at in one place.
    ("c-kzg", &["assembly"]),
    // Private keys: of the sequencer, and of wallets.
    ("blst", &["signing", "signer"]),
    ("alloy-signer", &[]),
    ("alloy-signer-local", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none.
    kind: Option<String>,
}

impl Package {
    fn short(&self) -> &str {
        self.name.trim_start_matches("preconf-")
    }

    /// What it needs when it is not tested.
    fn needs(&self) -> BTreeSet<&str> {
        let dependencies = self.dependencies.iter();
        let needed = dependencies.filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        needed.map(|dependency| dependency.name.as_str()).collect()
    }

    fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn packages() -> Vec<Package> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages
}

/// All files below a directory with this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The Rust that people wrote, by its path in the workspace.
fn sources() -> Vec<(PathBuf, String)> {
    let generated = root().join("crates/wire/src/gen");
    let mut written = files(&root(), "rs");
    written.retain(|path| !path.starts_with(&generated));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    written.into_iter().map(read).collect()
}

#[test]
fn nobody_depends_on_what_it_must_never_know() {
    let packages = packages();
    let mut broken = Vec::new();
    for (crates, forbidden) in NEVER {
        for package in packages.iter().filter(|package| crates.contains(&package.short())) {
            for name in package.needs().intersection(&forbidden.iter().copied().collect()) {
                broken.push(format!("{} must not depend on {name}", package.name));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn a_pure_crate_depends_on_pure_crates_only() {
    let mut broken = Vec::new();
    for package in packages().iter().filter(|package| PURE.contains(&package.short())) {
        for name in package.needs() {
            let ours = name.strip_prefix("preconf-");
            if ours.is_some_and(|short| !PURE.contains(&short)) {
                broken.push(format!("{} is pure and depends on {name}", package.name));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn some_dependencies_are_the_business_of_one_crate() {
    let packages = packages();
    let mut broken = Vec::new();
    for (dependency, allowed) in ONLY {
        for package in &packages {
            let short = package.short();
            let may = allowed.contains(&short) || FREE.contains(&short);
            if !may && package.needs().contains(dependency) {
                broken.push(format!("{} must not depend on {dependency}", package.name));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn no_crate_depends_on_a_service_and_no_service_on_another() {
    let mut broken = Vec::new();
    for package in packages().iter().filter(|package| !FREE.contains(&package.short())) {
        // Not even in tests: what is common to two services is a crate.
        for dependency in &package.dependencies {
            let short = dependency.name.trim_start_matches("preconf-");
            if dependency.name.starts_with("preconf-") && SERVICES.contains(&short) {
                broken.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn the_key_is_in_the_signer_and_nowhere_else() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let free = FREE.iter().any(|free| path.starts_with(free));
        if free || path.starts_with("services/signer") || is_test(&path) {
            continue;
        }
        if without_tests(&text).contains("SecretKey") {
            broken.push(path);
        }
    }
    assert_eq!(broken, [""; 0].map(PathBuf::from));
}

#[test]
fn every_crate_inherits_what_the_workspace_decides() {
    let mut broken = Vec::new();
    for package in packages() {
        let text = fs::read_to_string(&package.manifest_path).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let inherits = |table: &str, key: Option<&str>| {
            let table = manifest.get(table);
            let value = key.map_or(table, |key| table.and_then(|table| table.get(key)));
            value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool)
                == Some(true)
        };
        let package_keys = ["version", "edition", "rust-version", "license", "publish"];
        for key in package_keys {
            if !inherits("package", Some(key)) {
                broken.push(format!("{} has a {key} of its own", package.name));
            }
        }
        if !inherits("lints", None) {
            broken.push(format!("{} does not inherit the lints", package.name));
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let listed = manifest.get(kind).and_then(toml::Value::as_table);
            for (name, value) in listed.into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    broken.push(format!("{} has a {name} of its own", package.name));
                }
            }
        }
        let folder = package.directory().file_name().unwrap().to_string_lossy();
        if package.short() != folder {
            broken.push(format!("{} is in the folder {folder}", package.name));
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn fuzzing_is_a_workspace_of_its_own_with_the_same_edition_and_licence() {
    let manifest = |path: &str| -> toml::Table {
        fs::read_to_string(root().join(path)).unwrap().parse().unwrap()
    };
    let (ours, fuzz) = (manifest("Cargo.toml"), manifest("tests/fuzz/Cargo.toml"));
    let excluded = ours["workspace"]["exclude"].as_array().unwrap();
    assert!(excluded.contains(&"tests/fuzz".into()) && fuzz.contains_key("workspace"));
    for key in ["edition", "license", "version"] {
        assert_eq!(fuzz["package"][key], ours["workspace"]["package"][key], "{key}");
    }
}

#[test]
fn a_fuzz_target_only_calls_what_a_test_calls_too() {
    // Nobody builds them along with the rest: all that they do must be compiled with it.
    let targets = files(&root().join("tests/fuzz/fuzz_targets"), "rs");
    assert!(!targets.is_empty());
    let sources = sources();
    let tests = sources.iter().filter(|(path, _)| path.starts_with("tests"));
    let tests: String = tests.map(|(_, text)| text.as_str()).collect();
    for target in targets {
        let text = fs::read_to_string(&target).unwrap();
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("use "))
            .collect();
        let [no_main, call] = code[..] else { panic!("{} does more", target.display()) };
        assert_eq!(no_main, "#![no_main]");
        let called = call.strip_prefix("fuzz_target!(|bytes: &[u8]| preconf_tests::");
        let path = called.and_then(|called| called.strip_suffix("(bytes));")).unwrap();
        let (_, name) = path.rsplit_once("::").unwrap();
        assert!(tests.contains(&format!("{name}(&bytes)")), "no test calls {name}");
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut broken = BTreeMap::new();
    for (path, text) in sources() {
        let limit = if is_test(&path) { MAX_TEST_LINES } else { MAX_LINES };
        let lines = if is_test(&path) { text.as_str() } else { without_tests(&text) }.lines();
        let lines = lines.count();
        if lines > limit {
            broken.insert(path, format!("{lines} lines, limit {limit}"));
        }
    }
    assert_eq!(broken, BTreeMap::new());
}

#[test]
fn nothing_is_left_to_do_and_no_test_is_left_out() {
    // In two parts, so that this file does not name them.
    let forbidden = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    let ignored = format!("#[{}", "ignore");
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for word in forbidden.iter().chain([&ignored]) {
            if text.contains(word.as_str()) {
                broken.push(format!("{} holds {word}", path.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| !is_test(path) && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(silent, [""; 0].map(PathBuf::from));
}

#[test]
fn the_map_names_every_crate_and_the_readme_every_service() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut missing = Vec::new();
    for package in packages() {
        let short = package.short();
        if !map.contains(&format!("`{short}`")) && !map.contains(&format!("`{short}/`")) {
            missing.push(format!("ARCHITECTURE.md does not name `{short}`"));
        }
        if SERVICES.contains(&short) && !readme.contains(short) {
            missing.push(format!("README.md does not name {short}"));
        }
    }
    assert_eq!(missing, [""; 0]);
}

/// Whether a file holds tests only.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|name| name == "tests.rs" || name == "testing.rs")
}

/// A file without the tests at its end.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}
