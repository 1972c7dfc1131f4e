//! The committed code is what the schemas say.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::{collections::BTreeMap, fs, path::Path};

use preconf_codegen::{generate, repository};

fn sources(directory: &Path) -> BTreeMap<String, String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_committed_code_is_what_the_schemas_say() {
    let root = repository();
    let fresh = tempfile::tempdir().unwrap();
    generate(&root.join("proto"), fresh.path()).unwrap();
    let committed = sources(&root.join("crates/wire/src/gen"));
    for (name, text) in sources(fresh.path()) {
        let stale = committed.get(&name) != Some(&text);
        assert!(!stale, "crates/wire/src/gen/{name} is stale: run `cargo run -p preconf-codegen`");
    }
}
