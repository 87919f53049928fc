//! The wall around the core, held by machine.

#![allow(clippy::disallowed_methods, reason = "this test reads the sources of the core; it is not the core")]

use std::fs;
use std::path::{Path, PathBuf};

const ALLOWED: [&str; 2] = ["serde", "thiserror"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the crate's sources").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
    found
}

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).expect("a [dependencies] section");
    let names: Vec<&str> = section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()))
        .collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(ALLOWED.contains(&name), "{name} is not on the allow-list of the pure core: {ALLOWED:?}");
    }
}

#[test]
fn the_core_names_no_file_socket_clock_or_thread() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let text = fs::read_to_string(&path).unwrap();
        for word in [
            "std::fs",
            "std::net",
            "std::thread",
            "std::process",
            "std::env",
            "Instant",
            "SystemTime",
            "async fn",
        ] {
            assert!(!text.contains(word), "{}: the core has no business with {word}", path.display());
        }
    }
}

#[test]
fn the_auditor_shares_no_code_with_the_planner() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let planner: Vec<String> = sources(&root.join("plan"))
        .iter()
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .filter(|stem| stem != "mod" && stem != "act")
        .collect();
    let auditor: Vec<PathBuf> = sources(&root)
        .into_iter()
        .filter(|p| {
            p.strip_prefix(&root).expect("below the root").starts_with("audit") || p.ends_with("audit.rs")
        })
        .collect();
    assert!(!auditor.is_empty());
    for path in auditor {
        let text = fs::read_to_string(&path).unwrap();
        for module in &planner {
            assert!(!text.contains(&format!("plan::{module}")), "{} uses plan::{module}", path.display());
        }
        assert!(!text.contains("plan::plan"), "{} calls the planner", path.display());
    }
}
