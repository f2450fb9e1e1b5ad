//! Measures what the fabric costs on this machine: `cargo run --release -p
//! hypervisor --example figures`. All parties share one core, as the replicas of
//! a component do by default.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use hypervisor::death::{self, DeathWatch};
use hypervisor::domain::{
    Bond, ErrorOutput, Limits, ProcessDomain, Program, SpawnSpec, inherited_descriptors,
};
use hypervisor::fabric::{FabricConfig, HostFabric, ReplicaFabric};
use hypervisor::waiting::{CoreChooser, Spinner, Turn, pin_current_thread};
use hypervisor::{ReplicaId, SlotId};

/// In the child: how long it yields before it blocks, and its ballast.
const YIELD_US: &str = "FIGURES_YIELD_US";
const MEBIBYTES: &str = "FIGURES_MEBIBYTES";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    if let Ok(yield_us) = std::env::var(YIELD_US) {
        let ballast = std::env::var(MEBIBYTES)?.parse::<usize>()? << 20;
        return echo(yield_us.parse()?, ballast);
    }
    let core = CoreChooser::new()?.least_busy().ok_or("no core")?;
    pin_current_thread(&[core])?;
    println!("all on core {}; medians", core.0);
    in_one_thread()?;
    for (how, yield_us) in [("yielding 50 us, then blocking", 50), ("blocking at once", 0)] {
        let mut pair = Pair::new(yield_us, 0)?;
        let round_trips = measure(20_000, || pair.round_trip());
        println!("input to output and back, {how}: {}", in_ns(&round_trips));
    }
    println!("throughput, 64 bytes in, 64 bytes out: {:.2} M/s", Pair::new(50, 0)?.throughput());
    for mebibytes in [0, 100, 500] {
        let mut starts = Vec::new();
        let mut notices = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..10 {
            let begin = Instant::now();
            let pair = Pair::new(50, mebibytes)?;
            starts.push(begin.elapsed());
            let (notice, end) = pair.kill()?;
            notices.push(notice);
            ends.push(end);
        }
        let [starts, notices, ends] = [starts, notices, ends].map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        });
        println!("{mebibytes} MiB: start {starts:?}, death noticed {notices:?}, gone {ends:?}");
    }
    Ok(())
}

fn measure(rounds: usize, mut round: impl FnMut()) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            round();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn in_ns(sorted: &[Duration]) -> String {
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100].as_nanos();
    format!("{} ns, 99 % {} ns", at(50), at(99))
}

fn slot() -> SlotId {
    SlotId::all().next().expect("there are slots")
}

fn in_one_thread() -> Outcome<()> {
    const ROUNDS: u32 = 2_000_000;
    let mut host = HostFabric::new(FabricConfig::default())?;
    host.reset_slot(slot(), ReplicaId(1))?;
    let fds = host.descriptors(slot())?;
    let mut replica = ReplicaFabric::attach(fds, slot(), ReplicaId(1))?;
    let mut out = Vec::new();
    for len in [16, 64, 256, 1024] {
        let message = vec![1u8; len];
        let begin = Instant::now();
        for _ in 0..ROUNDS / 16 {
            for _ in 0..16 {
                replica.outputs().send(&message)?;
            }
            replica.outputs().flush();
            let outputs = host.outputs(slot()).ok_or("no occupant")?;
            while outputs.receive(&mut out)? {}
            outputs.release();
        }
        let ring = begin.elapsed() / ROUNDS;
        let begin = Instant::now();
        let first = host.intake().last() + 1;
        for no in first..first + u64::from(ROUNDS) {
            host.intake().push(no, &message)?;
            replica.intake().next(&mut out)?;
            host.intake().free_through(no);
        }
        println!(
            "{len} bytes: send and receive {ring:?}, input and free {:?}",
            begin.elapsed() / ROUNDS
        );
    }
    Ok(())
}

/// A host and an echoing replica.
struct Pair {
    host: HostFabric,
    domain: ProcessDomain,
    next: u64,
    out: Vec<u8>,
    yield_us: u32,
}

