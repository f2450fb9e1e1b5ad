//! What operators ask through the control socket.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use coordinator::Service;
use hypervisor::decision::{Cause, Event, Phase, Standing};
use hypervisor::fabric::Role as PageRole;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::protocol::ToReplica;
use state_machine::{Input, InputNo, StateMachine};
use tokio::sync::oneshot;
use xenstore::Xenstore;
use xenstore::stream::Version;
use xenstore::wire::{self, MessageType};

use super::import::Import;
use super::looping::{Ending, Holding, Host};
use super::machine::Process;
use super::settings::COMPONENT;
use crate::config::MemoryShares;
use crate::control::{ExportFormat, Fault, FaultKind, HostCall, Reply, Request, Response, Target};
use crate::holder::Program;
use crate::status::{
    Component, Counters, HolderStatus, LastRestart, Replica, ReplicaState, Role, StateDigest,
    Status,
};
use coordinator::events::Tag;

/// How long an operator's wish may take before the answer is that it did not
/// happen.
const WISH_LIMIT: Duration = Duration::from_secs(30);

/// What a caller waits for.
enum Wish {
    /// A poison input to be answered.
    Poison(InputNo),
    /// This replica to be the primary, from this generation on.
    Primary(ReplicaId, Generation),
    /// This many voters.
    Scale(u8),
    /// A snapshot.
    Export { ticket: u64, format: ExportFormat },
}

struct Waiter {
    wish: Wish,
    since: Instant,
    reply: oneshot::Sender<Reply>,
}

/// Callers whose answers are not there yet, and faults that end by themselves.
#[derive(Default)]
pub(crate) struct Waiting {
    waiters: Vec<Waiter>,
    tickets: u64,
    answered: Vec<(InputNo, String)>,
    faults: Vec<(Instant, ReplicaId, FaultKind)>,
    seed: u64,
}

impl Waiting {
    /// An input of the host itself was answered.
    pub(crate) fn answered(&mut self, input: InputNo, frame: &[u8]) {
        let text = match wire::split(frame) {
            Some((header, payload)) if header.kind == MessageType::Error.to_u32() => {
                String::from_utf8_lossy(payload.strip_suffix(b"\0").unwrap_or(payload)).into_owned()
            }
            _ => "OK".to_owned(),
        };
        if self.waiters.iter().any(|w| matches!(w.wish, Wish::Poison(no) if no == input)) {
            self.answered.push((input, text));
        }
    }

    /// Nothing of all that will happen.
    pub(crate) fn refuse_all(&mut self, why: &str) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.reply.send(Reply::refused(why));
        }
    }

    fn add(&mut self, wish: Wish, reply: oneshot::Sender<Reply>) {
        self.waiters.push(Waiter { wish, since: Instant::now(), reply });
    }
}

