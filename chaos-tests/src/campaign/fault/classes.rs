//! What a campaign can do to a host: by which means, to whom, with what, and
//! what is promised then.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use crate::campaign::profile::{Backend, Durability, FaultMix, Numbers, Target, Times};
use crate::report::record::{FaultClass, Outcome};
use crate::rng::Rng;

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The replica that serves.
    Primary,
    /// One of the others.
    Standby,
    /// Any of both.
    Any,
    /// All at once.
    All,
}

impl Aim {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("any", Self::Any),
        ("all", Self::All),
    ];

    /// Its name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, aim)| *aim == self).map_or("", |(name, _)| name)
    }
}

/// A number that a fault takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What is drawn from unless the profile says otherwise.
    pub default: (u64, u64),
    /// What a profile may say.
    pub allowed: (u64, u64),
}

/// What a class of faults needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// State that outlives all replicas.
    Durability,
    /// A disk that can be filled, so a host that the campaign starts.
    OwnDisk,
    /// Replicas in virtual machines.
    Machines,
}

impl Needs {
    /// Why `target` does not do, if so.
    pub(in crate::campaign) fn missing(self, target: &Target) -> Option<&'static str> {
        let durable = *target.durability.get_ref() != Durability::Volatile;
        match self {
            Self::Nothing => None,
            Self::Durability if durable => None,
            Self::Durability => Some(
                "needs target.durability = \"process\" or \"power\": the state is gone otherwise",
            ),
            Self::OwnDisk if target.disk_mib.is_some() && target.run_dir.is_none() => None,
            Self::OwnDisk => Some("needs target.disk_mib, and a host that the campaign starts"),
            Self::Machines if target.backend != Backend::Process => None,
            Self::Machines => Some("needs target.backend = \"kvm\", \"mixed\" or \"auto\""),
        }
    }
}

/// A class of faults as a campaign carries it out.
#[derive(Debug)]
pub struct ClassInfo {
    /// Which.
    pub class: FaultClass,
    /// By what means, in a line.
    pub means: &'static str,
    /// Whom it may hit; the first unless the profile says otherwise. Empty when
    /// it hits no replica.
    pub aims: &'static [Aim],
    /// In which ways, each with a line; the first unless told otherwise.
    pub ways: &'static [(&'static str, &'static str)],
    /// How long, milliseconds.
    pub hold_ms: Option<Parameter>,
    /// How much, of 100.
    pub percent: Option<Parameter>,
    /// How many.
    pub count: Option<Parameter>,
    /// The worst that is promised.
    pub promise: Outcome,
    /// What it needs.
    pub needs: Needs,
}

const REPLICAS: &[Aim] = &[Aim::Primary, Aim::Standby, Aim::Any];

const fn number(default: (u64, u64), allowed: (u64, u64)) -> Option<Parameter> {
    Some(Parameter { default, allowed })
}

const PLAIN: ClassInfo = ClassInfo {
    class: FaultClass::Crash,
    means: "",
    aims: &[],
    ways: &[],
    hold_ms: None,
    percent: None,
    count: None,
    promise: Outcome::Failover,
    needs: Needs::Nothing,
};

