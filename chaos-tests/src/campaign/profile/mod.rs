//! A campaign as its user writes it down: what to break, how, how often, and
//! what must hold.

mod problem;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use problem::{Problem, ProfileError};
pub use value::{Numbers, Span, Time, Times, Whole};

use super::fault::{self, Choice};
use problem::Text;

/// A file beyond this many bytes is no profile.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The profiles that come with the program, by name.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("smoke", include_str!("../../../../configs/chaos/smoke.toml")),
    ("ci", include_str!("../../../../configs/chaos/ci.toml")),
    ("soak", include_str!("../../../../configs/chaos/soak.toml")),
    ("corruption", include_str!("../../../../configs/chaos/corruption.toml")),
    ("guest", include_str!("../../../../configs/chaos/guest.toml")),
    ("lockstep", include_str!("../../../../configs/chaos/lockstep.toml")),
    ("rebuild", include_str!("../../../../configs/chaos/rebuild.toml")),
    ("resources", include_str!("../../../../configs/chaos/resources.toml")),
    ("durable", include_str!("../../../../configs/chaos/durable.toml")),
];

/// A campaign that may be run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name: of a built-in one, or of the file.
    pub name: String,
    /// As it was asked for, so that it can be asked for again.
    pub asked: String,
    /// What the file says.
    pub file: ProfileFile,
    /// What may be done, with the weight of each.
    pub faults: Vec<(u64, Choice)>,
}

/// What a profile's file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFile {
    /// What it is for, in a line.
    pub description: String,
    /// What is broken.
    #[serde(default)]
    pub target: Target,
    /// What works meanwhile.
    #[serde(default)]
    pub workload: Workload,
    /// When faults come.
    #[serde(default)]
    pub schedule: Schedule,
    /// What holds while nothing is broken.
    #[serde(default)]
    pub steady: Steady,
    /// What holds over the whole campaign.
    #[serde(default)]
    pub bounds: Bounds,
    /// What is done.
    pub fault: Spanned<Vec<FaultMix>>,
}

/// The host that is broken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// The run directory of a host that is there; without one, the campaign
    /// starts a host of its own.
    pub run_dir: Option<Spanned<PathBuf>>,
    /// Replicas of the host that is started.
    pub replicas: Spanned<Whole<1, 7>>,
    /// When it answers.
    pub ack: Ack,
    /// What its replicas' state machines run in.
    pub backend: Backend,
    /// Whether they execute each request twice.
    pub lockstep: bool,
    /// What survives the death of all its replicas.
    pub durability: Spanned<Durability>,
    /// The state directory is a file system of its own and so large, MiB: can
    /// be filled.
    pub disk_mib: Option<Spanned<Whole<16, 4096>>>,
    /// Nodes that the store holds beforehand.
    pub nodes: Whole<0, 1_000_000>,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            run_dir: None,
            replicas: Spanned::new(0..0, Whole(3)),
            ack: Ack::AllLive,
            backend: Backend::Auto,
            lockstep: false,
            durability: Spanned::new(0..0, Durability::Volatile),
            disk_mib: None,
            nodes: Whole(1000),
        }
    }
}

/// When a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Once every replica has its request.
    AllLive,
    /// Once a majority has it.
    Quorum,
}

impl Ack {
    /// The configuration's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllLive => "all-live",
            Self::Quorum => "quorum",
        }
    }
}

/// What state machines run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Virtual machines where there is KVM, processes elsewhere.
    Auto,
    /// Each replica's process.
    Process,
    /// A virtual machine each.
    Kvm,
    /// One or the other by turns.
    Mixed,
}

impl Backend {
    /// The configuration's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Kvm => "kvm",
            Self::Mixed => "mixed",
        }
    }
}

/// What survives the death of all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nothing.
    Volatile,
    /// What was answered.
    Process,
    /// What was answered, also when the power fails.
    Power,
}

impl Durability {
    /// The configuration's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::Process => "process",
            Self::Power => "power",
        }
    }
}

/// The load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// Clients that read, write, create, remove, list and transact.
    pub clients: Whole<1, 256>,
    /// Clients that watch.
    pub watchers: Whole<0, 64>,
    /// Registers that all write and read.
    pub keys: Whole<1, 100_000>,
    /// Pause of each client between two requests.
    pub think: Time,
    /// An answer that takes longer is an error.
    pub timeout: Time,
    /// So often the load is judged and begun anew: what clients saw is kept
    /// until then.
    pub round: Time,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            clients: Whole(8),
            watchers: Whole(2),
            keys: Whole(32),
            think: Time(Duration::from_micros(500)),
            timeout: Time(Duration::from_secs(30)),
            round: Time(Duration::from_secs(60)),
        }
    }
}

/// When faults come.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// How long faults are injected.
    pub duration: Time,
    /// From one fault being over to the next.
    pub pause: Times,
    /// Standbys that must be there before the next fault; all that are to be
    /// there unless told otherwise.
    pub standbys: Option<Spanned<Whole<0, 6>>>,
}

impl Default for Schedule {
    fn default() -> Self {
        let pause = Span { min: Duration::from_millis(200), max: Duration::from_millis(600) };
        Self { duration: Time(Duration::from_secs(30)), pause, standbys: None }
    }
}

/// What holds while nothing is broken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steady {
    /// For so long it is looked at.
    #[serde(rename = "for")]
    pub hold: Time,
    /// Within so long after the last fault everything is whole again.
    pub within: Time,
    /// 99 of 100 answers take at most so long.
    pub p99: Time,
}

