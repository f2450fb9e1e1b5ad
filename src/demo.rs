//! The demonstration: a host of its own under real load, its primaries killed,
//! hung and corrupted one after another, and a verdict on what the clients saw.

mod report;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use chaos::harness::{Host, HostOptions};
use chaos::soak::{Soak, SoakConfig};

use crate::control::{Client, Fault, FaultKind, Request, Response, Target};
use crate::start::control_socket;
use crate::status::{Component, Failover, Health, Status};

pub use report::DemoReport;
use view::View;

/// What the demonstration does.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// How long faults are injected.
    pub duration: Duration,
    /// How many clients work.
    pub clients: u16,
    /// How many replicas there are.
    pub replicas: u8,
    /// What the clients' choices derive from.
    pub seed: u64,
    /// Whether to show it live.
    pub live: bool,
}

/// What is done to primaries, in turn.
const FAULTS: [FaultKind; 4] =
    [FaultKind::Kill, FaultKind::Hang, FaultKind::Kill, FaultKind::Corrupt];
/// How often the daemon is asked how it is.
const TICK: Duration = Duration::from_millis(100);
/// From the group being whole again to the next fault.
const PAUSE: Duration = Duration::from_millis(400);
/// How long the group may take to be whole again in the end.
const HEAL: Duration = Duration::from_secs(10);
/// Of each client between two requests: enough load that every fault hits
/// requests on their way, and enough room that the pause shows, not the queue.
const THINK_US: u64 = 200;

/// An injected fault.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Injected {
    /// When, milliseconds since the start.
    pub at_ms: u64,
    /// What.
    pub kind: FaultKind,
    /// What the daemon said to it.
    pub said: String,
}

/// Runs the demonstration and prints what it shows.
///
/// # Errors
/// When the host or the load cannot be started. That something was lost is no
/// error, but the exit code.
pub fn run(options: &DemoOptions, json: bool) -> anyhow::Result<ExitCode> {
    let report = Demo::start(options)?.run()?;
    let text = if json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
    crate::cli::print(text + "\n")?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo<'a> {
    options: &'a DemoOptions,
    host: Host,
    soak: Soak,
    control: PathBuf,
    began: Instant,
    view: View,
    injected: Vec<Injected>,
    failovers: Vec<Failover>,
    /// When the group was last seen to have become whole.
    whole_since: Option<Instant>,
}

impl<'a> Demo<'a> {
    fn start(options: &'a DemoOptions) -> anyhow::Result<Self> {
        let view = View::new(options);
        view.say(&format!("starting a host with {} replicas of xenstore", options.replicas))?;
        let binary = std::env::current_exe().context("finding this program")?;
        let host = Host::start(
            &binary,
            &HostOptions::default().set("xenstore.replicas", options.replicas),
        )?;
        let xenstore = host.xenstore()?;
        view.say(&format!("backend {}: {}", xenstore.backend, xenstore.backend_reason))?;
        let load = SoakConfig {
            clients: options.clients,
            think_us: THINK_US,
            seed: options.seed,
            ..SoakConfig::default()
        };
        let soak = Soak::start(&host.socket(), load)?;
        let control = control_socket(&host.run_dir());
        Ok(Self {
            options,
            host,
            soak,
            control,
            began: Instant::now(),
            view,
            injected: Vec::new(),
            failovers: Vec::new(),
            whole_since: None,
        })
    }

    fn run(mut self) -> anyhow::Result<DemoReport> {
        while self.began.elapsed() < self.options.duration {
            let status = self.look()?;
            if self.may_break(status.as_ref()) {
                self.break_primary()?;
            }
            std::thread::sleep(TICK);
        }
        let healed = self.wait_whole()?;
        self.view.end()?;
        self.view.say("stopping the load and checking what every client saw")?;
        let Self { mut host, soak, began, injected, failovers, .. } = self;
        let verdict = soak.finish()?;
        let seconds = began.elapsed().as_secs_f64();
        host.stop()?;
        Ok(DemoReport { seconds, healed, injected, failovers, verdict })
    }

    /// Asks the daemon how it is, and shows it.
    fn look(&mut self) -> anyhow::Result<Option<Status>> {
        let status = self.fetch();
        if let Some(component) = status.as_ref().and_then(xenstore) {
            let known = self.failovers.last().map_or(0, |failover| failover.generation);
            let new = component.failovers.iter().filter(|failover| failover.generation > known);
            self.failovers.extend(new.cloned());
            let whole = component.health == Health::Healthy;
            self.whole_since = whole.then(|| self.whole_since.unwrap_or_else(Instant::now));
        }
        let counts = self.soak.counts();
        let component = status.as_ref().and_then(xenstore);
        self.view.show(
            self.began.elapsed(),
            component,
            &counts,
            &self.injected,
            &self.failovers,
        )?;
        Ok(status)
    }

    /// None when it does not answer just now.
    fn fetch(&self) -> Option<Status> {
        let reply = Client::connect(&self.control).ok()?.call(&Request::Status, &[]).ok()?;
        match reply.response {
            Response::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// One fault at a time: the next one once the last is made up for.
    fn may_break(&self, status: Option<&Status>) -> bool {
        status.is_some() && self.whole_since.is_some_and(|since| since.elapsed() >= PAUSE)
    }

    fn break_primary(&mut self) -> anyhow::Result<()> {
        let kind = FAULTS[self.injected.len() % FAULTS.len()];
        let fault = Fault {
            kind,
            component: "xenstore".into(),
            replica: Target::Primary,
            duration_ms: None,
            slow_percent: None,
        };
        let reply = Client::connect(&self.control)?.call(&Request::Fault(fault), &[])?;
        let said = match reply.response {
            Response::Done { text } => text,
            Response::Refused { why } => format!("refused: {why}"),
            other => format!("{other:?}"),
        };
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.injected.push(Injected { at_ms, kind, said });
        self.whole_since = None;
        Ok(())
    }

    /// Waits until the last fault is made up for.
    fn wait_whole(&mut self) -> anyhow::Result<bool> {
        let deadline = Instant::now() + HEAL;
        while Instant::now() < deadline {
            self.look()?;
            if self.whole_since.is_some_and(|since| since.elapsed() >= PAUSE) {
                return Ok(true);
            }
            std::thread::sleep(TICK);
        }
        Ok(false)
    }
}

fn xenstore(status: &Status) -> Option<&Component> {
    status.components.iter().find(|component| component.name == "xenstore")
}
