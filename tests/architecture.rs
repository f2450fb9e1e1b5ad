//! The rules of ARCHITECTURE.md that a compiler does not check.

use std::collections::BTreeSet;
use std::path::Path;

/// Each crate's folder, and the crates of ours that it may depend on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("state-machines/core", &[]),
    ("state-machines/xenstore", &["state-machine"]),
    ("consensus", &[]),
    ("hypervisor", &[]),
    ("replicas", &["state-machine", "consensus", "hypervisor"]),
];

const OURS: &[&str] =
    &["state-machine", "xenstore", "consensus", "hypervisor", "replica", "chaos", "rvmm"];

fn manifest(folder: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).expect("a manifest").parse().expect("TOML")
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn crates_depend_on_those_below_them_only() {
    for (folder, allowed) in MAY_USE {
        for ours in dependencies(folder).iter().filter(|name| OURS.contains(&name.as_str())) {
            assert!(allowed.contains(&ours.as_str()), "{folder} must not depend on {ours}");
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
        "chaos-tests/src/lib.rs",
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
    for root in ["state-machines/core/src/lib.rs", "state-machines/xenstore/src/lib.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let text = std::fs::read_to_string(path).expect("a crate's root");
        assert!(text.contains("#![no_std]"), "{root}");
    }
}
