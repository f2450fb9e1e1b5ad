//! What is left when all replicas die at once, or the daemon is restarted.

use std::path::Path;
use std::time::Duration;

use chaos::client::{Client, ClientError, Tx};
use chaos::harness::{Host, HostOptions, Signal, signal, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const WRITES: u32 = 500;

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

fn options(durability: &str) -> HostOptions {
    HostOptions::default().set("xenstore.durability", durability)
}

fn path(number: u32) -> String {
    format!("/durable/{}/{number}", number % 7)
}

/// Writes, and leaves a transaction open.
fn write_all(host: &Host, round: u32) {
    let mut client = Client::connect(host.socket()).expect("connects");
    for number in 0..WRITES {
        let value = format!("{round}-{number}");
        client.write(Tx::NONE, &path(number), value.as_bytes()).expect("writes");
    }
    client.rm(Tx::NONE, &path(0)).expect("removes");
    let tx = client.start().expect("starts");
    client.write(tx, &path(1), b"never committed").expect("writes");
}

fn check_all(host: &Host, round: u32) {
    let mut client = Client::connect(host.socket()).expect("connects");
    assert_eq!(client.read_if_there(&path(0)).expect("reads"), None);
    for number in 1..WRITES {
        let value = client.read(Tx::NONE, &path(number)).expect("reads");
        assert_eq!(String::from_utf8_lossy(&value), format!("{round}-{number}"));
    }
}

fn kill_all(host: &Host) -> u64 {
    let status = host.wait_complete(PATIENCE).expect("all run");
    for replica in &status.replicas {
        signal(replica.pid, Signal::KILL).expect("it lives");
    }
    status.generation
}

#[test]
fn process_durability_survives_all_replicas() {
    let host = Host::start(rvmm(), &options("process")).expect("starts");
    for round in 0..3 {
        write_all(&host, round);
        let generation = kill_all(&host);
        host.wait_until("another life", PATIENCE, |status| {
            status.generation > generation && status.is_complete()
        })
        .expect("comes back");
        check_all(&host, round);
    }
}

#[test]
fn durable_state_survives_a_restart() {
    for durability in ["process", "power"] {
        let state = tempfile::tempdir().expect("a directory");
        let options =
            HostOptions { state_dir: Some(state.path().to_owned()), ..options(durability) };
        let mut host = Host::start(rvmm(), &options).expect("starts");
        write_all(&host, 1);
        host.stop().expect("stops");
        let mut host = Host::start(rvmm(), &options).expect("starts again");
        check_all(&host, 1);
        write_all(&host, 2);
        host.kill();
        let host = Host::start(rvmm(), &options).expect("starts again");
        check_all(&host, 2);
    }
}

#[test]
fn volatile_state_is_said_to_be_gone() {
    let host = Host::start(rvmm(), &options("volatile")).expect("starts");
    write_all(&host, 1);
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(PATIENCE);
    kill_all(&host);
    // An empty store in place of a full one would be worse than none.
    let status = wait_for("the end of service", PATIENCE, || {
        Ok(host.status().ok().filter(|status| status.health == "not-serving"))
    });
    status.expect("is told");
    let answer = client.read(Tx::NONE, &path(1));
    assert!(matches!(answer, Err(ClientError::Closed)), "{answer:?}");
    let told = host.command(&["dmesg"]).expect("a log").to_lowercase();
    assert!(told.contains("state is gone"), "{told}");
    assert_eq!(host.run(&["status"]).expect("runs").status.code(), Some(2));
}
