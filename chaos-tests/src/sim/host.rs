//! The host's own process in the simulation: the production coordinator, called
//! as the daemon's loop calls it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coordinator::{
    Coordinator, Durability, FrontLimits, Held, Holder, News, Rim, Service, Settings, Token,
};
use hypervisor::decision::Policy;
use hypervisor::memory::{Fuse, FuseBlown};
use hypervisor::monitor::MonitorConfig;
use rustix::event::{Timespec, epoll};
use state_machine::{ConnId, Input, Reader};

use super::checkers::Checker;
use super::judge::Closer;
use super::machine::{Disks, Seen, SimMachine};
use super::plan::{CLIENTS_MAX, Plan};
use super::world::{What, World, sampler};

/// Bounds of the host's front door: low ones, so that some are reached.
pub(super) fn front() -> FrontLimits {
    FrontLimits {
        // A client that connects again may meet its last connection, which the host
        // has not looked at yet.
        max_connections: 2 * CLIENTS_MAX,
        backlog_bytes: 256 * 1024,
        outstanding: 64,
        guest_outstanding: 20,
    }
}

/// When the host takes a replica for hung.
pub(super) fn monitor(plan: &Plan) -> MonitorConfig {
    let stretch = plan.stretch;
    MonitorConfig {
        period_ms: 10 * stretch,
        late_ms: 25 * stretch,
        detect_ms: 50 * stretch,
        idle_ms: 100 * stretch,
        ..MonitorConfig::default()
    }
}

/// Each so-manyth host runs another program than the one before.
const UPGRADE_EVERY: u64 = 3;

fn settings(plan: &Plan, sockets: PathBuf) -> Settings {
    let stretch = plan.stretch;
    Settings {
        policy: Policy { ack: plan.ack, rebuild: plan.rebuild, replication_factor: plan.replicas },
        durability: match plan.disks {
            Disks::None => Durability::Volatile,
            Disks::Unsynced | Disks::Synced => Durability::Durable,
        },
        fabric: plan.fabric,
        front: front(),
        sockets,
        trace_file: None,
        guest_sockets: true,
        lockstep: false,
        quotas: vec![("nodes", 1000), ("transactions", 10), ("watches", 128)],
        monitor: monitor(plan),
        look_period: Duration::from_millis((10 * stretch).into()),
        idle_look_period: Duration::from_millis((100 * stretch).into()),
        beat_ms: (20 * stretch).into(),
        idle_beat_ms: (100 * stretch).into(),
        election_ms: 10_000,
        log: plan.log,
        replica_spin_us: 0,
        commit_spin_us: 0,
        start_limit: Duration::from_secs(20),
    }
}

impl World {
    /// The host's process is started, for the first time or again.
    pub(super) fn host_begins(&mut self) {
        if self.host.is_some() {
            return;
        }
        self.watch_host_begin();
        let machine = SimMachine {
            hall: self.hall.clone(),
            clock: self.clock.clone(),
            disks: self.plan.disks,
        };
        self.hall.borrow_mut().fuse = Arc::new(Fuse::unwinding());
        let settings = settings(&self.plan, self.directory.path().to_owned());
        let holder: Arc<dyn Holder> = self.holder.clone();
        let (epoll, events) = (Arc::clone(&self.epoll), Arc::clone(&self.events));
        let made = Coordinator::new(settings, Rim { platform: machine, epoll, holder, events });
        let (mut host, beginning) = match made {
            Ok(made) => made,
            Err(error) => return self.flaw("host", format_args!("it cannot start: {error}")),
        };
        match host.observe_intake() {
            Ok(reader) => self.observer = Some(reader),
            Err(error) => return self.flaw("host", format_args!("no intake: {error}")),
        }
        host.begin(beginning);
        self.host = Some(host);
        self.host_asleep = false;
        self.take_orders();
        self.call_host(self.now_us() + 10);
    }

    /// The host's process ends, wherever it is, and leaves what is held and what it has
    /// written down.
    pub(super) fn host_falls(&mut self) {
        self.hall.borrow().fuse.light(u64::MAX);
        let Some(host) = self.host.take() else { return };
        self.hall.borrow().abandoned.set(true);
        drop(host);
        self.hall.borrow().abandoned.set(false);
        self.host_went();
    }

