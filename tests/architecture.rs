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

/// What is linked into the image of a virtual machine: whoever wants to trust one has
/// to read it. Beside this there are `core`, `alloc` and the allocator `talc`.
const INSIDE: &[&str] = &[
    "hypervisor/guest/src",
    "replicas/unikernel/src",
    "state-machines/core/src",
    "state-machines/xenstore/src",
];
/// The only file of assembly among them: all that runs in ring 0.
const SHIM: &str = "hypervisor/guest/src/image/boot.s";
/// As ARCHITECTURE.md says; whoever goes over it changes both.
const RUST_LINES_MAX: usize = 9_000;
const ASSEMBLY_LINES_MAX: usize = 300;

/// Lines of a Rust source that are neither blank, nor comment, nor the tests' own.
fn code_lines(source: &str) -> usize {
    let mut lines = source.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        if code == "#[cfg(test)]" {
            // The item ends where a line at its own depth ends it.
            let is_end = |line: &str| {
                line.len() - line.trim_start().len() == depth && line.ends_with([';', '}'])
            };
            lines.by_ref().find(|line| is_end(line));
        } else if !code.is_empty() && !code.starts_with("//") {
            count += 1;
        }
    }
    count
}

/// Lines of assembly within a Rust source.
fn inline_assembly_lines(source: &str) -> usize {
    if !source.contains("asm!(") {
        return 0;
    }
    let is_text = |line: &str| line.starts_with('"') && line.ends_with("\",");
    let lines = source.lines().map(str::trim);
    lines.filter(|line| line.contains("asm!(\"") || is_text(line)).count()
}

#[test]
fn what_lies_inside_a_virtual_machine_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rust_lines = 0;
    let mut assembly_lines = 0;
    for folder in INSIDE {
        let mut found = Vec::new();
        sources(&root.join(folder), &mut found);
        let lines: usize = found.iter().map(|source| code_lines(source)).sum();
        println!("{folder}: {lines} lines of Rust");
        rust_lines += lines;
        assembly_lines += found.iter().map(|source| inline_assembly_lines(source)).sum::<usize>();
    }
    let shim = std::fs::read_to_string(root.join(SHIM)).expect("the shim");
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let (all, code) = (shim.lines().count(), shim.lines().filter(is_code).count());
    println!("{rust_lines} lines of Rust; {SHIM}: {code} of assembly, {all} with comments");
    println!("{assembly_lines} lines of assembly within Rust");
    assert!((1..=ASSEMBLY_LINES_MAX).contains(&all), "{SHIM} has {all} lines");
    let assembly_lines = assembly_lines + code;
    assert!(assembly_lines <= ASSEMBLY_LINES_MAX, "{assembly_lines} lines of assembly");
    assert!((1..=RUST_LINES_MAX).contains(&rust_lines), "{rust_lines} lines of Rust");
}

#[test]
fn lines_of_code_are_told_from_others() {
    let source = "\
//! Words.

#[cfg(test)]
mod tests;
use a::b;

/// Words.
fn f() {
    #[cfg(test)]
    fn g() {
        1;
    }
    2; // two
}

#[cfg(test)]
mod more {
    fn h() {}
}
";
    assert_eq!(code_lines(source), 4);
    let assembly =
        "fn f() {\n    asm!(\n        \"nop\",\n        \"ret\",\n    );\n    asm!(\"hlt\");\n}\n";
    assert_eq!(inline_assembly_lines(assembly), 3);
    assert_eq!(inline_assembly_lines("let a = [\n    \"nop\",\n];\n"), 0);
}
