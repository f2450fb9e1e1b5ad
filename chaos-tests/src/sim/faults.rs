//! The faults of a run: which, when, on whom, and how each of them ended.
//!
//! What would take more than the configuration can bear is not injected, unless
//! the plan goes to the end on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;

use coordinator::Service;
use hypervisor::decision::{Event, Phase, Standing};
use hypervisor::fabric::DigestRecord;
use replica::protocol::ToReplica;
use state_machine::{Input, InputNo};

use super::disk::DiskFault;
use super::machine::{Activity, Disks};
use super::plan::Plan;
use super::verdict::DueFault;
use super::world::{What, World};
use crate::report::record::{Component, FaultClass, Outcome};
use crate::rng::Rng;

/// How long a replica counts as broken that was broken and does not show it.
const DOOM_US: u64 = 8_000_000;

/// How long a fault may take to show.
const SETTLING_US: u64 = 300_000;

/// A fault that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lasting {
    /// The replica is stopped, spins, or gets no core.
    Inactive,
    /// It takes longer for everything.
    Slow,
    /// Its ruin was ordered, and it lives.
    Doom,
}

/// What follows on a fault, as a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strike {
    /// One more replica ends, whoever it is.
    AnotherDies,
    /// One that is being taught ends, or the one that teaches.
    InRebuild,
    /// The primary's role is handed on; so many times more.
    Promote(u32),
    /// This replica ends now if it has not yet.
    Surely(u64),
    /// The host's process ends; or the whole machine does.
    HostEnds {
        /// Whether what was not synced is lost.
        power: bool,
    },
    /// The host's process ends now, if it has not yet, and another goes on.
    HostFalls,
}

/// A fault that is not over yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    class: FaultClass,
    component: Component,
    generation: u64,
    bodies_begun: u64,
    services: u64,
    /// The poison, if it is one.
    poison: Option<InputNo>,
    hosts_begun: u64,
    at_us: u64,
}

/// See the module.
pub(super) struct Faults {
    rng: Rng,
    planned: u32,
    open: Vec<Open>,
    /// Those of the plan whose time has come.
    pub(super) due: Vec<DueFault>,
    /// How faults ended.
    pub(super) ended: BTreeMap<(FaultClass, Component, Outcome), u64>,
    /// The state may be lost by what was injected.
    pub(super) may_lose: bool,
    /// Nothing more is taken away before the group is whole again.
    pub(super) locked: bool,
    /// Replicas that the host should have in the end.
    pub(super) factor: u8,
    /// When somebody was hit last, or let go again.
    pub(super) last_us: u64,
    /// Promotions since the start.
    promotions: u64,
}

impl Faults {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            rng: Rng::new(plan.seed ^ 0x6661_756c_7473),
            planned: 0,
            open: Vec::new(),
            due: Vec::new(),
            ended: BTreeMap::new(),
            may_lose: false,
            locked: false,
            factor: plan.replicas,
            last_us: 0,
            promotions: 0,
        }
    }

    /// Counts something that happens too often to be followed; nobody noticed,
    /// or the run fails for it.
    pub(super) fn tally(&mut self, class: FaultClass) {
        *self.ended.entry((class, Component::Ring, Outcome::Masked)).or_default() += 1;
    }

    pub(super) fn promoted(&mut self) {
        self.promotions += 1;
    }

    fn end(&mut self, class: FaultClass, component: Component, outcome: Outcome) {
        *self.ended.entry((class, component, outcome)).or_default() += 1;
    }

    /// What is still open when the run fails.
    pub(super) fn fail(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.end(open.class, open.component, Outcome::Failed);
        }
    }

    /// What is still open when the state is lost, as it had to be.
    pub(super) fn lose(&mut self) {
        for open in std::mem::take(&mut self.open) {
            self.end(open.class, open.component, Outcome::StateLost);
        }
    }
}

impl World {
    /// Plans the next fault, if there are any to come.
    pub(super) fn plan_next_fault(&mut self) {
        let Some(gap) = self.plan.fault_gap_us else { return };
        let delay = self.faults.rng.next_u64() % (2 * gap) + 1;
        self.faults.planned += 1;
        let number = self.faults.planned;
        self.after(delay, What::Fault(number));
    }

