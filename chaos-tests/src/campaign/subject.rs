//! The host that a campaign breaks: one of its own, or one that is there.

use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::profile::{Durability, Profile};
use super::{CampaignError, Options};
use crate::bench;
use crate::client::Client;
use crate::harness::{Host, HostOptions};

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
    /// The state directory, when it is a file system that may be filled.
    pub(super) disk: Option<PathBuf>,
    /// Something that this host cannot offer, and why.
    pub(super) lacks: Option<String>,
    own: Option<Host>,
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
        // The profile's promises about the target have to be true of this one.
        let volatile = xenstore.durability == "volatile";
        let needy = profile
            .faults
            .iter()
            .find(|(_, choice)| volatile && choice.class.needs != super::fault::Needs::Nothing);
        if let Some((_, choice)) = needy {
            return Err(CampaignError::Unsafe(format!(
                "{} would take the state of this host away: its durability is volatile",
                choice.class.class
            )));
        }
        if xenstore.replication_factor < 2 && volatile {
            let why = "this host has a single replica and durability volatile: any fault would \
                       take its state away";
            return Err(CampaignError::Unsafe(why.into()));
        }
        Ok(Self {
            daemon,
            socket: run_dir.join("xenstored/socket"),
            pid: status.pid,
            version: status.version,
            text: format!("the host at {}", run_dir.display()),
            root: format!("/rvmm-chaos-{}", std::process::id()),
            disk: None,
            lacks: None,
            own: None,
        })
    }

    fn start(binary: &Path, profile: &Profile) -> Result<Self, CampaignError> {
        let target = &profile.file.target;
        let durability = *target.durability.get_ref();
        let mut options = HostOptions::default()
            .set("xenstore.replicas", target.replicas.get_ref().0)
            .set("xenstore.ack", target.ack.as_str())
            .set("xenstore.durability", durability.as_str());
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
            "a host of its own: {} replicas, {}, {}, {nodes} nodes{}",
            target.replicas.get_ref().0,
            target.ack.as_str(),
            durability.as_str(),
            options.disk_mib.map(|mib| format!(", {mib} MiB of disk")).unwrap_or_default()
        );
        debug_assert!(durability != Durability::Volatile || disk.is_none());
        Ok(Self {
            version: daemon.status()?.version,
            daemon,
            socket: host.socket(),
            pid: host.pid(),
            text,
            root: "/chaos".into(),
            disk,
            lacks,
            own: Some(host),
        })
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
