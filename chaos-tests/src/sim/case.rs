//! A run that somebody can ask for again: a seed, and what is to differ from
//! what the seed says. One text for the command line, for the file of kept seeds
//! and for whoever copies it from one to the other.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::plan::{CLIENTS_MAX, CLIENTS_MIN, Overrides};
use super::{RunVerdict, TraceMode};
use crate::report::record::{FaultClass, UnknownName};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// What the run follows from.
    pub seed: u64,
    /// What differs.
    pub overrides: Overrides,
}

/// Why a text is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// There is no seed, or it is none.
    #[error("{0:?} is no seed: a number below 2^64 is wanted")]
    Seed(String),
    /// There is no such option.
    #[error("there is no option {0:?}; there are: --span, --only, --without, --clients")]
    Option(String),
    /// The option has no value.
    #[error("{0} has no value")]
    NoValue(String),
    /// The value is not what the option takes.
    #[error("{option} {value:?}: {reason}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such class of faults.
    #[error("--without: {0}")]
    Class(#[from] UnknownName),
}

impl Case {
    /// The case of a seed as it is.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, overrides: Overrides::default() }
    }

    /// Runs it.
    ///
    /// # Panics
    /// When this machine has no descriptors or memory left for it, or the
    /// simulator is wrong.
    #[must_use]
    pub fn run(&self, mode: TraceMode) -> RunVerdict {
        super::run(self.seed, &self.overrides, mode)
    }

    /// The line to copy into a shell that runs it again.
    #[must_use]
    pub fn reproduce(&self) -> String {
        format!("rvmm chaos replay {self}")
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overrides { span_us, without, only, clients } = &self.overrides;
        write!(f, "{}", self.seed)?;
        if let Some(span_us) = span_us {
            write!(f, " --span {}", span_text(*span_us))?;
        }
        if let Some(only) = only {
            write!(f, " --only {}", list(only))?;
        }
        if !without.is_empty() {
            write!(f, " --without {}", list(without))?;
        }
        clients.map_or(Ok(()), |clients| write!(f, " --clients {clients}"))
    }
}

/// A duration in the largest unit that holds it exactly.
fn span_text(us: u64) -> String {
    let (size, unit) = match us {
        us if us.is_multiple_of(1_000_000) => (1_000_000, "s"),
        us if us.is_multiple_of(1000) => (1000, "ms"),
        _ => (1, "us"),
    };
    format!("{}{unit}", us / size)
}

/// None at all is `0`: the numbers of faults begin with 1.
fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    if items.is_empty() {
        return "0".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, CaseError> {
        let mut words = text.split_ascii_whitespace();
        let seed = words.next().unwrap_or_default();
        let seed = seed.parse().map_err(|_| CaseError::Seed(seed.to_owned()))?;
        let mut case = Self::of(seed);
        let to = &mut case.overrides;
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or_else(|| CaseError::NoValue(option.to_owned()));
            match option {
                "--span" => {
                    let value = value()?;
                    let span = humantime::parse_duration(value)
                        .map_err(|error| wrong("--span", value, &error))?;
                    to.span_us = Some(span_us(span));
                }
                "--only" => {
                    let value = value()?;
                    let numbers: Result<_, _> = value.split(',').map(str::parse).collect();
                    let mut only: BTreeSet<u32> =
                        numbers.map_err(|error| wrong("--only", value, &error))?;
                    only.remove(&0);
                    to.only = Some(only);
                }
                "--without" => {
                    for name in value()?.split(',') {
                        to.without.insert(name.parse::<FaultClass>()?);
                    }
                }
                "--clients" => {
                    let value = value()?;
                    let clients =
                        clients(value).map_err(|error| wrong("--clients", value, &error))?;
                    to.clients = Some(clients);
                }
                _ => return Err(CaseError::Option(option.to_owned())),
            }
        }
        Ok(case)
    }
}

/// A simulated span of this length.
#[must_use]
pub fn span_us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// A number of clients that a run can have.
///
/// # Errors
/// Why it is none.
pub fn clients(text: &str) -> Result<usize, String> {
    let number = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    match number {
        ..CLIENTS_MIN => Err(format!("a run has at least {CLIENTS_MIN} clients")),
        CLIENTS_MIN..=CLIENTS_MAX => Ok(number),
        _ => Err(format!("the simulated host has room for {CLIENTS_MAX} clients")),
    }
}

fn wrong(option: &'static str, value: &str, reason: &dyn fmt::Display) -> CaseError {
    CaseError::Value { option, value: value.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use quickcheck::{Arbitrary, Gen, quickcheck};

    use super::*;

    impl Arbitrary for Case {
        fn arbitrary(g: &mut Gen) -> Self {
            let classes = FaultClass::ALL.iter().copied();
            Self {
                seed: u64::arbitrary(g),
                overrides: Overrides {
                    span_us: Option::<u32>::arbitrary(g).map(u64::from),
                    without: classes.filter(|_| u8::arbitrary(g) < 20).collect(),
                    only: Option::<BTreeSet<u32>>::arbitrary(g)
                        .map(|only| only.into_iter().filter(|number| *number > 0).collect()),
                    clients: Option::<u8>::arbitrary(g)
                        .map(|clients| CLIENTS_MIN + usize::from(clients) % (CLIENTS_MAX - 1)),
                },
            }
        }
    }

    quickcheck! {
        fn what_is_printed_is_read_back(case: Case) -> bool {
            case.to_string().parse() == Ok(case)
        }
    }

    #[test]
    fn a_case_reads_as_a_person_would_write_it() {
        let case: Case =
            "249 --span 1500ms --only 3,7 --without crash,hang".parse().expect("is one");
        assert_eq!(
            case.reproduce(),
            "rvmm chaos replay 249 --span 1500ms --only 3,7 --without crash,hang"
        );
        assert_eq!(Case::of(8).to_string(), "8");
        assert_eq!(
            "8 --span 60s".parse::<Case>().expect("is one").overrides.span_us,
            Some(60_000_000)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "\"\" is no seed"),
            ("x8", "\"x8\" is no seed"),
            ("8 9", "no option \"9\""),
            ("8 --span", "--span has no value"),
            ("8 --span soon", "--span \"soon\": "),
            ("8 --only 1,b", "--only \"1,b\": "),
            ("8 --without crush", "no fault is called \"crush\""),
            ("8 --clients -1", "--clients \"-1\": "),
            ("8 --clients 1", "at least 2 clients"),
            ("8 --clients 65", "room for 64 clients"),
        ] {
            let error = text.parse::<Case>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