/// All that a campaign can do, in the order of reports.
pub const CLASSES: &[ClassInfo] = &[
    ClassInfo { class: FaultClass::Crash, means: "SIGKILL", aims: REPLICAS, ..PLAIN },
    ClassInfo {
        class: FaultClass::Hang,
        means: "SIGSTOP, and SIGCONT after `for` if it is still there",
        aims: &[Aim::Primary, Aim::Standby, Aim::Any, Aim::All],
        hold_ms: number((200, 1000), (1, 600_000)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::Slow,
        means: "`rvmm fault slow`: it stands still for `percent` of the time, for `for`",
        aims: REPLICAS,
        hold_ms: number((200, 1000), (1, 600_000)),
        percent: number((20, 80), (1, 99)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::CpuStarvation,
        means: "others take the component's core for `for`",
        aims: &[Aim::Any, Aim::Primary, Aim::Standby],
        ways: &[
            ("spin", "`count` busy threads on the component's core"),
            ("quota", "a control group grants the replica `percent` of a core"),
        ],
        hold_ms: number((500, 2000), (1, 600_000)),
        percent: number((5, 30), (1, 99)),
        count: number((1, 4), (1, 64)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::StateBitFlip,
        means: "a bit of a replica's memory is flipped",
        aims: REPLICAS,
        ways: &[
            ("state", "`rvmm fault corrupt`: somewhere in the store"),
            ("memory", "`count` bits anywhere in its heap, through /proc/PID/mem"),
        ],
        count: number((1, 1), (1, 1_000_000)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::RingBitFlip,
        means: "`count` bits of the rings that it writes are flipped, through /proc/PID/mem",
        aims: &[Aim::Standby, Aim::Primary, Aim::Any],
        ways: &[
            ("lines", "where a ring's positions are"),
            ("data", "in what it has written"),
            ("page", "where it tells how it is"),
        ],
        count: number((1, 8), (1, 1_000_000)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::HostileRing,
        means: "the memory that it shares is filled with garbage, through /proc/PID/mem",
        aims: &[Aim::Standby, Aim::Primary, Aim::Any],
        ways: &[
            ("lines", "where a ring's positions are"),
            ("data", "in what it has written"),
            ("page", "where it tells how it is"),
        ],
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::Guest,
        means: "a replica's virtual machine breaks from within, through /proc/PID/mem of its monitor",
        aims: REPLICAS,
        ways: &[
            ("triple-fault", "an undefined instruction, and no gate for any exception"),
            ("halt", "its kernel halts, interrupts off"),
            ("loop", "its program loops"),
            ("kernel-loop", "its kernel loops, interrupts off"),
            ("stack-overflow", "its program fills its stack"),
            ("wild-writes", "garbage at `count` places that its program uses and may write"),
            ("memory-flips", "`count` bits of the memory that it uses"),
            ("exchange-garbage", "garbage over what it shares with its monitor, for `for`"),
        ],
        hold_ms: number((20, 200), (1, 600_000)),
        count: number((1, 16), (1, 1_000_000)),
        needs: Needs::Machines,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::Poison,
        means: "`rvmm fault poison`: a request that kills whoever applies it",
        promise: Outcome::AnsweredEio,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::VanishingClient,
        means: "`count` clients are gone in the middle of a transaction and of a request",
        count: number((1, 50), (1, 1000)),
        promise: Outcome::Masked,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::StuckClient,
        means: "`count` clients ask a lot and do not read for `for`",
        hold_ms: number((200, 1000), (1, 600_000)),
        count: number((1, 4), (1, 100)),
        promise: Outcome::Masked,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::MemoryPressure,
        means: "RLIMIT_DATA of a replica is lowered to what it uses, for `for`",
        aims: REPLICAS,
        hold_ms: number((500, 2000), (1, 600_000)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::DescriptorExhaustion,
        means: "RLIMIT_NOFILE of the host is lowered to `count` more than it uses, and clients take those, for `for`",
        hold_ms: number((500, 2000), (1, 600_000)),
        count: number((0, 32), (0, 1000)),
        promise: Outcome::Masked,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::DiskFull,
        means: "the file system with the state is filled, for `for`",
        hold_ms: number((500, 2000), (1, 600_000)),
        promise: Outcome::Recovered,
        needs: Needs::OwnDisk,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::DiskError,
        means: "writes of a replica to its disk fail, for `for`",
        aims: REPLICAS,
        ways: &[
            ("file-size", "RLIMIT_FSIZE is lowered to what its log has"),
            ("descriptors", "RLIMIT_NOFILE is lowered to what it uses: no new file"),
        ],
        hold_ms: number((500, 2000), (1, 600_000)),
        needs: Needs::Durability,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::KillAll,
        means: "SIGKILL to all replicas",
        promise: Outcome::Recovered,
        needs: Needs::Durability,
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::KillInFailover,
        means: "SIGKILL to the primary, and up to `for` later to a standby",
        hold_ms: number((0, 4), (0, 1000)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::KillInRebuild,
        means: "SIGKILL to a standby, and when another is being taught, a second one",
        ways: &[("primary", "to the primary"), ("learner", "to the one that is being taught")],
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::Scale,
        means: "`rvmm scale` to `count` replicas and back",
        ways: &[("plain", "and nothing else"), ("kill", "and meanwhile SIGKILL to the primary")],
        count: number((2, 5), (2, 7)),
        ..PLAIN
    },
    ClassInfo {
        class: FaultClass::PromoteStorm,
        means: "`rvmm promote`, `count` times",
        ways: &[
            ("plain", "one after another"),
            ("kill", "and SIGKILL to the first that was promoted"),
        ],
        count: number((2, 6), (1, 100)),
        ..PLAIN
    },
];

/// A fault of a profile.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What.
    pub class: &'static ClassInfo,
    /// To whom.
    pub aim: Option<Aim>,
    /// In which way.
    pub way: Option<&'static str>,
    hold: Option<Times>,
    percent: Option<Numbers>,
    count: Option<Numbers>,
}

/// A fault that is to be injected.
#[derive(Clone, Debug)]
pub(in crate::campaign) struct Planned {
    /// Its number in the campaign, from 1.
    pub(in crate::campaign) number: u64,
    /// What.
    pub(in crate::campaign) class: &'static ClassInfo,
    /// To whom.
    pub(in crate::campaign) aim: Option<Aim>,
    /// In which way; empty when there is but one.
    pub(in crate::campaign) way: &'static str,
    /// How long; zero when it does not last.
    pub(in crate::campaign) hold: Duration,
    /// How much, of 100.
    pub(in crate::campaign) percent: u64,
    /// How many.
    pub(in crate::campaign) count: u64,
    /// What all further choices derive from.
    pub(in crate::campaign) rng: Rng,
}

impl Choice {
    /// Whether it may take all replicas of a host at once: of one that takes a
    /// replica for hung that stands still for `detect`, or gets no time to run
    /// for `starved`.
    pub(in crate::campaign) fn may_take_all(&self, detect: Duration, starved: Duration) -> bool {
        let hold = self.hold.map_or(Duration::ZERO, |hold| hold.max);
        match self.class.class {
            // The last beat may be almost half the limit old when it begins.
            FaultClass::Hang => self.aim == Some(Aim::All) && hold * 2 >= detect,
            // All replicas share the component's core.
            FaultClass::CpuStarvation => self.way == Some("spin") && hold >= starved,
            _ => {
                let all = matches!(self.class.needs, Needs::Durability | Needs::OwnDisk);
                all || self.aim == Some(Aim::All)
            }
        }
    }

    /// As [`Planned::must_be_noticed`].
    pub(in crate::campaign) fn must_be_noticed(&self) -> bool {
        must_be_noticed(self.class.class, self.way.unwrap_or_default())
    }

    /// What it is, for people.
    pub(in crate::campaign) fn name(&self) -> String {
        let mut name = self.class.class.to_string();
        for word in [self.way, self.aim.filter(|aim| *aim == Aim::All).map(Aim::name)] {
            word.into_iter().for_each(|word| name += &format!(" {word}"));
        }
        if let Some(hold) = self.hold {
            name += &format!(" for up to {}", humantime::format_duration(hold.max));
        }
        name
    }

    /// Draws what the profile leaves open.
    pub(in crate::campaign) fn plan(&self, number: u64, mut rng: Rng) -> Planned {
        let hold = self.hold.map_or(Duration::ZERO, |hold| hold.draw(&mut rng));
        let percent = self.percent.map_or(0, |percent| percent.draw(&mut rng));
        let count = self.count.map_or(0, |count| count.draw(&mut rng));
        Planned {
            number,
            class: self.class,
            aim: self.aim,
            way: self.way.unwrap_or_default(),
            hold,
            percent,
            count,
            rng,
        }
    }
}

/// A hang that is shorter is not noticed.
const UNNOTICED_HANG: Duration = Duration::from_millis(15);

impl Planned {
    /// Whether the damage is only noticed when somebody comes across it.
    pub(in crate::campaign) fn lies_still(&self) -> bool {
        use FaultClass::{Guest, HostileRing, RingBitFlip, StateBitFlip};
        matches!(self.class.class, Guest | HostileRing | RingBitFlip | StateBitFlip)
    }

    /// Whether whoever keeps the state is sure to come across the damage.
    pub(in crate::campaign) fn must_be_noticed(&self) -> bool {
        must_be_noticed(self.class.class, self.way)
    }

    /// The worst outcome that is promised.
    pub(in crate::campaign) fn promise(&self) -> Outcome {
        match (self.class.class, self.way) {
            (FaultClass::Hang, _) if self.hold <= UNNOTICED_HANG => Outcome::Masked,
            (FaultClass::CpuStarvation, "spin") => Outcome::Masked,
            // With fewer replicas some have to go.
            (FaultClass::Scale, "plain") => Outcome::Rebuilt,
            _ => self.class.promise,
        }
    }
}

fn must_be_noticed(class: FaultClass, way: &str) -> bool {
    match class {
        FaultClass::StateBitFlip => way == "state",
        // Memory may be nobody's; whatever happens to the program is its end.
        FaultClass::Guest => !matches!(way, "wild-writes" | "memory-flips" | "exchange-garbage"),
        _ => false,
    }
}

type Refusal = (Range<usize>, String);

/// What a profile's line means.
///
/// # Errors
/// What is wrong, and where.
pub(in crate::campaign) fn choice(mix: &FaultMix) -> Result<Choice, Refusal> {
    let asked = mix.class.get_ref();
    let class = CLASSES.iter().find(|info| info.class.name() == asked).ok_or_else(|| {
        let names: Vec<_> = CLASSES.iter().map(|info| info.class.name()).collect();
        let reason = match asked.parse::<FaultClass>() {
            Ok(_) => {
                format!("{asked} is for the simulator; for a running host: {}", names.join(", "))
            }
            Err(_) => format!("no fault is called {asked:?}; allowed: {}", names.join(", ")),
        };
        (mix.class.span(), reason)
    })?;
    let name = class.class.name();
    let aims: Vec<_> = class.aims.iter().map(|aim| (aim.name(), *aim)).collect();
    let ways: Vec<_> = class.ways.iter().map(|(way, _)| (*way, *way)).collect();
    let hold = numbers(name, "for", class.hold_ms, mix.hold.as_ref(), |times| {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Numbers { min: ms(times.min), max: ms(times.max) }
    })?;
    let exact = mix.hold.as_ref().map(|hold| *hold.get_ref());
    let whole = |numbers: &Numbers| *numbers;
    Ok(Choice {
        class,
        aim: word(name, "target", &aims, mix.target.as_ref())?,
        way: word(name, "how", &ways, mix.how.as_ref())?,
        hold: exact.or(hold.map(|hold| Times {
            min: Duration::from_millis(hold.min),
            max: Duration::from_millis(hold.max),
        })),
        percent: numbers(name, "percent", class.percent, mix.percent.as_ref(), whole)?,
        count: numbers(name, "count", class.count, mix.count.as_ref(), whole)?,
    })
}

fn word<T: Copy>(
    class: &str,
    key: &str,
    allowed: &[(&str, T)],
    given: Option<&Spanned<String>>,
) -> Result<Option<T>, Refusal> {
    let Some(given) = given else { return Ok(allowed.first().map(|(_, value)| *value)) };
    if allowed.is_empty() {
        return Err((given.span(), format!("{class} takes no {key}")));
    }
    let found = allowed.iter().find(|(name, _)| name == given.get_ref());
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let names: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
        let reason = format!(
            "{key} = {:?} is refused for {class}; allowed: {}",
            given.get_ref(),
            names.join(", ")
        );
        (given.span(), reason)
    })
}

fn numbers<T>(
    class: &str,
    key: &str,
    info: Option<Parameter>,
    given: Option<&Spanned<T>>,
    read: impl Fn(&T) -> Numbers,
) -> Result<Option<Numbers>, Refusal> {
    let Some(given) = given else {
        return Ok(info.map(|Parameter { default: (min, max), .. }| Numbers { min, max }));
    };
    let Some(Parameter { allowed: (min, max), .. }) = info else {
        return Err((given.span(), format!("{class} takes no {key}")));
    };
    let numbers = read(given.get_ref());
    if numbers.min < min || numbers.max > max {
        let unit = if key == "for" { " milliseconds" } else { "" };
        let reason = format!("{key} is refused for {class}; allowed: {min} to {max}{unit}");
        return Err((given.span(), reason));
    }
    Ok(Some(numbers))
}