    /// The planned fault of this number is due.
    pub(super) fn fault(&mut self, number: u32) {
        if self.healing || self.lost {
            return;
        }
        let class = self.plan.draw_class(&mut self.faults.rng);
        // Each fault draws from a source of its own: to leave one out changes
        // nothing about the others.
        let mut rng = Rng::new(self.plan.seed ^ (u64::from(number) << 32) ^ 0x006f_6e65);
        if self.plan.happens(number, class) {
            let at_us = self.now_us();
            let fuse = Arc::clone(&self.hall.borrow().fuse);
            // What a person does to the host is done at once.
            let left = fuse.pause();
            let hit = self.inject(class, &mut rng);
            if self.host.is_some() && !fuse.is_lit() {
                fuse.light(left);
            }
            self.faults.due.push(DueFault { number, at_us, class, hit });
            match hit {
                Some(component) => {
                    self.note("fault", number.into(), class.name(), [0; 4]);
                    self.trace.say(at_us, &format_args!("fault {number}: {class} on {component}"));
                }
                None => self.faults.end(class, Component::Standby, Outcome::Skipped),
            }
        }
        self.plan_next_fault();
    }

    /// Notes that a fault was injected, to be judged later.
    fn opened(&mut self, class: FaultClass, component: Component) -> Option<Component> {
        let generation = self.host.as_ref().map_or(0, |host| host.decisions().generation().0);
        self.faults.last_us = self.now_us();
        self.faults.open.push(Open {
            class,
            component,
            generation,
            bodies_begun: self.bodies_begun,
            services: self.stats.services,
            poison: None,
            hosts_begun: self.watch.hosts_begun,
            at_us: self.now_us(),
        });
        Some(component)
    }