impl Host {
    pub(super) fn call(&mut self, call: HostCall) {
        let HostCall { request, attached, program, reply } = call;
        let answer = match request {
            Request::Status => Response::Status(Box::new(self.status())).into(),
            Request::Down => {
                self.ending = Some(Ending::Down);
                self.events.info(&[Tag::Control], "told to end");
                self.tell_stopping();
                Reply::done("the daemon ends")
            }
            Request::Upgrade { .. } => match self.upgrade(program) {
                Ok(text) => Reply::done(text),
                Err(why) => Reply::refused(why),
            },
            Request::Dmesg { .. } => Reply::refused("the control thread answers that itself"),
            Request::Fault(fault) => match self.fault(&fault) {
                Ok(Some(poison)) => return self.waiting.add(Wish::Poison(poison), reply),
                Ok(None) => Reply::done(format!("{} {}", fault.kind, fault.replica)),
                Err(why) => Reply::refused(why),
            },
            Request::Promote { component, id } => match self.promote(&component, ReplicaId(id)) {
                Ok(before) => {
                    return self.waiting.add(Wish::Primary(ReplicaId(id), before), reply);
                }
                Err(why) => Reply::refused(why),
            },
            Request::Scale { component, replicas } => match self.scale(&component, replicas) {
                Ok(()) => return self.waiting.add(Wish::Scale(replicas), reply),
                Err(why) => Reply::refused(why),
            },
            Request::Export { component, format } => match self.export(&component) {
                Ok(ticket) => return self.waiting.add(Wish::Export { ticket, format }, reply),
                Err(why) => Reply::refused(why),
            },
            Request::Import { component } => match self.import(&component, &attached) {
                Ok((requests, text)) => {
                    let done = move |outcome: Result<(), String>| {
                        // Whoever asked may have gone.
                        let _ = reply.send(match outcome {
                            Ok(()) => Reply::done(text),
                            Err(why) => Reply::refused(why),
                        });
                    };
                    return self.coordinator.ask(requests, Box::new(done));
                }
                Err(why) => Reply::refused(why),
            },
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    fn known(component: &str) -> Result<(), String> {
        if component == COMPONENT {
            return Ok(());
        }
        Err(format!("no component is called {component:?}; allowed: {COMPONENT}"))
    }

    fn target(&self, target: Target) -> Result<ReplicaId, String> {
        let decisions = self.coordinator.decisions();
        let primary = decisions.primary();
        let mut live = decisions.members().filter(|(_, _, s)| {
            matches!(s, Standing::Voter | Standing::Learner | Standing::Leaving)
        });
        match target {
            Target::Primary => primary.ok_or_else(|| "there is no primary just now".into()),
            Target::Standby => live
                .find(|(id, _, standing)| Some(*id) != primary && *standing == Standing::Voter)
                .map(|(id, ..)| id)
                .ok_or_else(|| "there is no standby just now".into()),
            Target::Id(id) => {
                let ids: Vec<_> = live.map(|(id, ..)| id).collect();
                ids.iter().copied().find(|live| live.0 == id).ok_or_else(|| {
                    let ids: Vec<_> = ids.iter().map(ReplicaId::to_string).collect();
                    format!("no live replica has the id {id}; allowed: {}", ids.join(", "))
                })
            }
        }
    }

    /// Injects a fault; a poison input's answer is still to come.
    fn fault(&mut self, fault: &Fault) -> Result<Option<InputNo>, String> {
        Self::known(&fault.component)?;
        let id = self.target(fault.replica)?;
        if fault.kind == FaultKind::Poison {
            if self.coordinator.decisions().primary() != Some(id) {
                return Err("a poison input kills whoever applies it first: only the primary \
                            does; use --replica primary"
                    .into());
            }
            let no = self.coordinator.push(&Input::Poison).map_err(|error| error.to_string())?;
            self.events.warn(&[Tag::Fault, Tag::Xenstore], format!("input {no} is poison"));
            return Ok(Some(no));
        }
        self.events.warn(&[Tag::Fault, Tag::Xenstore], format!("{} replica {id}", fault.kind));
        let expected = match fault.kind {
            FaultKind::Kill => Cause::Killed,
            FaultKind::Hang | FaultKind::Slow => Cause::Hung,
            FaultKind::Corrupt => Cause::Corrupt,
            FaultKind::Poison => Cause::Crashed,
        };
        self.coordinator.note_injected(id, expected);
        let Some(domain) = self.coordinator.domain(id).map(Process::process) else {
            return Err(format!("replica {id} is still being started"));
        };
        let os = |error: hypervisor::domain::DomainError| error.to_string();
        match fault.kind {
            FaultKind::Kill => domain.kill().map_err(os)?,
            FaultKind::Hang => domain.stop().map_err(os)?,
            FaultKind::Corrupt => {
                self.waiting.seed += 1;
                let seed = self.waiting.seed;
                self.coordinator.order(id, &ToReplica::Corrupt { seed });
            }
            FaultKind::Slow => {
                let delay_us = slow_delay_us(fault.slow_percent);
                self.coordinator.order(id, &ToReplica::Slow { delay_us });
            }
            FaultKind::Poison => {}
        }
        if let Some(duration_ms) = fault.duration_ms
            && matches!(fault.kind, FaultKind::Hang | FaultKind::Slow)
        {
            let until = Instant::now() + Duration::from_millis(duration_ms);
            self.waiting.faults.push((until, id, fault.kind));
        }
        Ok(None)
    }

    fn end_faults(&mut self) {
        let now = Instant::now();
        let (over, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting.faults).into_iter().partition(|f| f.0 <= now);
        self.waiting.faults = rest;
        for (_, id, kind) in over {
            match kind {
                // It may have been fenced meanwhile: then there is nothing to end.
                FaultKind::Hang => {
                    if let Some(domain) = self.coordinator.domain(id) {
                        let _ = domain.process().cont();
                    }
                }
                _ => {
                    let end = ToReplica::Slow { delay_us: 0 };
                    self.coordinator.order(id, &end);
                }
            }
        }
    }

    fn promote(&mut self, component: &str, id: ReplicaId) -> Result<Generation, String> {
        Self::known(component)?;
        let id = self.target(Target::Id(id.0))?;
        let decisions = self.coordinator.decisions();
        if decisions.primary() == Some(id) {
            return Err(format!("replica {id} is the primary already"));
        }
        if !matches!(decisions.phase(), Phase::Serving { .. }) {
            return Err("a failover is under way; try again".into());
        }
        if !decisions.members().any(|(m, _, standing)| m == id && standing == Standing::Voter) {
            return Err(format!("replica {id} is still being taught"));
        }
        self.events.info(&[Tag::Control], format!("promote replica {id}"));
        let before = self.coordinator.decisions().generation();
        self.coordinator.step(Event::OperatorPromote { id });
        Ok(before)
    }

    fn upgrade(&mut self, program: Option<Program>) -> Result<String, String> {
        let program = program.ok_or("no program is named")?;
        if self.coordinator.service() != Service::Serving {
            return Err("the component does not serve".into());
        }
        let text = format!("upgrade to {}", program.path.display());
        self.events.info(&[Tag::Control], text.clone());
        self.ending = Some(Ending::Upgrade(program));
        Ok(text)
    }

    fn scale(&mut self, component: &str, replicas: u8) -> Result<(), String> {
        Self::known(component)?;
        if !(1..=7).contains(&replicas) {
            return Err(format!("{replicas} replicas; allowed: 1 to 7"));
        }
        if self.coordinator.service() != Service::Serving {
            return Err("the component does not serve".into());
        }
        self.events.info(&[Tag::Control], format!("scale to {replicas} replicas"));
        self.coordinator.step(Event::OperatorScale { replication_factor: replicas });
        Ok(())
    }

    fn export(&mut self, component: &str) -> Result<u64, String> {
        Self::known(component)?;
        let primary = self.target(Target::Primary)?;
        self.waiting.tickets += 1;
        let ticket = self.waiting.tickets;
        self.coordinator.order(primary, &ToReplica::Export { ticket });
        Ok(ticket)
    }

    fn import(
        &mut self,
        component: &str,
        stream: &[u8],
    ) -> Result<(VecDeque<Vec<u8>>, String), String> {
        Self::known(component)?;
        if self.coordinator.service() != Service::Serving {
            return Err("the component does not serve".into());
        }
        if self.coordinator.asks() {
            return Err("another import is under way".into());
        }
        let import = Import::read(stream).map_err(|error| error.to_string())?;
        let shares = MemoryShares::of(&self.settings.config);
        Import::check_room(stream, shares.store_kib())?;
        let text = import.describe();
        Ok((import.requests, text))
    }

    /// A snapshot came.
    pub(super) fn exported(&mut self, ticket: u64, snapshot: &[u8]) {
        let waiters = &mut self.waiting.waiters;
        let Some(at) = waiters
            .iter()
            .position(|w| matches!(w.wish, Wish::Export { ticket: t, .. } if t == ticket))
        else {
            return;
        };
        let Waiter { wish: Wish::Export { format, .. }, reply, .. } = waiters.swap_remove(at)
        else {
            return;
        };
        let exported = match format {
            ExportFormat::Full => Ok(snapshot.to_vec()),
            ExportFormat::XenV1 => export(snapshot, Version::One),
            ExportFormat::XenV2 => export(snapshot, Version::Two),
        };
        let answer = match exported {
            Ok(attached) => Reply {
                response: Response::Done { text: format!("{} bytes", attached.len()) },
                attached,
            },
            Err(why) => Reply::refused(why),
        };
        let _ = reply.send(answer);
    }

    /// Answers those whose wish has come true, or will not.
    pub(super) fn settle_waiting(&mut self) -> bool {
        if !self.waiting.faults.is_empty() {
            self.end_faults();
        }
        if self.waiting.waiters.is_empty() {
            return false;
        }
        let waiters = std::mem::take(&mut self.waiting.waiters);
        let before = waiters.len();
        for waiter in waiters {
            match self.outcome(&waiter) {
                Some(answer) => drop(waiter.reply.send(answer)),
                None => self.waiting.waiters.push(waiter),
            }
        }
        self.waiting.answered.clear();
        self.waiting.waiters.len() != before
    }

    fn outcome(&self, waiter: &Waiter) -> Option<Reply> {
        let decisions = self.coordinator.decisions();
        let serving = decisions.primary();
        let done = match &waiter.wish {
            Wish::Poison(no) => {
                let answered = self.waiting.answered.iter().find(|(input, _)| input == no);
                answered.map(|(_, text)| format!("the poison input was answered {text}"))
            }
            Wish::Primary(id, _) if serving == Some(*id) => {
                Some(format!("replica {id} is the primary"))
            }
            Wish::Primary(_, before) => {
                if let Some(other) = serving.filter(|_| decisions.generation() > *before) {
                    let why = format!("a failover came in between: replica {other} is the primary");
                    return Some(Reply::refused(why));
                }
                None
            }
            Wish::Scale(wanted) => {
                let settled = decisions.members().all(|(_, _, s)| s == Standing::Voter);
                let voters = decisions.members().filter(|(_, _, s)| *s == Standing::Voter).count();
                (serving.is_some() && settled && voters == usize::from(*wanted))
                    .then(|| format!("{wanted} replicas"))
            }
            Wish::Export { .. } => None,
        };
        match done {
            Some(text) => Some(Reply::done(text)),
            None if waiter.since.elapsed() > WISH_LIMIT => {
                Some(Reply::refused(format!("it has not happened in {WISH_LIMIT:?}")))
            }
            None => None,
        }
    }

    fn status(&self) -> Status {
        let decisions = self.coordinator.decisions();
        let primary = decisions.primary();
        let replicas: Vec<_> = decisions
            .members()
            .map(|(id, slot, standing)| self.replica_status(id, slot, standing, primary))
            .collect();
        let replication_factor = decisions.policy().replication_factor;
        let xenstore = &self.settings.config.xenstore;
        let monitor = &self.settings.config.monitor;
        let (backend, backend_reason) = self.settings.backends.describe();
        let component = Component {
            name: COMPONENT.into(),
            health: Component::health_of(replication_factor, &replicas),
            generation: decisions.generation().0,
            ack_policy: xenstore.ack,
            durability: xenstore.durability,
            backend: backend.into(),
            backend_reason: backend_reason.into(),
            lockstep: xenstore.lockstep,
            replication_factor,
            detect_ms: monitor.detect_ms.into(),
            starved_limit_ms: monitor.starved_limit_ms.into(),
            replicas,
            failovers: self.coordinator.failovers().cloned().collect(),
            failovers_total: self.coordinator.failover_count(),
            counters: Counters {
                inputs: self.coordinator.inputs(),
                outputs: self.coordinator.deliveries().delivered,
                outputs_dropped: self.coordinator.deliveries().dropped,
                pending: self.coordinator.pending() as u64,
                clients: self.coordinator.clients() as u64,
                clients_refused: self.coordinator.refused(),
                quarantined: self.coordinator.quarantined().count() as u64,
            },
        };
        let uptime = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Holding { holder, restarts, restart, pause } = &self.holding;
        let restart = restart.as_ref().map(|restart| LastRestart {
            cause: restart.cause.clone(),
            from_version: restart.from_version.clone(),
            pause_ms: pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
        });
        let holder = HolderStatus {
            pid: u32::try_from(holder.as_raw_nonzero().get()).unwrap_or_default(),
            restarts: *restarts,
            last_restart: restart,
        };
        Status::new(&self.settings.config.run_dir, uptime, holder, vec![component])
    }

    fn replica_status(
        &self,
        id: ReplicaId,
        slot: SlotId,
        standing: Standing,
        primary: Option<ReplicaId>,
    ) -> Replica {
        let page = self.coordinator.fabric().replica_page(slot);
        let newest = page.digests().pop();
        Replica {
            id: id.0,
            slot: slot.get(),
            backend: self.settings.backends.of(slot).name().into(),
            pid: self.coordinator.domain(id).map_or(0, |domain| {
                u32::try_from(domain.process().pid().as_raw_nonzero().get()).unwrap_or_default()
            }),
            role: match standing {
                _ if primary == Some(id) && page.role() == PageRole::Primary => Role::Primary,
                Standing::Starting | Standing::Learner => Role::Learner,
                _ => Role::Standby,
            },
            state: match standing {
                Standing::Starting => ReplicaState::Starting,
                Standing::Fenced => ReplicaState::Fencing,
                Standing::Learner | Standing::Voter | Standing::Leaving => ReplicaState::Running,
            },
            last_input: page.last_applied_input(),
            commit_index: page.commit_index(),
            digest: newest.map(|record| StateDigest {
                log_index: record.log_index,
                digest: format!("{:016x}", record.digest),
            }),
        }
    }
}

/// A snapshot of ours as the stream that Xen's own daemons read.
fn export(snapshot: &[u8], version: Version) -> Result<Vec<u8>, String> {
    let store = Xenstore::restore(snapshot).map_err(|error| error.to_string())?;
    store.export(version).map_err(|error| error.to_string())
}

/// A turn of the loop takes a few microseconds; a sleep of this length in each
/// leaves so many percent of the speed.
fn slow_delay_us(percent: Option<u8>) -> u64 {
    const TURN_US: u64 = 10;
    let percent = u64::from(percent.unwrap_or(10).clamp(1, 99));
    TURN_US * (100 - percent) / percent
}