impl Pair {
    fn new(yield_us: u32, mebibytes: usize) -> Outcome<Self> {
        let mut host = HostFabric::new(FabricConfig::default())?;
        host.reset_slot(slot(), ReplicaId(1))?;
        let domain = ProcessDomain::spawn(SpawnSpec {
            program: Program::own(),
            name: "figures-replica".into(),
            args: Vec::new(),
            env: vec![
                (YIELD_US.into(), yield_us.to_string().into()),
                (MEBIBYTES.into(), mebibytes.to_string().into()),
            ],
            descriptors: host.descriptors(slot())?,
            error_output: ErrorOutput::Inherit,
            limits: Limits::default(),
            bond: Bond::Host,
        })?;
        while host.replica_page(slot()).beats() == 0 {
            std::thread::yield_now();
        }
        Ok(Self { host, domain, next: 1, out: Vec::new(), yield_us })
    }

    fn round_trip(&mut self) {
        self.push();
        self.host.ring_doorbell(slot());
        let mut spinner = Spinner::new();
        while !self.receive() {
            if spinner.turn(self.yield_us) == Turn::Block {
                self.host.prepare_sleep();
                if self.receive() {
                    self.host.cancel_sleep();
                    break;
                }
                let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                    self.host.doorbell_fd(),
                    rustix::event::PollFlags::IN,
                )];
                let _ = rustix::event::poll(&mut fds, None);
                self.host.cancel_sleep();
                self.host.drain_doorbell();
            }
        }
        self.host.intake().free_through(self.next - 1);
    }

    fn push(&mut self) -> bool {
        let taken = self.host.intake().push(self.next, &[1; 64]).is_ok();
        self.next += u64::from(taken);
        taken
    }

    fn receive(&mut self) -> bool {
        let outputs = self.host.outputs(slot()).expect("an occupant");
        let some = outputs.receive(&mut self.out).expect("a sound ring");
        outputs.release();
        some
    }

    /// Millions of inputs and outputs a second, 256 at a time.
    fn throughput(&mut self) -> f64 {
        const COUNT: u64 = 1_000_000;
        let begin = Instant::now();
        let mut received = 0;
        while received < COUNT {
            while self.next <= received + 256 && self.push() {}
            self.host.ring_doorbell(slot());
            let before = received;
            while self.receive() {
                received += 1;
            }
            self.host.intake().free_through(received);
            if received == before {
                std::thread::yield_now();
            }
        }
        COUNT as f64 / begin.elapsed().as_secs_f64() / 1e6
    }

    /// Time from the kill to the notice, and to the proof.
    fn kill(mut self) -> Outcome<(Duration, Duration)> {
        let (notice, noticed) = mpsc::channel();
        let _watch = DeathWatch::start(self.host.replica_page(slot()), move || {
            let _ = notice.send(Instant::now());
        })?;
        std::thread::sleep(Duration::from_millis(5));
        let begin = Instant::now();
        self.domain.kill()?;
        let noticed = noticed.recv_timeout(Duration::from_secs(10))?;
        self.domain.wait(Duration::from_secs(10))?;
        Ok((noticed - begin, begin.elapsed()))
    }
}

/// The replica: answers every input with its bytes.
fn echo(yield_us: u32, ballast: usize) -> Outcome<()> {
    let mut fabric = ReplicaFabric::attach(inherited_descriptors()?, slot(), ReplicaId(1))?;
    death::arm(fabric.page())?;
    let _ballast = std::hint::black_box(vec![1u8; ballast]);
    fabric.page().beat();
    let mut spinner = Spinner::new();
    let mut input = Vec::new();
    loop {
        let mut news = false;
        while fabric.intake().next(&mut input)?.is_some() {
            fabric.outputs().send(&input)?;
            news = true;
        }
        fabric.page().beat();
        if news {
            spinner.reset();
            fabric.outputs().flush();
            fabric.ring_host();
        } else if spinner.turn(yield_us) == Turn::Block {
            fabric.wait(Duration::from_millis(20), |fabric| fabric.intake().has_more());
        }
    }
}
