//! The host that a campaign breaks: one of its own, or one that is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemon::Daemon;
use super::fault::HostImage;
use super::profile::{Durability, Profile};
use super::{CampaignError, Options};
use crate::bench;
use crate::client::{Client, ClientError, Tx};
use crate::harness::{ComponentStatus, Host, HostOptions};

/// See the module.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) daemon: Daemon,
    pub(super) socket: PathBuf,
    pub(super) pid: u32,
    /// Its version.
    pub(super) version: String,
    /// What it is, in a line.
    pub(super) text: String,
    /// Where in the store the load works; nothing else of the store is touched.
    pub(super) root: String,
    /// Nodes that the store held before the load, as far as anybody needs to know.
    pub(super) nodes: u64,
    /// So many of them were created by the campaign, which reads them back.
    pub(super) prefilled: u32,
    /// The state directory, when it is a file system that may be filled.
    pub(super) disk: Option<PathBuf>,
    /// Something that this host cannot offer, and why.
    pub(super) lacks: Option<String>,
    /// What its replicas' virtual machines run.
    pub(super) image: HostImage,
    own: Option<Host>,
}

/// What a host that does not say uses at the least, milliseconds.
const LEAST_DETECT_MS: u64 = 10;
const LEAST_STARVED_MS: u64 = 100;

/// Why a profile must not be let loose on a host that is there, if so: what it
/// promises of its target has to be true of this one.
fn danger(profile: &Profile, xenstore: &ComponentStatus) -> Option<String> {
    if xenstore.durability != "volatile" {
        return None;
    }
    let detect = Duration::from_millis(xenstore.detect_ms.unwrap_or(LEAST_DETECT_MS));
    let starved = Duration::from_millis(xenstore.starved_limit_ms.unwrap_or(LEAST_STARVED_MS));
    let mut choices = profile.faults.iter().map(|(_, choice)| choice);
    if let Some(choice) = choices.find(|choice| choice.may_take_all(detect, starved)) {
        return Some(format!(
            "{} would take the state of this host away: its durability is volatile",
            choice.name()
        ));
    }
    (xenstore.replication_factor < 2).then(|| {
        "this host has a single replica and durability volatile: any fault would take its state \
         away"
            .to_owned()
    })
}

fn count_nodes(client: &mut Client) -> Result<u64, ClientError> {
    let (mut count, mut open) = (0, vec![String::from("/")]);
    while let Some(dir) = open.pop() {
        count += 1;
        let names = match client.directory_by_parts(Tx::NONE, &dir) {
            // Others may be at work there.
            Err(error) if error.errno().is_some() => Vec::new(),
            names => names?,
        };
        let parent = dir.trim_end_matches('/');
        open.extend(names.iter().map(|n| format!("{parent}/{}", String::from_utf8_lossy(n))));
    }
    Ok(count)
}

impl Subject {
    /// Starts a host, or finds the one that is meant.
    pub(super) fn find(options: &Options) -> Result<Self, CampaignError> {
        let target = &options.profile.file.target;
        let given = options.run_dir.as_ref();
        match given.or(target.run_dir.as_ref().map(toml::Spanned::get_ref)) {
            Some(run_dir) => Self::attach(run_dir, &options.profile),
            None => Self::start(&options.binary, &options.profile),
        }
    }

    fn attach(run_dir: &Path, profile: &Profile) -> Result<Self, CampaignError> {
        let daemon = Daemon::at(run_dir);
        let status = daemon.status()?;
        let xenstore = daemon.xenstore()?;
        if let Some(why) = danger(profile, &xenstore) {
            return Err(CampaignError::Unsafe(why));
        }
        let socket = run_dir.join("xenstored/socket");
        // Only what must be noticed has to be waited for.
        let certain = profile.faults.iter().any(|(_, choice)| choice.must_be_noticed());
        let nodes = if certain {
            Client::connect(&socket)
                .and_then(|mut client| count_nodes(&mut client))
                .map_err(CampaignError::client("counting the nodes of the store"))?
        } else {
            0
        };
        Ok(Self {
            daemon,
            socket,
            pid: status.pid,
            version: status.version,
            text: format!("the host at {}", run_dir.display()),
            root: format!("/rvmm-chaos-{}", std::process::id()),
            nodes,
            prefilled: 0,
            disk: None,
            lacks: None,
            image: HostImage::default(),
            own: None,
        })
    }

