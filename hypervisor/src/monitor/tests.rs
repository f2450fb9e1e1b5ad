use super::HangReason::{Asleep, Blocked, BusyLoop, Ended, NoProgress, Starved, Stopped};
use super::*;

/// What the replica did in one period before a sample.
#[derive(Clone, Copy)]
struct Period {
    ms: u64,
    beats: u64,
    idle: bool,
    state: char,
    on_cpu_ms: u64,
    runnable_ms: u64,
    work: bool,
    progress: u64,
}

/// A healthy idle period.
const IDLE: Period = Period {
    ms: 10,
    beats: 1,
    idle: false,
    state: 'S',
    on_cpu_ms: 0,
    runnable_ms: 0,
    work: false,
    progress: 0,
};

fn still(state: char, on_cpu_ms: u64) -> Period {
    Period { beats: 0, state, on_cpu_ms, ..IDLE }
}

/// Name, periods with how often each, the last verdict.
type Case<'a> = (&'a str, &'a [(usize, Period)], Verdict);

/// The last verdict after these periods, each as often as said.
fn verdict(periods: &[(usize, Period)]) -> Verdict {
    let mut monitor = Monitor::new(MonitorConfig::default());
    let mut now = Observation {
        at_us: 1_000_000,
        beats: 5,
        idle: periods[0].1.idle,
        work_waiting: periods[0].1.work,
        progress: 1,
        times: CpuTimes { on_cpu_ns: 77, runnable_wait_ns: 33 },
    };
    let mut verdict = monitor.observe(now, || Some('S'));
    assert_eq!(verdict, Verdict::Alive, "the first sample tells nothing");
    for (count, period) in periods {
        for _ in 0..*count {
            now.at_us += period.ms * 1000;
            now.beats += period.beats;
            now.idle = period.idle;
            now.work_waiting = period.work;
            now.progress += period.progress;
            now.times.on_cpu_ns += period.on_cpu_ms * 1_000_000;
            now.times.runnable_wait_ns += period.runnable_ms * 1_000_000;
            verdict = monitor.observe(now, || Some(period.state));
        }
    }
    verdict
}

#[test]
fn judges() {
    use Verdict::{Alive, Hung, Suspect};
    let late = |ms, state, on_cpu_ms| Period { ms, ..still(state, on_cpu_ms) };
    let starved_then_asleep = Period { runnable_ms: 60, ..still('S', 0) };
    let busy = Period { on_cpu_ms: 10, state: 'R', work: true, progress: 3, ..IDLE };
    let stuck = Period { progress: 0, ..busy };
    let fair_share = Period { runnable_ms: 5, ..stuck };
    let seldom = Period { idle: true, ..still('S', 0) };
    let waited_for = Period { work: true, ..seldom };
    let cases: &[Case<'_>] = &[
        ("idle, between two beats", &[(1, IDLE), (11, seldom)], Alive),
        ("idle, a beat is overdue", &[(1, IDLE), (14, seldom)], Suspect),
        ("idle and stopped", &[(1, IDLE), (15, seldom), (1, still('T', 0))], Hung(Stopped)),
        ("idle, and work comes", &[(8, seldom), (2, waited_for)], Alive),
        ("idle, work comes, and it sleeps on", &[(8, seldom), (5, waited_for)], Hung(Asleep)),
        ("idle", &[(500, IDLE)], Alive),
        ("beats every other sample", &[(1, IDLE), (1, still('S', 0)), (1, IDLE)], Alive),
        ("busy and getting on", &[(500, busy)], Alive),
        ("a short pause", &[(2, still('S', 0))], Alive),
        ("a longer pause", &[(4, still('S', 0))], Suspect),
        ("recovers", &[(4, still('S', 0)), (1, IDLE)], Alive),
        ("asleep past its timeout", &[(5, still('S', 0))], Hung(Asleep)),
        ("stopped", &[(5, still('T', 0))], Hung(Stopped)),
        ("stopped by a debugger", &[(5, still('t', 0))], Hung(Stopped)),
        ("ended", &[(5, still('Z', 0))], Hung(Ended)),
        ("busy loop", &[(5, still('R', 10))], Hung(BusyLoop)),
        ("busy loop on half a core", &[(9, still('R', 5))], Verdict::Starved),
        ("busy loop on half a core, longer", &[(10, still('R', 5))], Hung(BusyLoop)),
        ("no core", &[(5, still('R', 0))], Verdict::Starved),
        ("no core for seconds", &[(499, still('R', 0))], Verdict::Starved),
        ("no core for ever", &[(500, still('R', 0))], Hung(Starved)),
        ("slow disk", &[(49, still('D', 0))], Suspect),
        ("stuck disk", &[(50, still('D', 0))], Hung(Blocked)),
        ("got its core just now", &[(5, still('R', 0)), (1, starved_then_asleep)], Suspect),
        (
            "got its core and sleeps on",
            &[(5, still('R', 0)), (1, starved_then_asleep), (5, still('S', 0))],
            Hung(Asleep),
        ),
        ("the monitor was late", &[(1, late(400, 'S', 0))], Alive),
        ("the monitor is always late", &[(5, late(400, 'S', 0))], Hung(Asleep)),
        ("late, and the replica ran meanwhile", &[(1, late(400, 'R', 390))], Alive),
        ("livelock", &[(100, stuck)], Hung(NoProgress)),
        ("livelock, not yet", &[(99, stuck)], Alive),
        ("livelock on half a core", &[(199, fair_share)], Alive),
        ("livelock on half a core, longer", &[(200, fair_share)], Hung(NoProgress)),
        ("idle without progress", &[(1000, IDLE)], Alive),
        ("work waits off and on", &[(90, stuck), (1, IDLE), (90, stuck)], Alive),
    ];
    for (name, periods, expected) in cases {
        assert_eq!(verdict(periods), *expected, "{name}");
    }
}

#[test]
fn detection_takes_no_longer_than_promised() {
    let config = MonitorConfig::default();
    let periods = (config.detect_ms / config.period_ms) as usize;
    assert!(matches!(verdict(&[(20, IDLE), (periods, still('T', 0))]), Verdict::Hung(_)));
}

#[test]
fn a_clock_or_counter_that_jumps_back_does_no_harm() {
    let mut monitor = Monitor::new(MonitorConfig::default());
    let sample = |at_us, ns| Observation {
        at_us,
        beats: 1,
        idle: false,
        work_waiting: true,
        progress: 0,
        times: CpuTimes { on_cpu_ns: ns, runnable_wait_ns: ns },
    };
    for (at_us, ns) in [(u64::MAX, u64::MAX), (0, 0), (u64::MAX, 0), (5, u64::MAX)] {
        assert_eq!(monitor.observe(sample(at_us, ns), || Some('R')), Verdict::Alive);
    }
}

#[test]
fn the_state_is_looked_at_only_when_the_beat_has_stood_still() {
    let mut monitor = Monitor::new(MonitorConfig::default());
    let sample = |at_us, beats| Observation {
        at_us,
        beats,
        idle: false,
        work_waiting: true,
        progress: beats,
        times: CpuTimes::default(),
    };
    for period in 0..100 {
        let now = sample(period * 10_000, period / 4);
        let verdict = monitor.observe(now, || panic!("a costly look"));
        assert!(matches!(verdict, Verdict::Alive | Verdict::Suspect));
    }
    let later = sample(1_020_000, 24);
    assert_eq!(monitor.observe(later, || None), Verdict::Suspect, "it ends just now");
}
