//! A replica whose state was changed behind its back is noticed, fenced and
//! rebuilt; a request that kills whoever applies it is answered with an error.

use std::path::Path;
use std::time::{Duration, Instant};

use chaos::client::{Client, Tx};
use chaos::harness::{ComponentStatus, Host, HostOptions, knob};
use chaos::soak::{Soak, SoakConfig};

const PATIENCE: Duration = Duration::from_secs(20);
fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

/// Flips a bit of a replica; how long it took until that was noticed and another one had
/// come in its place.
fn flip_bit(host: &Host, victim: u64) -> Duration {
    let gone =
        |status: &ComponentStatus| status.replicas.iter().all(|replica| replica.id != victim);
    let began = Instant::now();
    host.fault("corrupt", &victim.to_string()).expect("is corrupted");
    host.wait_until("the end of the replica", PATIENCE, gone).expect("is noticed");
    host.wait_complete(PATIENCE).expect("is replaced");
    began.elapsed()
}

fn corrupt(role: &str) {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let soak = Soak::start(&host.socket(), SoakConfig::default()).expect("starts");
    for round in 0..knob("RVMM_CORRUPTIONS", 3) {
        let status = host.wait_complete(PATIENCE).expect("all run");
        std::thread::sleep(Duration::from_millis(100));
        let victim = match role {
            "primary" => status.primary(),
            _ => status.standbys().next(),
        };
        let victim = victim.expect("is there").id;
        let took = flip_bit(&host, victim);
        println!("corrupt {role}, round {round}: rebuilt after {} ms", took.as_millis());
        let limit_ms = if knob("RVMM_STRICT", 0) == 1 { 1_000 } else { 10_000 };
        assert!(took.as_millis() <= limit_ms, "{took:?}");
    }
    let verdict = soak.finish().expect("is judged");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
}

#[test]
fn a_corrupt_standby_is_rebuilt() {
    corrupt("standby");
}

#[test]
fn a_corrupt_primary_is_rebuilt() {
    corrupt("primary");
}

#[test]
fn a_poisoned_request_is_quarantined() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/t/kept", b"before").expect("writes");
    let soak = Soak::start(&host.socket(), SoakConfig::default()).expect("starts");
    for _ in 0..2 {
        host.wait_complete(PATIENCE).expect("all run");
        host.fault("poison", "primary").expect("is answered");
    }
    host.wait_complete(PATIENCE).expect("the group survives");
    let verdict = soak.finish().expect("is judged");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
    assert_eq!(client.read(Tx::NONE, "/t/kept").expect("reads"), b"before");
}