    fn host_went(&mut self) {
        self.observe();
        self.host_asleep = false;
        self.host_next_us = u64::MAX;
        self.stats.restarts += 1;
        // What it has just ordered is started, or not; it is not there to hear of it.
        if self.delay(0, 2) == 0 {
            self.hall.borrow_mut().orders.clear();
        }
        self.take_orders();
        self.hall.borrow_mut().started.clear();
        if self.stats.restarts.is_multiple_of(UPGRADE_EVERY) {
            self.hall.borrow_mut().program += 1;
        }
        for body in self.bodies.values_mut() {
            body.is_stranger = !self.holder.holds(Held::Replica(body.id));
        }
        self.carry_out_kills();
        let delay = self.delay(500, 200_000);
        self.after(delay, What::HostGoesOn);
    }

    /// Another host goes on.
    pub(super) fn host_goes_on(&mut self) {
        if self.host.is_some() {
            return;
        }
        self.watch_host_goes_on();
        // All that the last one has started and nobody holds is ended first.
        let strangers = self.bodies.iter().filter(|(_, body)| body.is_stranger);
        for serial in strangers.map(|(&serial, _)| serial).collect::<Vec<_>>() {
            self.dies(serial);
            self.gone(serial);
        }
        match epoll::create(epoll::CreateFlags::CLOEXEC) {
            Ok(epoll) => self.epoll = Arc::new(epoll),
            Err(error) => return self.flaw("host", format_args!("no epoll: {error}")),
        }
        self.hall.borrow_mut().fuse = Arc::new(Fuse::unwinding());
        let machine = SimMachine {
            hall: self.hall.clone(),
            clock: self.clock.clone(),
            disks: self.plan.disks,
        };
        let settings = settings(&self.plan, self.directory.path().to_owned());
        let holder: Arc<dyn Holder> = self.holder.clone();
        let (epoll, events) = (Arc::clone(&self.epoll), Arc::clone(&self.events));
        let held = self.holder.hand_out();
        // This one may end as well, before it has taken everything up.
        if !self.healing && self.delay(0, 5) == 0 {
            let stores = self.delay(1, 300);
            self.hall.borrow().fuse.light(stores);
        }
        let adopted = catch_unwind(AssertUnwindSafe(|| {
            Coordinator::adopt(settings, Rim { platform: machine, epoll, holder, events }, held)
        }));
        let fuse = Arc::clone(&self.hall.borrow().fuse);
        fuse.light(u64::MAX);
        match adopted {
            Ok(Ok(host)) => self.host = Some(host),
            Ok(Err(error)) => {
                return self.flaw("host", format_args!("it cannot go on: {error}"));
            }
            Err(panic) if panic.is::<FuseBlown>() => {
                self.host_went();
                return;
            }
            Err(panic) => {
                return self.flaw("host", format_args!("panicked: {}", panic_text(&*panic)));
            }
        }
        self.note("host", 0, "goes on", [0; 4]);
        self.observe();
        self.take_orders();
        self.carry_out_kills();
        self.people_listen();
        self.call_host(self.now_us() + 10);
    }