    fn start(binary: &Path, profile: &Profile) -> Result<Self, CampaignError> {
        let target = &profile.file.target;
        let durability = *target.durability.get_ref();
        let mut options = HostOptions::default()
            .set("xenstore.replicas", target.replicas.get_ref().0)
            .set("xenstore.ack", target.ack.as_str())
            .set("xenstore.backend", target.backend.as_str())
            .set("xenstore.lockstep", target.lockstep)
            .set("xenstore.durability", durability.as_str());
        options.ends_with_us = true;
        options.disk_mib = target.disk_mib.as_ref().map(|disk| disk.get_ref().0);
        let (host, lacks) = match Host::start(binary, &options) {
            // Without the right to mount all other faults are still worth it.
            Err(error) if options.disk_mib.is_some() => {
                let lacks = format!("no file system of its own for the state: {error}");
                options.disk_mib = None;
                (Host::start(binary, &options)?, Some(lacks))
            }
            started => (started?, None),
        };
        let nodes = u32::try_from(target.nodes.0).unwrap_or(u32::MAX);
        if nodes > 0 {
            bench::fill(&host.socket(), nodes)
                .map_err(CampaignError::client("filling the store"))?;
        }
        let daemon = Daemon::at(&host.run_dir());
        let disk = options.disk_mib.map(|_| host.state_dir());
        let text = format!(
            "a host of its own: {} replicas, backend {}{}, {}, {}, {nodes} nodes{}",
            target.replicas.get_ref().0,
            target.backend.as_str(),
            if target.lockstep { ", in lockstep" } else { "" },
            target.ack.as_str(),
            durability.as_str(),
            options.disk_mib.map(|mib| format!(", {mib} MiB of disk")).unwrap_or_default()
        );
        debug_assert!(durability != Durability::Volatile || disk.is_none());
        let status = daemon.status()?;
        Ok(Self {
            version: status.version,
            daemon,
            socket: host.socket(),
            pid: status.pid,
            text,
            root: "/chaos".into(),
            nodes: nodes.into(),
            prefilled: nodes,
            disk,
            lacks,
            image: HostImage::default(),
            own: Some(host),
        })
    }

    /// Whether the campaign started it.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Leaves a host that is there as it was found, and stops one of our own;
    /// keeps its log.
    pub(super) fn leave(mut self, out: &Path) {
        // Nothing of this may hide the verdict.
        if let Some(host) = &self.own {
            let _ = std::fs::copy(host.log_file(), out.join("host.log"));
        } else if let Ok(mut client) = Client::connect(&self.socket) {
            let _ = client.rm_if_there(&self.root);
        }
        drop(self.own.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(fault: &str, durability: &str, more: &str) -> Option<String> {
        let text = format!("description = \"d\"\n[[fault]]\n{fault}\n");
        let text = text.replace("d\"\n[[", "d\"\n[target]\ndurability = \"process\"\n[[");
        let profile = Profile::parse("p.toml", "p.toml", &text).expect("is right");
        let status = format!(
            "{{\"name\": \"xenstore\", \"generation\": 3, \"ack_policy\": \"all-live\", \
             \"durability\": \"{durability}\", \"replication_factor\": 3, \"failovers\": [], \
             {more} \"replicas\": []}}"
        );
        danger(&profile, &serde_json::from_str(&status).expect("is a status"))
    }

    #[test]
    fn whatever_can_take_all_replicas_is_refused_on_a_volatile_host() {
        const LIMITS: &str = "\"detect_ms\": 50, \"starved_limit_ms\": 5000,";
        let hang = |time: &str| format!("class = \"hang\"\ntarget = \"all\"\nfor = \"{time}\"");
        let spin = |time: &str| format!("class = \"cpu-starvation\"\nfor = \"{time}\"");
        for (fault, limits, refused) in [
            (hang("1ms..1s"), LIMITS, true),
            (hang("25ms"), LIMITS, true),
            (hang("1ms..10ms"), LIMITS, false),
            // One that does not say may be as strict as any.
            (hang("1ms..10ms"), "", true),
            (hang("1s").replace("all", "any"), LIMITS, false),
            (spin("500ms..2s"), LIMITS, false),
            (spin("6s"), LIMITS, true),
            ("class = \"kill-all\"".to_owned(), LIMITS, true),
            ("class = \"memory-pressure\"".to_owned(), LIMITS, false),
        ] {
            let why = refusal(&fault, "volatile", limits);
            assert_eq!(why.is_some(), refused, "{fault}: {why:?}");
            assert_eq!(refusal(&fault, "process", limits), None);
        }
        assert_eq!(
            refusal(&hang("60s"), "volatile", LIMITS).as_deref(),
            Some(
                "hang all for up to 1m would take the state of this host away: its durability is \
                 volatile"
            )
        );
    }
}
