//! What only real processes can show: death at any instruction, the sandbox, the
//! monitor's view of hangs. The test program starts itself as the replica.

mod child;
mod crash;
mod domains;
mod hangs;
mod orphans;
mod rings;
mod sandbox;

use std::time::{Duration, Instant};

use hypervisor::domain::{Bond, ErrorOutput, Limits, ProcessDomain, Program, SpawnSpec};
use hypervisor::fabric::{FabricConfig, HostFabric};
use hypervisor::{ReplicaId, SlotId};
use libtest_mimic::{Arguments, Trial};

/// Tells the child which part it plays.
const ROLE: &str = "RVMM_TEST_ROLE";

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        child::play(&role);
    }
    let tests: Vec<(&str, fn())> =
        [crash::TESTS, domains::TESTS, hangs::TESTS, orphans::TESTS, rings::TESTS, sandbox::TESTS]
            .concat();
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn slot() -> SlotId {
    SlotId::new(2).expect("there is a slot 2")
}

fn spec(role: &str) -> SpawnSpec {
    SpawnSpec {
        program: Program::own(),
        name: "replica".into(),
        args: Vec::new(),
        env: vec![(ROLE.into(), role.into())],
        descriptors: Vec::new(),
        error_output: ErrorOutput::Discard,
        limits: Limits::default(),
        bond: Bond::Host,
    }
}

/// A host with one replica, which has attached to the fabric.
fn host_with(role: &str) -> (HostFabric, ProcessDomain) {
    let config = FabricConfig {
        output_bytes: 64 << 10,
        peer_ring_bytes: 4 << 10,
        ..FabricConfig::default()
    };
    let mut host = HostFabric::new(config).expect("a fabric");
    let domain = join(&mut host, role, ReplicaId(1));
    (host, domain)
}

fn join(host: &mut HostFabric, role: &str, id: ReplicaId) -> ProcessDomain {
    host.reset_slot(slot(), id).expect("reset");
    let mut spec = spec(role);
    spec.args = vec![id.to_string().into()];
    spec.descriptors = host.descriptors(slot()).expect("descriptors");
    let domain = ProcessDomain::spawn(spec).expect("spawn");
    until("the replica attaches", || host.replica_page(slot()).beats() > 0);
    domain
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}
