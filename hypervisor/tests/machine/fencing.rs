//! Guests that do not come back. What fences them is the end of the process that
//! runs them; the test program starts itself as that process.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use guest::layout::word;
use hypervisor::domain::{
    Bond, ErrorOutput, Exit, Limits, ProcessDomain, Program, SpawnSpec, inherited_descriptors,
};
use hypervisor::kvm::{Image, KvmError, Machine, MachineConfig};
use quickcheck::{Gen, QuickCheck};

use super::images::{Damage, damage};
use super::programs::{self, elf, elf_in_ring_3};
use super::{say, usable};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tells the process that is to be fenced how many bytes of memory its guest has.
const GUEST_BYTES: &str = "RVMM_TEST_GUEST_BYTES";
/// What that process says when it has a machine, and when the guest is ready.
const MADE: u8 = b'm';
const READY: u8 = b'r';
/// No answer is longer.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// The process that is to be fenced, when the program was started for that;
/// otherwise nothing.
#[test]
fn the_monitor() {
    if let Ok(bytes) = std::env::var(GUEST_BYTES) {
        std::process::exit(monitor(bytes.parse().expect("a number")));
    }
}

/// Runs the guest of the image that was handed over; 0 when all that it did was
/// taken as it should be.
fn monitor(memory_bytes: u64) -> i32 {
    let given = inherited_descriptors().expect("descriptors").into_iter().map(File::from);
    let [mut image, mut report] = given.collect::<Vec<_>>().try_into().expect("two descriptors");
    let mut file = Vec::new();
    image.read_to_end(&mut file).expect("an image");
    let image = Image::parse(file).expect("an image");
    let config = MachineConfig { memory_bytes, command_line: "x".into() };
    let mut machine = match Machine::boot(&image, &config) {
        Ok(machine) => machine,
        Err(KvmError::Image(_)) => return 0,
        Err(_) => return 1,
    };
    report.write_all(&[MADE]).expect("somebody reads");
    if machine.run().is_err() {
        return 2;
    }
    report.write_all(&[READY]).expect("somebody reads");
    // An obedient guest answers this byte by byte for ever.
    let request = [word::ANSWER_LEN as u64, 1, word::MORE as u64, 1].map(u64::to_le_bytes);
    let then = machine.call(request.as_flattened(), &mut Vec::new(), ANSWER_MAX_BYTES);
    if then.is_ok() || matches!(then, Err(KvmError::Spent)) { 0 } else { 3 }
}

/// A process that runs the guest of this image, and what it says.
struct Monitor {
    domain: ProcessDomain,
    report: File,
}

impl Monitor {
    fn start(file: &[u8], memory_bytes: u64) -> Self {
        let image = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC);
        let mut image = File::from(image.expect("memory"));
        image.write_all(file).expect("memory");
        std::io::Seek::rewind(&mut image).expect("from its beginning");
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (report, writer) = pipe.expect("a pipe");
        let spec = SpawnSpec {
            program: Program::own(),
            name: "monitor".into(),
            args: ["--exact", "fencing::the_monitor"].map(Into::into).into(),
            env: vec![(GUEST_BYTES.into(), memory_bytes.to_string().into())],
            descriptors: vec![OwnedFd::from(image), writer],
            error_output: ErrorOutput::Discard,
            limits: Limits::default(),
            bond: Bond::Host,
        };
        let domain = ProcessDomain::spawn(spec).expect("spawn");
        Self { domain, report: report.into() }
    }

    /// The next that it says; `None` when it has ended instead.
    fn hear(&mut self) -> Option<u8> {
        let mut said = [0];
        (self.report.read(&mut said).expect("a pipe") == 1).then_some(said[0])
    }

    /// One whose guest is ready, and has been asked something.
    fn with_ready_guest(file: &[u8], memory_bytes: u64) -> Self {
        let mut monitor = Self::start(file, memory_bytes);
        assert_eq!((monitor.hear(), monitor.hear()), (Some(MADE), Some(READY)));
        monitor
    }

    /// CPU time of all its threads, in nanoseconds.
    fn ran_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.domain.pid().as_raw_nonzero());
        let tasks = std::fs::read_dir(tasks).expect("/proc").map(|task| {
            let times = task.expect("/proc").path().join("schedstat");
            let times = std::fs::read_to_string(times).expect("/proc");
            times.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).expect("a number")
        });
        tasks.sum()
    }

    fn assert_busy(&self, what: &str) {
        let (begin, before_ns) = (Instant::now(), self.ran_ns());
        while self.ran_ns() < before_ns + 3_000_000 {
            assert!(begin.elapsed() < PATIENCE, "{what}");
        }
    }

    /// Fences it; how it ended, and how long that took.
    fn fence(&mut self) -> (Exit, Duration) {
        let begin = Instant::now();
        self.domain.kill().expect("kill");
        let end = self.domain.wait(PATIENCE).expect("wait").expect("an end");
        (end, begin.elapsed())
    }
}

