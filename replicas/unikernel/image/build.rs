//! Builds the image, in a cargo of its own: code that runs without an operating
//! system is compiled and linked in other ways than everything around it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The one target whose programs can be linked as an image.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the image is made of, from the root of the workspace. Manifests count:
/// features and versions are there.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "chaos-tests/teeth/Cargo.toml",
    "chaos-tests/teeth/src",
    "hypervisor/guest/Cargo.toml",
    "hypervisor/guest/link.ld",
    "hypervisor/guest/src",
    "replicas/unikernel/Cargo.toml",
    "replicas/unikernel/src",
    "state-machines/core/Cargo.toml",
    "state-machines/core/src",
    "state-machines/xenstore/Cargo.toml",
    "state-machines/xenstore/src",
];

/// How code is compiled that is at the upper end of the address space, where
/// nobody has looked what the processor can do beyond the baseline.
const RUSTFLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Ctarget-cpu=x86-64",
    "-Cno-redzone=yes",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,--gc-sections",
];

/// Beginnings of the names of variables that say where things are: cargo, the
/// compiler, crates, the turn on a processor. Others for cargo or the compiler, such
/// as flags, wrappers, profiles and what cargo tells a build script, are meant for
/// the build around this one.
const KEPT: &[&str] =
    &["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_REGISTR", "CARGO_SOURCE_", "RUSTUP_"];

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../../..");
    let root = root.canonicalize().expect("the workspace");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(has_image)");
    if variable("TARGET") == TARGET {
        let image = build(&root, &out.join("target"));
        fs::copy(image, out.join("unikernel.elf")).expect("copying the image");
        println!("cargo:rustc-cfg=has_image");
    }
}

/// Builds the image below `target`; where it is then.
fn build(root: &Path, target: &Path) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let for_cargo = text.starts_with("CARGO") || text.starts_with("RUST");
        if for_cargo && !KEPT.iter().any(|kept| text.starts_with(kept)) {
            cargo.env_remove(&name);
        }
    }
    let script = format!("-Clink-arg=-T{}", root.join("hypervisor/guest/link.ld").display());
    let flags: Vec<_> = RUSTFLAGS.iter().copied().chain([&*script]).collect();
    let status = cargo
        .current_dir(root)
        .env("RUSTC", variable("RUSTC"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--locked", "--offline", "--profile", "unikernel", "--target", TARGET])
        .args(["-p", "unikernel", "--bin", "unikernel", "--features", "image", "--target-dir"])
        .arg(target)
        .status()
        .expect("cargo");
    assert!(status.success(), "the image could not be built: {status}");
    target.join(TARGET).join("unikernel/unikernel")
}