    /// Injects a fault; on what, or nothing if there is no fit target.
    fn inject(&mut self, class: FaultClass, rng: &mut Rng) -> Option<Component> {
        use FaultClass as Class;
        match class {
            Class::Crash => {
                let serial = self.victim(rng, 1)?;
                let component = self.role_of(serial);
                self.dies(serial);
                self.opened(class, component)
            }
            Class::CrashMidStep => {
                let serial = self.victim(rng, 1)?;
                let component = self.role_of(serial);
                self.dies_mid_step(serial, rng);
                self.opened(class, component)
            }
            Class::Hang | Class::StarvedHeartbeat => {
                let serial = self.victim(rng, 1)?;
                let component = self.role_of(serial);
                let activity = match class {
                    Class::StarvedHeartbeat => Activity::Starved,
                    _ if rng.percent(60) => Activity::Stopped,
                    _ => Activity::Spins,
                };
                let for_us = 1_000 + rng.next_u64() % *rng.pick(&[40_000, 400_000, 3_000_000]);
                self.hold(serial, activity, for_us);
                self.opened(class, component)
            }
            Class::CpuStarvation => {
                let for_us = 1_000 + rng.next_u64() % 200_000;
                let serials: Vec<_> = self.bodies.keys().copied().collect();
                for serial in serials {
                    if self.bodies[&serial].process.activity() == Activity::Well {
                        self.hold(serial, Activity::Starved, for_us);
                    }
                }
                self.opened(class, Component::Host)
            }
            Class::Slow => {
                let serial = self.anybody(rng)?;
                let component = self.role_of(serial);
                let slower = *rng.pick(&[5, 50, 500]);
                let body = self.bodies.get_mut(&serial)?;
                body.slower = slower;
                body.touched = true;
                let for_us = 10_000 + rng.next_u64() % 2_000_000;
                self.after(for_us, What::Healed(serial, Lasting::Slow));
                self.opened(class, component)
            }
            Class::StateBitFlip => {
                let serial = self.outvoted(rng)?;
                let component = self.role_of(serial);
                let id = self.bodies[&serial].id;
                self.doom(serial);
                let seed = rng.next_u64();
                let now_us = self.now_us();
                let lie = if seed % 10 < 3 { self.show_wrong_digest(serial) } else { None };
                if let Some(index) = lie {
                    self.watch.lies.insert(serial, (index, now_us));
                } else {
                    self.host.as_mut()?.order(id, &ToReplica::Corrupt { seed });
                    self.watch.flips.insert(serial, now_us);
                    self.watch.damage_was_done = true;
                }
                self.opened(class, component)
            }
            Class::RingBitFlip | Class::HostileRing => {
                let serial = self.victim(rng, 2)?;
                self.doom(serial);
                self.watch.rings_spoiled += 1;
                let body = self.bodies.get(&serial)?;
                let memory = body.runtime.as_ref()?.fabric().memory();
                let words = if class == Class::RingBitFlip { 1 } else { 1 + rng.below(2_000) };
                let first = hypervisor::memory::PAGE_BYTES / 8;
                // A single word of the page is a replica's own testimony; but garbage
                // may be everywhere.
                let page = class == Class::HostileRing && rng.percent(30);
                for word in (0..first).filter(|_| page) {
                    memory.store(word * 8, rng.next_u64());
                }
                for _ in 0..words {
                    let word = first + rng.below(memory.len() / 8 - first);
                    let value = match class {
                        Class::RingBitFlip => memory.load(word * 8) ^ (1 << rng.below(64)),
                        _ => rng.next_u64(),
                    };
                    memory.store(word * 8, value);
                }
                self.opened(class, Component::Ring)
            }
            Class::Poison => {
                // Nobody can give one to a component that does not serve yet.
                self.host.as_ref()?.decisions().primary()?;
                self.may_take(2)?;
                self.faults.locked = true;
                let no = self.host.as_mut()?.push(&Input::Poison).ok()?;
                self.call_host(self.now_us());
                let component = self.opened(class, Component::Primary);
                if let Some(open) = self.faults.open.last_mut() {
                    open.poison = Some(no);
                }
                component
            }
            Class::ClockJump => {
                self.clock.jump(1_000 + rng.next_u64() % *rng.pick(&[50_000, 4_000_000]));
                self.opened(class, Component::Host)
            }
            Class::VanishingClient => {
                let connected: Vec<_> =
                    (0..self.people.len()).filter(|i| self.people[*i].is_connected()).collect();
                if connected.is_empty() {
                    return None;
                }
                let index = *rng.pick(&connected);
                self.hang_up(index);
                let now_us = self.now_us();
                self.people[index].client.closed(now_us);
                self.call_person(index, now_us + 1);
                self.opened(class, Component::Client)
            }
            Class::DiskError | Class::DiskFull | Class::TornLogWrite => {
                if self.plan.disks == Disks::None {
                    return None;
                }
                let serial = self.victim(rng, 1)?;
                let id = self.bodies[&serial].id;
                let nth = 1 + rng.next_u64() % 5;
                let reached = rng.percent(50);
                let fault = match class {
                    Class::DiskError => DiskFault::FailWrite { nth, reached },
                    Class::DiskFull => DiskFault::Full { nth },
                    _ => DiskFault::Crash { nth, reached },
                };
                self.hall.borrow().disks.get(&id)?.inject(fault);
                self.doom(serial);
                self.opened(class, Component::Disk)
            }
            Class::KillAll => {
                let durable = self.plan.disks != Disks::None;
                if !durable && !self.plan.to_the_end {
                    return None;
                }
                self.host.as_ref()?.decisions().primary()?;
                self.faults.may_lose |= !durable;
                let serials: Vec<_> = self.bodies.keys().copied().collect();
                for serial in serials {
                    self.dies(serial);
                }
                self.opened(class, Component::Primary)
            }
            Class::KillInFailover => {
                self.may_take(2)?;
                let primary = self.host.as_ref()?.decisions().primary()?;
                let serial = self.serial_of(primary)?;
                self.dies(serial);
                let delay = 20 + rng.next_u64() % *rng.pick(&[200, 1_500, 6_000]);
                self.after(delay, What::Strike(Strike::AnotherDies));
                self.opened(class, Component::Candidate)
            }
            Class::KillInRebuild => {
                let serial = self.victim(rng, 1)?;
                self.dies(serial);
                let delay = 1_000 + rng.next_u64() % *rng.pick(&[8_000, 60_000]);
                self.after(delay, What::Strike(Strike::InRebuild));
                self.opened(class, Component::Learner)
            }
            Class::Scale => {
                let host = self.host.as_ref()?;
                host.decisions().primary()?;
                if self.bodies.values().any(|body| body.is_doomed() || !body.lives()) {
                    // What is left might be the one that will not carry on, or has
                    // died and is not known to have.
                    return None;
                }
                let replicas = u8::try_from(1 + rng.below(5)).unwrap_or(3);
                self.faults.factor = replicas;
                self.host.as_mut()?.step(Event::OperatorScale { replication_factor: replicas });
                self.call_host(self.now_us());
                self.opened(class, Component::Host)
            }
            Class::PromoteStorm => {
                let times = 1 + u32::try_from(rng.below(6)).unwrap_or(0);
                self.after(1, What::Strike(Strike::Promote(times)));
                self.opened(class, Component::Primary)
            }
            Class::HostCrash | Class::PowerLoss => {
                if self.plan.disks == Disks::None {
                    return None;
                }
                self.host.as_ref()?.decisions().primary()?;
                let power = class == Class::PowerLoss;
                match self.victim(rng, 1).filter(|_| rng.percent(40)) {
                    // While the others get over a death: their disks differ then.
                    Some(serial) => {
                        if rng.percent(50) {
                            self.dies(serial);
                        } else {
                            self.dies_mid_step(serial, rng);
                        }
                        let delay = 20 + rng.next_u64() % *rng.pick(&[500, 5_000, 60_000]);
                        self.after(delay, What::Strike(Strike::HostEnds { power }));
                    }
                    None => self.host_crashes(power, rng),
                }
                self.opened(class, Component::Host)
            }
            Class::HostRestart => {
                let host = self.host.as_ref()?;
                if host.service() != Service::Serving {
                    // It would have nothing to leave.
                    return None;
                }
                if rng.percent(30) {
                    self.host_falls();
                } else {
                    let stores = rng.next_u64() % *rng.pick(&[10, 100, 1_000, 20_000]);
                    self.hall.borrow().fuse.light(stores + 1);
                    self.after(100_000, What::Strike(Strike::HostFalls));
                    self.call_host(self.now_us());
                }
                self.opened(class, Component::Host)
            }
            _ => None,
        }
    }