    /// One turn of the host's loop.
    pub(super) fn host_turn(&mut self) {
        let Some(mut host) = self.host.take() else { return };
        let turned = catch_unwind(AssertUnwindSafe(|| {
            if std::mem::take(&mut self.host_asleep) {
                host.wake_up();
            }
            let ready = self.ready();
            let told = ready.len() as u64;
            for (token, flags) in ready {
                // Whoever is accepted just as the host ends is nobody's.
                let accepts = matches!(token, Token::Listener(_));
                let fuse = accepts.then(|| Arc::clone(&self.hall.borrow().fuse));
                let left = fuse.as_ref().map(|fuse| fuse.pause());
                host.ready(token, flags);
                if let (Some(fuse), Some(left)) = (fuse, left) {
                    fuse.light(left);
                }
            }
            let moved = host.turn();
            host.look(moved);
            let asleep = host.prepare_sleep();
            if !asleep {
                host.wake_up();
            }
            (told, moved, asleep)
        }));
        let (told, moved, asleep) = match turned {
            Ok(turned) => turned,
            Err(panic) if panic.is::<FuseBlown>() => {
                self.host = Some(host);
                return self.host_falls();
            }
            Err(panic) => {
                // What is left of it must not be taken apart as if it were whole.
                std::mem::forget(host);
                return self.flaw("host", format_args!("panicked: {}", panic_text(&*panic)));
            }
        };
        let deliveries = host.deliveries();
        let values = [told, host.inputs(), deliveries.delivered, host.decisions().generation().0];
        let (news, period) = (host.take_news(), host.period());
        self.host = Some(host);
        self.host_asleep = asleep;
        self.note("host", 0, if moved { "moves" } else { "looks" }, values);
        self.stats.host_turns += 1;
        self.watch.count(Checker::Host, 1);
        self.take_news(news);
        self.observe();
        self.take_orders();
        self.watch_host_turn();
        self.carry_out_kills();
        self.people_listen();
        let cost = self.step_cost();
        let next = if asleep { cost + micros(period) } else { cost };
        self.call_host(self.now_us() + next);
        self.answer_doorbells();
    }

    /// What has happened to the host's sockets.
    fn ready(&self) -> Vec<(Token, epoll::EventFlags)> {
        let mut ready = Vec::with_capacity(32);
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let space = rustix::buffer::spare_capacity(&mut ready);
        if epoll::wait(&*self.epoll, space, Some(&none)).is_err() {
            return Vec::new();
        }
        ready.iter().map(|event| (Token::from_data(event.data), event.flags)).collect()
    }

    fn take_news(&mut self, news: Vec<News>) {
        for news in news {
            match news {
                News::Serves => self.stats.services += 1,
                News::CannotServe(why) => self.flaw("host", format_args!("cannot serve: {why}")),
                News::Lost => {
                    self.lost = true;
                    self.watch.count(Checker::StateLost, 1);
                    // A poison that waits takes more than was left for it.
                    let overtaken = self.faults.locked && self.plan.to_the_end;
                    if !self.faults.may_lose && !overtaken {
                        self.flaw("state-lost", "the state was given up though it need not be");
                    }
                }
                News::Exported { .. } | News::Answered { .. } => {}
            }
        }
    }

    /// Tells the judge what the host has taken in and done.
    fn observe(&mut self) {
        let seen = std::mem::take(&mut self.hall.borrow_mut().seen);
        let now_us = self.now_us();
        // A host that has just ended had decided on it in an earlier turn.
        if let Some(host) = &self.host {
            self.quarantined = host.quarantined().collect();
        }
        for seen in &seen {
            if let Seen::Promoted { last_input, .. } = seen
                && std::mem::take(&mut self.host_restarted)
            {
                let may_lose =
                    std::mem::take(&mut self.power_was_lost) && self.plan.disks == Disks::Unsynced;
                self.judge.restarted(*last_input, may_lose, now_us);
                self.watch.count(Checker::Unjudgeable, 1);
                self.watch.count(Checker::LostAcknowledged, 1);
                if may_lose {
                    // What clients saw may be gone: they begin anew.
                    self.sampler = sampler(&self.plan);
                }
            }
        }
        for seen in &seen {
            if let Seen::Accepted { domid, first, end } = *seen {
                for conn in first.0..end.0 {
                    self.connection_accepted(domid, ConnId(conn));
                }
            }
        }
        self.read_intake();
        self.forget_the_refused();
        let mut led = false;
        for seen in seen {
            led |= matches!(seen, Seen::Promoted { .. } | Seen::Fenced { .. });
            match seen {
                Seen::Promoted { id, generation, last_input } => {
                    self.note("host", 0, "promoted", [id.0, generation.0, last_input.0, 0]);
                    self.stats.promotions += 1;
                    for &no in &self.quarantined {
                        self.judge.quarantined(no, now_us);
                    }
                    self.judge.promoted(last_input, now_us);
                    self.watch.count(Checker::LostAcknowledged, 1);
                    self.promotion_seen(id, generation);
                    self.faults.promoted();
                }
                Seen::Fenced { id, cause } => self.fence_seen(id, cause),
                Seen::Effect(bytes) => self.judge.effect(&bytes, now_us),
                Seen::Abandoned(conn) => {
                    self.stats.abandoned += 1;
                    if let Some(person) = self.people.iter_mut().find(|p| p.conn == Some(conn)) {
                        person.is_abandoned = true;
                    }
                }
                Seen::Accepted { .. } => {}
            }
        }
        if led {
            self.look_at_primaries();
        }
        if let Some(host) = &self.host
            && host.service() == Service::Serving
            // What was released need not be in the log: a host that comes back from
            // disk may know less, lawfully.
            && self.plan.disks == Disks::None
        {
            let released = state_machine::InputNo(host.fabric().page().freed_input());
            if released > self.last_released {
                self.last_released = released;
                self.judge.released(released);
            }
        }
        self.show_events();
    }