fn fence_a_loop(file: &[u8]) {
    let mut times: Vec<_> = (0..10_u32)
        .map(|round| {
            let mut monitor = Monitor::with_ready_guest(file, programs::MEMORY_BYTES);
            // At once, or when it has been inside for long, and was stopped there.
            if round > 3 {
                monitor.assert_busy("it loops");
            }
            if round > 6 {
                monitor.domain.stop().expect("stop");
                monitor.domain.cont().expect("cont");
                monitor.assert_busy("it loops on");
            }
            let (end, time) = monitor.fence();
            assert_eq!(end, Exit::Signal(libc::SIGKILL));
            time
        })
        .collect();
    times.sort_unstable();
    say(&format!("kill until the process is gone: median {:?}, worst {:?}\n", times[5], times[9]));
}

#[test]
fn an_endless_loop_in_ring_0_is_fenced() {
    if usable("an_endless_loop_in_ring_0_is_fenced") {
        fence_a_loop(&elf(programs::looping()));
    }
}

#[test]
fn an_endless_loop_in_ring_3_is_fenced() {
    if usable("an_endless_loop_in_ring_3_is_fenced") {
        fence_a_loop(&elf_in_ring_3(programs::looping_in_ring_3()));
    }
}

/// A guest that answers byte by byte keeps its process busy, not alive.
#[test]
fn a_dripping_answer_is_fenced() {
    if usable("a_dripping_answer_is_fenced") {
        fence_a_loop(&elf_in_ring_3(programs::obedient()));
    }
}

/// The memory that a fenced guest has touched is there for others again.
#[test]
fn fencing_gives_the_memory_back() {
    if !usable("fencing_gives_the_memory_back") {
        return;
    }
    let mut monitor = Monitor::with_ready_guest(
        &elf(programs::greedy()),
        programs::GREEDY_BYTES + programs::MEMORY_BYTES,
    );
    let touched_kib = programs::GREEDY_BYTES >> 10;
    let status = format!("/proc/{}/status", monitor.domain.pid().as_raw_nonzero());
    assert!(kib(&status, "VmRSS:") > touched_kib, "the guest's memory is the process's");
    let available_kib = || kib("/proc/meminfo", "MemAvailable:");
    let before_kib = available_kib();
    assert_eq!(monitor.fence().0, Exit::Signal(libc::SIGKILL));
    // Others take and give some in the meantime.
    let begin = Instant::now();
    while available_kib() < before_kib + touched_kib / 2 {
        assert!(begin.elapsed() < PATIENCE, "{} KiB, then {}", before_kib, available_kib());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A number of KiB from a file of `/proc`.
fn kib(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("/proc");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What is not refused runs, whatever it is, and harms nobody: it yields, fails, or
/// is fenced.
#[test]
fn damaged_images_boot_and_do_no_harm() {
    if !usable("damaged_images_boot_and_do_no_harm") {
        return;
    }
    fn holds(damages: Vec<Damage>) -> bool {
        let mut file = elf_in_ring_3(programs::echo());
        damage(&mut file, &damages);
        if Image::parse(&file[..]).is_err() {
            return true;
        }
        let mut monitor = Monitor::start(&file, 8 << 20);
        let made = monitor.hear() == Some(MADE);
        let time = if made { Duration::from_millis(2) } else { PATIENCE };
        let end = monitor.domain.wait(time).expect("wait");
        // It may end by itself still before it is fenced.
        let end = end.unwrap_or_else(|| monitor.fence().0);
        end == Exit::Code(0) || made && end == Exit::Signal(libc::SIGKILL)
    }
    let property: fn(Vec<Damage>) -> bool = holds;
    QuickCheck::new().rng(Gen::new(4)).tests(150).quickcheck(property);
}