    /// A replica shows another digest than it should, as one would that went
    /// astray and does not notice; of which place in the log.
    pub(super) fn show_wrong_digest(&self, serial: u64) -> Option<u64> {
        let runtime = self.bodies.get(&serial)?.runtime.as_ref()?;
        let page = runtime.fabric().page();
        let last = page.digests().pop()?;
        if !self.shows_digest_beside(serial, last.log_index) {
            return None;
        }
        page.publish_digest(DigestRecord { digest: !last.digest, ..last });
        Some(last.log_index)
    }

    /// Whether a living voter beside this replica shows its digest of this place.
    pub(super) fn shows_digest_beside(&self, serial: u64, log_index: u64) -> bool {
        self.healthy_voters().iter().filter(|other| **other != serial).any(|other| {
            let runtime = self.bodies[other].runtime.as_ref();
            runtime.is_some_and(|runtime| {
                runtime.fabric().page().digests().iter().any(|r| r.log_index == log_index)
            })
        })
    }

    /// A replica ends at one of its next stores into shared memory.
    fn dies_mid_step(&mut self, serial: u64, rng: &mut Rng) {
        let stores = 1 + rng.next_u64() % *rng.pick(&[10, 100, 1000]);
        let Some(body) = self.bodies.get(&serial) else { return };
        body.alive.fuse().light(stores);
        self.doom(serial);
        self.after(200_000, What::Strike(Strike::Surely(serial)));
    }

    /// The host's process ends, and with it all replicas.
    fn host_crashes(&mut self, power: bool, rng: &mut Rng) {
        self.host = None;
        self.holder.forget();
        self.observer = None;
        self.host_asleep = false;
        self.host_next_us = u64::MAX;
        self.bodies.clear();
        self.host_restarted = true;
        self.power_was_lost |= power;
        self.last_released = state_machine::InputNo(0);
        {
            let mut hall = self.hall.borrow_mut();
            hall.orders.clear();
            hall.started.clear();
            hall.processes.clear();
            hall.seen.clear();
            for disk in hall.disks.values() {
                disk.heal();
                if power {
                    disk.lose_power(rng);
                }
            }
        }
        self.knocking.clear();
        self.accepted.clear();
        // It comes back as it is configured.
        self.faults.factor = self.plan.replicas;
        // Clients find their connections closed.
        for person in &mut self.people {
            person.resume_reading();
        }
        self.people_listen();
        let delay = 1_000 + rng.next_u64() % 500_000;
        self.after(delay, What::HostBegins);
    }

    /// Lets a replica do nothing for a while.
    fn hold(&mut self, serial: u64, activity: Activity, for_us: u64) {
        let Some(body) = self.bodies.get_mut(&serial) else { return };
        body.process.set_activity(activity);
        body.next_us = u64::MAX;
        body.dooms += 1;
        body.touched = true;
        self.after(for_us, What::Healed(serial, Lasting::Inactive));
    }

    /// From now on a replica does not count as one that will carry on.
    fn doom(&mut self, serial: u64) {
        if let Some(body) = self.bodies.get_mut(&serial) {
            body.dooms += 1;
            body.touched = true;
            self.after(DOOM_US, What::Healed(serial, Lasting::Doom));
        }
    }

    /// A lasting fault is over.
    pub(super) fn healed(&mut self, serial: u64, lasting: Lasting) {
        let now_us = self.now_us();
        self.faults.last_us = now_us;
        let Some(body) = self.bodies.get_mut(&serial) else { return };
        match lasting {
            Lasting::Slow => body.slower = 1,
            Lasting::Doom => body.dooms -= 1,
            Lasting::Inactive => {
                if body.process.activity() == Activity::Ended {
                    return;
                }
                body.process.set_activity(Activity::Well);
                body.dooms -= 1;
                self.call_replica(serial, now_us);
            }
        }
    }