    /// Whoever knocked, left, and was turned away before he was heard, waits no more.
    fn forget_the_refused(&mut self) {
        let refused = self.host.as_ref().map_or(0, Coordinator::refused);
        if refused > std::mem::replace(&mut self.refused, refused) {
            for queue in self.knocking.values_mut() {
                let people = &self.people;
                queue.retain(|(index, attempt)| people[*index].knocks(*attempt));
            }
        }
    }

    fn read_intake(&mut self) {
        let Some(mut observer) = self.observer.take() else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        let now_us = self.now_us();
        loop {
            match observer.next(&mut buffer) {
                Ok(Some(no)) => {
                    let no = state_machine::InputNo(no);
                    self.watch.count(Checker::Intake, 1);
                    self.judge.admitted(no, &buffer, now_us);
                    match Input::decode(&mut Reader::new(&buffer)) {
                        Ok((_, Input::Open { conn, .. })) => self.connection_opened(conn),
                        Ok((_, Input::Poison)) => _ = self.watch.poisons.insert(no),
                        _ => {}
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.flaw("intake", error);
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.observer = Some(observer);
    }

    /// The component knows of a connection: the judge hears whose it is.
    fn connection_opened(&mut self, conn: ConnId) {
        let now_us = self.now_us();
        if !self.accepted.contains(&conn) {
            // Nobody knocked: the host asks something itself.
            self.judge.ignore(conn);
        } else if !self.people.iter().any(|person| person.conn == Some(conn)) {
            self.judge.closed(conn, Closer::Client, now_us);
        }
    }

    /// The host's log, for people.
    fn show_events(&mut self) {
        if !self.trace.is_text() {
            return;
        }
        let events = self.events.after(self.events_seen, 64);
        let directory = self.directory.path().display().to_string();
        let now_us = self.now_us();
        for event in events {
            self.events_seen = event.seq;
            let text = event.text.replace(&directory, "RUN");
            self.trace.say(now_us, &format_args!("host: {text}"));
        }
    }

    /// Starts what the host has ordered.
    pub(super) fn take_orders(&mut self) {
        let orders = std::mem::take(&mut self.hall.borrow_mut().orders);
        for order in orders {
            let body = super::body::Body::new(order.spec, order.memory, &self.clock);
            body.process.program.set(self.hall.borrow().program);
            let id = body.id;
            let process = body.process.clone();
            self.order_seen(id, body.spec.slot_id());
            self.bodies_begun += 1;
            let serial = self.bodies_begun;
            self.hall.borrow_mut().processes.insert(id, process);
            self.bodies.insert(serial, body);
            self.note("replica", id.0, "ordered", [serial, 0, 0, 0]);
            let launched = self.delay(200, 2_500);
            let boots = launched + self.delay(0, 3_000);
            let launched_us = self.now_us() + launched;
            if let Some(body) = self.bodies.get_mut(&serial) {
                body.launched_us = launched_us;
            }
            self.after(launched, What::Launched(serial));
            self.after(boots, What::Boots(serial));
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
