//! Rings whose other side is another process, and dies.

use std::time::{Duration, Instant};

use hypervisor::ReplicaId;
use hypervisor::domain::Exit;
use hypervisor::fabric::{HostFabric, ReplicaFabric};

use super::{PATIENCE, host_with, join, slot};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("rings::a_killed_producer_leaves_whole_records", a_killed_producer_leaves_whole_records),
    ("rings::inputs_come_back_as_outputs", inputs_come_back_as_outputs),
];

/// Now and then a message is larger than the ring.
fn message(number: u64) -> Vec<u8> {
    let len = if number % 50 == 49 { 100_000 } else { 8 + (number * 37 % 500) as usize };
    let mut message = number.to_le_bytes().to_vec();
    message.extend((8..len).map(|i| (i as u64 ^ number) as u8));
    message
}

/// The child's part: sends numbered messages without end.
pub(super) fn produce(mut fabric: ReplicaFabric) -> ! {
    for number in 0.. {
        let message = message(number);
        while fabric.outputs().send(&message).is_err() {
            fabric.outputs().flush();
            fabric.ring_host();
            std::thread::yield_now();
        }
        if number % 3 == 0 {
            fabric.outputs().flush();
            fabric.ring_host();
        }
    }
    unreachable!("numbers do not end")
}

fn drain(host: &mut HostFabric, expected: &mut u64, out: &mut Vec<u8>) {
    let outputs = host.outputs(slot()).expect("an occupant");
    while outputs.receive(out).expect("a sound ring") {
        assert!(*out == message(*expected), "message {expected} is damaged");
        *expected += 1;
    }
    outputs.release();
}

fn a_killed_producer_leaves_whole_records() {
    let (mut host, first) = host_with("wait");
    let mut domain = first;
    let mut out = Vec::new();
    let mut random: u64 = 0x1234_5678;
    let mut total = 0;
    for round in 2..202 {
        domain.kill().expect("kill");
        assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
        let mut expected = 0;
        domain = join(&mut host, "produce", ReplicaId(round));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        let life = Duration::from_micros((random >> 33) % 1500);
        let begin = Instant::now();
        while begin.elapsed() < life {
            drain(&mut host, &mut expected, &mut out);
        }
        domain.kill().expect("kill");
        assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
        drain(&mut host, &mut expected, &mut out);
        total += expected;
    }
    assert!(total > 1000, "only {total} messages in all");
    eprintln!("{total} messages from 200 producers");
}

/// The child's part: answers every input with its bytes.
pub(super) fn echo(mut fabric: ReplicaFabric) -> ! {
    let mut input = Vec::new();
    loop {
        let mut news = false;
        while let Some(no) = fabric.intake().next(&mut input).expect("a sound intake") {
            fabric.page().set_last_applied_input(no);
            fabric.outputs().send(&input).expect("room");
            news = true;
        }
        fabric.page().beat();
        if news {
            fabric.outputs().flush();
            fabric.ring_host();
        } else {
            fabric.wait(Duration::from_millis(20), |fabric| fabric.intake().has_more());
        }
    }
}

fn inputs_come_back_as_outputs() {
    let (mut host, _domain) = host_with("echo");
    let mut out = Vec::new();
    let begin = Instant::now();
    for no in 1..=2000u64 {
        host.intake().push(no, &no.to_le_bytes()).expect("room");
        host.ring_doorbell(slot());
        while !host.outputs(slot()).expect("an occupant").receive(&mut out).expect("sound") {
            assert!(begin.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        host.outputs(slot()).expect("an occupant").release();
        assert_eq!(out, no.to_le_bytes());
        host.intake().free_through(no);
        assert_eq!(host.replica_page(slot()).last_applied_input(), no);
    }
}
