//! The parts that the child plays.

use std::time::Duration;

use hypervisor::domain::inherited_descriptors;
use hypervisor::fabric::ReplicaFabric;
use hypervisor::{ReplicaId, death};

use super::{domains, orphans, rings, sandbox, slot};

/// Plays a part and ends.
pub(super) fn play(role: &str) -> ! {
    let (part, detail) = role.split_once(':').unwrap_or((role, ""));
    let code = match part {
        "sandbox" => sandbox::play(detail),
        "exit" => detail.parse().expect("a code"),
        "sleep" => sleep_for_ever(),
        "surroundings" => domains::tell_surroundings(),
        "middle" => domains::start_a_grandchild(),
        "spins" => loop {
            std::hint::spin_loop();
        },
        "holder" => orphans::hold(),
        "daemon" => orphans::start_replicas(),
        "parent" => orphans::end_own_children(),
        part => with_fabric(part, detail),
    };
    std::process::exit(code)
}

pub(super) fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn with_fabric(part: &str, detail: &str) -> i32 {
    let fds = inherited_descriptors().expect("descriptors");
    let id = std::env::args().nth(1).and_then(|id| id.parse().ok()).expect("an id");
    let mut fabric = ReplicaFabric::attach(fds, slot(), ReplicaId(id)).expect("attach");
    death::arm(fabric.page()).expect("arm");
    death::mark_crashes(fabric.page()).expect("mark");
    let mebibytes: usize = detail.parse().unwrap_or(0);
    let memory = vec![1u8; mebibytes << 20];
    fabric.page().beat();
    match part {
        "produce" => rings::produce(fabric),
        "echo" => rings::echo(fabric),
        "wait" => sleep_for_ever(),
        "beat" => loop {
            fabric.page().beat();
            let _ = fabric.wait(Duration::from_millis(20), |_| false);
        },
        "spin" => loop {
            std::hint::black_box(&memory);
        },
        "panic" => panic!("the replica had enough"),
        "abort" => std::process::abort(),
        "segfault" => {
            // SAFETY: not at all; that is the point. Address 8 is never mapped.
            unsafe { std::ptr::without_provenance_mut::<u32>(8).write_volatile(1) };
            1
        }
        "overflow" => overflow(1) as i32,
        other => panic!("no part called {other}"),
    }
}

#[expect(unconditional_recursion, reason = "to run out of stack")]
fn overflow(n: u64) -> u64 {
    std::hint::black_box(overflow(std::hint::black_box(n + 1)) + 1)
}