impl Default for Steady {
    fn default() -> Self {
        Self {
            hold: Time(Duration::from_secs(1)),
            within: Time(Duration::from_secs(30)),
            p99: Time(Duration::from_millis(100)),
        }
    }
}

/// What holds over the whole campaign.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// The longest that any client waits.
    pub longest_pause: Time,
    /// Half of all failovers take at most so long.
    pub failover_median: Time,
    /// 99 of 100 failovers take at most so long.
    pub failover_p99: Time,
    /// Acknowledged effects that are gone.
    pub lost: u64,
    /// Effects that happened twice.
    pub doubled: u64,
    /// Errors and broken connections.
    pub errors: u64,
    /// Damage that was certain to be found and was not.
    pub unnoticed: u64,
    /// Faults that must have been injected, or the campaign says nothing; one in
    /// any case, and one suffices when it was given another time to take.
    pub least_faults: u64,
    /// Faults that ended worse than their class promises, but without harm to
    /// a client.
    pub worse_than_promised: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            longest_pause: Time(Duration::from_secs(3)),
            failover_median: Time(Duration::from_millis(100)),
            failover_p99: Time(Duration::from_secs(2)),
            lost: 0,
            doubled: 0,
            errors: 0,
            unnoticed: 0,
            least_faults: 1,
            worse_than_promised: None,
        }
    }
}

/// A kind of fault, how often and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultMix {
    /// Its class.
    pub class: Spanned<String>,
    /// How often, compared with the others.
    #[serde(default = "one")]
    pub weight: Whole<1, 1000>,
    /// What it hits.
    pub target: Option<Spanned<String>>,
    /// By which of several ways.
    pub how: Option<Spanned<String>>,
    /// How long it lasts.
    #[serde(rename = "for")]
    pub hold: Option<Spanned<Times>>,
    /// How much, of 100.
    pub percent: Option<Spanned<Numbers>>,
    /// How many.
    pub count: Option<Spanned<Numbers>>,
}

fn one() -> Whole<1, 1000> {
    Whole(1)
}

impl Profile {
    /// The profile that `asked` names: a built-in one, or a file.
    ///
    /// # Errors
    /// [`ProfileError`] with everything that is wrong and its place.
    pub fn load(asked: &str) -> Result<Self, ProfileError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == asked) {
            return Self::parse(&format!("{name}.toml"), asked, text);
        }
        let path = Path::new(asked);
        let unreadable = |what: String| ProfileError::Unreadable { asked: asked.to_owned(), what };
        let meta = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
            return Err(unreadable(format!("not a file of at most {MAX_FILE_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(asked, asked, &text)
    }

    /// Reads a profile; problems name `file`.
    ///
    /// # Errors
    /// [`ProfileError::Refused`].
    pub fn parse(file: &str, asked: &str, text: &str) -> Result<Self, ProfileError> {
        let place = Text { file, text };
        let parsed: ProfileFile = toml::from_str(text).map_err(|error| {
            let reason = error.message().replace('\n', ", ");
            ProfileError::Refused(vec![place.problem(error.span(), reason)])
        })?;
        let mut problems = Vec::new();
        let mut faults = Vec::new();
        for mix in parsed.fault.get_ref() {
            match fault::choice(mix) {
                Ok(choice) => {
                    if let Some(why) = choice.class.needs.missing(&parsed.target) {
                        let reason = format!("{} {why}", choice.class.class);
                        problems.push(place.problem(Some(mix.class.span()), reason));
                    }
                    faults.push((mix.weight.0, choice));
                }
                Err((span, reason)) => problems.push(place.problem(Some(span), reason)),
            }
        }
        problems.extend(parsed.contradictions(&place));
        if !problems.is_empty() {
            problems.sort_by_key(|problem| (problem.line, problem.column));
            return Err(ProfileError::Refused(problems));
        }
        let name = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, asked: asked.to_owned(), file: parsed, faults })
    }
}

impl ProfileFile {
    /// What values must not be together.
    fn contradictions(&self, place: &Text<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse =
            |span, reason: &str| problems.push(place.problem(Some(span), reason.into()));
        let target = &self.target;
        let durable = *target.durability.get_ref() != Durability::Volatile;
        if self.fault.get_ref().is_empty() {
            refuse(self.fault.span(), "no fault: a campaign breaks something");
        }
        if durable && target.ack == Ack::Quorum {
            let reason = "durability needs ack = \"all-live\": one disk alone cannot tell what a \
                          majority had acknowledged";
            refuse(target.durability.span(), reason);
        }
        if let Some(disk) = &target.disk_mib
            && !durable
        {
            let reason = "disk_mib needs durability = \"process\" or \"power\": nothing is on disk \
                          otherwise";
            refuse(disk.span(), reason);
        }
        if let Some(run_dir) = &target.run_dir
            && !run_dir.get_ref().is_absolute()
        {
            refuse(run_dir.span(), "run_dir must be an absolute path");
        }
        if let Some(standbys) = &self.schedule.standbys {
            let most = target.replicas.get_ref().0 - 1;
            if standbys.get_ref().0 > most {
                refuse(
                    standbys.span(),
                    &format!("of {} replicas at most {most} are standbys", most + 1),
                );
            } else if standbys.get_ref().0 == 0 && !durable {
                let reason = "without a standby and with durability = \"volatile\" the next fault \
                              takes the state away; allowed: at least 1";
                refuse(standbys.span(), reason);
            }
        }
        if target.run_dir.is_none() && target.replicas.get_ref().0 == 1 && !durable {
            let reason = "a single replica with durability = \"volatile\": its death is the end of \
                          the state; allowed: 2 to 7";
            refuse(target.replicas.span(), reason);
        }
        problems
    }
}
