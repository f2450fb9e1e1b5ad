//! The rules of ARCHITECTURE.md that a compiler does not check.

use std::collections::BTreeSet;
use std::path::Path;

/// Each crate's folder, and the crates of ours that it may depend on, besides
/// [`TEETH`].
const MAY_USE: &[(&str, &[&str])] = &[
    ("chaos-tests/teeth", &[]),
    ("state-machines/core", &[]),
    ("state-machines/xenstore", &["state-machine"]),
    ("consensus", &[]),
    ("hypervisor/guest", &[]),
    ("hypervisor", &["guest"]),
    ("replicas/coordinator", &["state-machine", "xenstore", "consensus", "hypervisor", "replica"]),
    ("replicas", &["state-machine", "consensus", "hypervisor", "guest"]),
    ("replicas/unikernel", &["guest", "state-machine", "xenstore"]),
    ("replicas/unikernel/image", &[]),
];

/// What any crate may depend on: it knows nobody, and in a program that is
/// shipped nothing of it is left.
const TEETH: &str = "teeth";

const OURS: &[&str] = &[
    "state-machine",
    "xenstore",
    "consensus",
    "hypervisor",
    "guest",
    "unikernel",
    "unikernel-image",
    "replica",
    "coordinator",
    "chaos",
    "rvmm",
    TEETH,
];

fn manifest(folder: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).expect("a manifest").parse().expect("TOML")
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(|targets| targets.values());
    let tables = tables.filter_map(toml::Value::as_table).chain([&manifest]);
    tables
        .filter_map(|table| table.get("dependencies").and_then(toml::Value::as_table))
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn crates_depend_on_those_below_them_only() {
    for (folder, allowed) in MAY_USE {
        for ours in dependencies(folder).iter().filter(|name| OURS.contains(&name.as_str())) {
            let may = allowed.contains(&ours.as_str()) || ours == TEETH;
            assert!(may, "{folder} must not depend on {ours}");
        }
    }
}

#[test]
fn raft_stays_in_consensus_and_system_calls_in_the_hypervisor() {
    for folder in ["state-machines/core", "state-machines/xenstore", "hypervisor", "replicas", "."]
    {
        let uses = dependencies(folder);
        assert!(!uses.contains("raft") && !uses.contains("rocksdb"), "{folder}");
        assert!(folder == "hypervisor" || !uses.contains("libc"), "{folder}");
    }
}

#[test]
fn unsafe_code_is_in_the_hypervisor_alone() {
    let roots = [
        "state-machines/core/src/lib.rs",
        "state-machines/xenstore/src/lib.rs",
        "consensus/src/lib.rs",
        "replicas/src/lib.rs",
        "replicas/coordinator/src/lib.rs",
        "replicas/unikernel/src/lib.rs",
        "replicas/unikernel/src/main.rs",
        "replicas/unikernel/image/src/lib.rs",
        "chaos-tests/src/lib.rs",
        "chaos-tests/teeth/src/lib.rs",
        "src/lib.rs",
        "src/main.rs",
    ];
    for root in roots {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let text = std::fs::read_to_string(path).expect("a crate's root");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root}");
    }
}

#[test]
fn state_machines_need_no_operating_system() {
    for root in [
        "state-machines/core/src/lib.rs",
        "state-machines/xenstore/src/lib.rs",
        "hypervisor/guest/src/lib.rs",
        "replicas/unikernel/src/lib.rs",
        "replicas/unikernel/src/main.rs",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let text = std::fs::read_to_string(path).expect("a crate's root");
        assert!(text.contains("#![no_std]"), "{root}");
    }
}

/// The Rust sources below `folder`, the tests' own left out.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        let name = entry.file_name().into_string().expect("a plain name");
        if path.is_dir() && name != "tests" && name != "target" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
            found.push(std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Deliberate bugs are asked for where they would happen, and nothing that is
/// shipped switches one on.
#[test]
fn every_deliberate_bug_has_a_site_and_production_code_switches_none_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut product = Vec::new();
    for folder in ["state-machines", "consensus/src", "hypervisor/src", "replicas", "src"] {
        sources(&root.join(folder), &mut product);
    }
    for bug in teeth::Bug::ALL {
        let site = format!("bites(Bug::{bug:?})");
        assert!(product.iter().any(|text| text.contains(&site)), "{bug} has no site");
    }
    assert!(product.iter().all(|text| !text.contains("teeth::set(")));
}