    pub(super) fn strike(&mut self, strike: Strike) {
        if self.healing && !matches!(strike, Strike::Surely(_)) {
            return;
        }
        self.faults.last_us = self.now_us();
        let mut rng = Rng::new(self.plan.seed ^ self.now_us());
        let fuse = Arc::clone(&self.hall.borrow().fuse);
        if strike == Strike::HostFalls {
            if self.host.is_some() && fuse.is_lit() {
                self.host_falls();
            }
            return;
        }
        let left = fuse.pause();
        self.strikes(strike, &mut rng);
        if self.host.is_some() && !fuse.is_lit() {
            fuse.light(left);
        }
    }

    fn strikes(&mut self, strike: Strike, rng: &mut Rng) {
        match strike {
            Strike::AnotherDies => {
                if let Some(serial) = self.victim(rng, 1) {
                    self.dies(serial);
                }
            }
            Strike::InRebuild => {
                let Some(host) = &self.host else { return };
                let fresh = host.decisions().members().find(|(.., s)| self.is_spare(*s));
                let fresh = fresh.map(|(id, ..)| id).filter(|_| rng.percent(60));
                let victim = match fresh {
                    Some(id) => self.serial_of(id),
                    None => self.victim(rng, 1),
                };
                if let Some(serial) = victim {
                    self.dies(serial);
                }
            }
            Strike::Promote(times) => {
                if let Some(host) = &mut self.host
                    && let Phase::Serving { primary } = *host.decisions().phase()
                {
                    let standbys: Vec<_> = host
                        .decisions()
                        .members()
                        .filter(|(id, _, s)| *s == Standing::Voter && *id != primary)
                        .map(|(id, ..)| id)
                        .collect();
                    if !standbys.is_empty() {
                        let id = *rng.pick(&standbys);
                        host.step(Event::OperatorPromote { id });
                        self.call_host(self.now_us());
                    }
                }
                if times > 1 {
                    let delay = 500 + rng.next_u64() % 50_000;
                    self.after(delay, What::Strike(Strike::Promote(times - 1)));
                }
            }
            // That is done by who strikes.
            Strike::HostFalls => {}
            Strike::HostEnds { power } => {
                if self.host.is_some() {
                    self.host_crashes(power, rng);
                }
            }
            Strike::Surely(serial) => {
                if self.bodies.get(&serial).is_some_and(|body| body.alive.fuse().is_lit()) {
                    self.dies(serial);
                }
            }
        }
        self.carry_out_kills();
        self.take_orders();
    }

    /// The group is whole: whatever was done to it is over.
    pub(super) fn close_faults(&mut self) {
        let Some(host) = &self.host else { return };
        let generation = host.decisions().generation().0;
        let doomed = self.bodies.values().any(|body| body.is_doomed());
        let freed = InputNo(host.fabric().page().freed_input());
        let poison_waits = self.watch.poisons.last().is_some_and(|no| *no > freed);
        let now_us = self.now_us();
        // It takes a while before what was done shows.
        let (over, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults.open).into_iter().partition(|open| {
                // A poison that nobody has taken yet has its deaths to come.
                !(open.class == FaultClass::Poison && poison_waits)
                    && (now_us > open.at_us + SETTLING_US && !doomed
                        || now_us > open.at_us + 2 * DOOM_US)
            });
        self.faults.open = open;
        self.faults.locked &= self.faults.open.iter().any(|o| o.class == FaultClass::Poison);
        let hosts_begun = self.watch.hosts_begun;
        let executed = over
            .iter()
            .filter(|open| open.hosts_begun == hosts_begun)
            .find_map(|open| open.poison.filter(|no| !self.watch.refused.contains(no)));
        if let Some(no) = executed {
            self.flaw("quarantine", format_args!("{no} kills, and was not refused"));
        }
        for open in over {
            let refused = |no: &InputNo| self.watch.refused.contains(no);
            let outcome = match open.class {
                // What it was released after is its answer, and no other than EIO
                // comes from whoever refuses it.
                _ if open.poison.as_ref().is_some_and(refused) => Outcome::AnsweredEio,
                // Of a poison without it, nothing came about: another host has begun.
                _ if self.stats.services > open.services => Outcome::Recovered,
                _ if generation > open.generation => Outcome::Failover,
                _ if self.bodies_begun > open.bodies_begun => Outcome::Rebuilt,
                _ => Outcome::Masked,
            };
            self.faults.end(open.class, open.component, outcome);
        }
    }
}
