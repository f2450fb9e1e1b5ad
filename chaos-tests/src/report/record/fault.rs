//! The names of faults, of what they hit and of how it ended: the same in the
//! simulator, in campaigns against real processes and in every report.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that is none of those which exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} is called {name:?}; there are: {known}")]
pub struct UnknownName {
    what: &'static str,
    name: String,
    known: String,
}

/// Makes an enum whose members bear a stable name and a description.
macro_rules! named {
    (
        $(#[$attribute:meta])*
        $what:literal $type:ident { $( $member:ident = $name:literal: $text:literal, )+ }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $( #[doc = $text] #[serde(rename = $name)] $member, )+
        }

        impl $type {
            /// All of them, in the order of reports.
            pub const ALL: &'static [Self] = &[ $( Self::$member, )+ ];

            /// The stable name, as it stands in files and on command lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$member => $name, )+ }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $( Self::$member => $text, )+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|member| member.name() == name).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|member| member.name()).collect();
                    UnknownName { what: $what, name: name.to_owned(), known: known.join(", ") }
                })
            }
        }
    };
}

named! {
    /// What is done to a host.
    "fault" FaultClass {
        Crash = "crash": "The process ends at once, between two steps (kill -9).",
        CrashMidStep = "crash-mid-step": "The process ends inside a step: its writes stop half-way.",
        Hang = "hang": "The process stops (SIGSTOP); it may go on later and must not be heard then.",
        Slow = "slow": "The process goes on, but each of its steps takes much longer.",
        StarvedHeartbeat = "starved-heartbeat": "The process works, but its heartbeat comes late or not at all.",
        LostDoorbell = "lost-doorbell": "A wake-up is never delivered.",
        LateDoorbell = "late-doorbell": "A wake-up is delivered late.",
        DoubledDoorbell = "doubled-doorbell": "A wake-up is delivered more than once.",
        DelayedMessage = "delayed-message": "A message between replicas is seen late.",
        ReorderedMessage = "reordered-message": "Messages of different replicas are seen in another order than sent.",
        TornLogWrite = "torn-log-write": "Only a part of a log write reaches the disk.",
        LostLogWrite = "lost-log-write": "A log write that was not yet synced is gone.",
        DiskError = "disk-error": "A read or write of the disk fails.",
        DiskSlow = "disk-slow": "The disk answers, but late.",
        DiskFull = "disk-full": "There is no space left for the log.",
        StateBitFlip = "state-bit-flip": "A bit of a replica's state changes by itself.",
        RingBitFlip = "ring-bit-flip": "A bit of a ring's memory changes by itself.",
        HostileRing = "hostile-ring": "A replica writes whatever it likes into the rings that it owns.",
        Guest = "guest": "The virtual machine that a replica's state machine runs in breaks from within.",
        Poison = "poison": "An input kills or hangs every replica that applies it.",
        ClockJump = "clock-jump": "The clock leaps ahead.",
        VanishingClient = "vanishing-client": "A client is gone in the middle of a request or transaction.",
        StuckClient = "stuck-client": "A client sends, but does not read what it is answered.",
        MemoryPressure = "memory-pressure": "Memory is short, as under a limit or beside a greedy process.",
        DescriptorExhaustion = "descriptor-exhaustion": "No more file descriptors are to be had.",
        CpuStarvation = "cpu-starvation": "Others take the processor away.",
        KillAll = "kill-all": "All replicas end at once.",
        KillInFailover = "kill-in-failover": "A second replica ends while the host fails over.",
        KillInRebuild = "kill-in-rebuild": "A replica ends while a lost one is being replaced.",
        Scale = "scale": "The number of replicas is changed under load.",
        PromoteStorm = "promote-storm": "The primary's role is handed on again and again.",
        HostCrash = "host-crash": "The host's own process ends.",
        HostRestart = "host-restart": "The host's own process ends in the middle of something, and another goes on with what it has left.",
        PowerLoss = "power-loss": "Everything ends at once and what was not synced is gone.",
    }
}

named! {
    /// What a fault hits, by its role at that moment.
    "component" Component {
        Primary = "primary": "The replica that serves.",
        Standby = "standby": "A replica that can take over at once.",
        Learner = "learner": "A replica that is still being brought up to date.",
        Candidate = "candidate": "A replica that is about to be promoted.",
        Host = "host": "The host's own process.",
        Client = "client": "A client, or its connection.",
        Disk = "disk": "The disk under the replicas' logs.",
        Ring = "ring": "The shared memory between the parties.",
    }
}

named! {
    /// How a fault ended.
    "outcome" Outcome {
        Masked = "masked": "Nobody noticed, and no role changed.",
        Failover = "failover": "A standby took over; clients noticed a pause at most.",
        Rebuilt = "rebuilt": "A replica other than the primary was replaced.",
        Recovered = "interrupted-and-recovered": "Service stopped and came back with all acknowledged state.",
        AnsweredEio = "answered-eio": "The one bad request was answered with an I/O error; all others were served.",
        StateLost = "state-lost-as-configured": "State was lost, which the configured durability allows for this fault.",
        Unnoticed = "unnoticed": "Damage that was certain to be found was not found in time; the campaign itself ended the damaged replica.",
        Skipped = "skipped": "Not injected: its target was not there. Not a trial.",
        Failed = "FAILED": "A promise was broken.",
    }
}

impl Outcome {
    /// Whether the fault was injected, so that it says something about the host.
    #[must_use]
    pub const fn is_trial(self) -> bool {
        !matches!(self, Self::Skipped)
    }

    /// Whether a promise was broken.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_the_same_in_files_and_on_command_lines() {
        for class in FaultClass::ALL {
            let json = serde_json::to_string(class).expect("serializes");
            assert_eq!(json, format!("\"{class}\""));
            assert_eq!(class.name().parse(), Ok(*class));
            assert!(!class.name().contains(|c: char| !c.is_ascii_lowercase() && c != '-'));
            assert!(class.description().ends_with('.'), "{class}");
        }
        let names: BTreeSet<&str> = FaultClass::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), FaultClass::ALL.len());
        assert_eq!("candidate".parse(), Ok(Component::Candidate));
        assert_eq!("FAILED".parse(), Ok(Outcome::Failed));
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_exist() {
        let error = "crush".parse::<FaultClass>().expect_err("is none").to_string();
        assert!(error.contains("\"crush\"") && error.contains("crash-mid-step"), "{error}");
    }
}
