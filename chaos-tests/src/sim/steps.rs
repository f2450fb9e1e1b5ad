//! The replicas' lives in the simulation: start, steps, sleep, and every kind of
//! end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use coordinator::Token;
use replica::error::Fatal;
use rustix::event::epoll::EventFlags;
use state_machine::InputNo;

use super::checkers::Checker;
use super::disk::SimDisk;
use super::host::{micros, panic_text};
use super::machine::{Activity, Disks, SimDomain};
use super::world::{What, World};

/// The longest that a slow replica takes for a step.
const SLOWEST_STEP_US: u64 = 20_000;

/// How soon a replica looks again for what nobody rings for.
const LOOK_AGAIN_US: u64 = 200;

impl World {
    /// A process was started: the host gets its hand on it.
    pub(super) fn launched(&mut self, serial: u64) {
        let Some(body) = self.bodies.get(&serial) else { return };
        if body.is_stranger {
            return;
        }
        let domain = SimDomain::new(&body.process, &self.hall.borrow());
        self.hall.borrow_mut().started.push_back((body.id, Ok(domain)));
        let delay = self.delay(1, 50);
        self.call_host(self.now_us() + delay);
    }

    /// A process runs its first instructions.
    pub(super) fn boots(&mut self, serial: u64) {
        let encoding_us = self.delay(50, 20_000);
        let Some(body) = self.bodies.get_mut(&serial) else { return };
        if !body.lives() {
            return;
        }
        let id = body.id;
        let disk = (self.plan.disks != Disks::None).then(|| {
            let sync = self.plan.disks == Disks::Synced;
            let mut hall = self.hall.borrow_mut();
            hall.disks.entry(id).or_insert_with(|| SimDisk::new(sync)).clone()
        });
        let booted = body.boot(disk.as_ref(), encoding_us, &self.clock);
        self.note("replica", id.0, "boots", [serial, u64::from(booted.is_ok()), 0, 0]);
        match booted {
            Ok(()) => self.call_replica(serial, self.now_us() + 5),
            Err(fatal) => {
                self.trace.say(self.clock.now_us(), &format_args!("replica {id}: {fatal}"));
                self.dies(serial);
            }
        }
    }

    /// A replica takes a step.
    pub(super) fn replica_step(&mut self, serial: u64) {
        let cost = self.step_cost();
        let now_us = self.now_us();
        let Some(body) = self.bodies.get_mut(&serial) else { return };
        body.next_us = u64::MAX;
        if !body.lives() && !body.dying {
            return self.dies(serial);
        }
        if body.process.activity() != Activity::Well {
            return;
        }
        body.wake_up();
        let Some(runtime) = &mut body.runtime else { return };
        let now = self.clock.read();
        let stepped = catch_unwind(AssertUnwindSafe(|| runtime.step(now)));
        // Slow, and not yet hung.
        let cost = (cost * body.slower).min(cost.max(SLOWEST_STEP_US));
        body.process.ran(cost);
        self.stats.replica_steps += 1;
        self.watch.count(Checker::Replica, 1);
        let id = body.id;
        if !body.alive.get() {
            self.note("replica", id.0, "ends half-way", [serial, 0, 0, 0]);
            return self.dies(serial);
        }
        let page = runtime.fabric().page();
        let values = [
            page.last_applied_input(),
            page.last_log_index(),
            page.commit_index(),
            page.generation().0,
        ];
        let next = match stepped {
            Ok(Ok(step)) => {
                let pause = cost + micros(runtime.slowness());
                if step.go_on {
                    pause
                } else if runtime.prepare_sleep() {
                    body.asleep = true;
                    let again = runtime.must_look_again();
                    pause + if again { LOOK_AGAIN_US } else { micros(runtime.period()) }
                } else {
                    runtime.wake_up();
                    pause
                }
            }
            Ok(Err(fatal)) => {
                page.mark_crashed(fatal.to_string().as_bytes());
                return self.ends_itself(serial, &fatal);
            }
            Err(panic) => {
                let text = panic_text(&*panic);
                page.mark_crashed(text.as_bytes());
                let excused = body.dooms > 0;
                let applying = InputNo(page.applying_input());
                std::mem::forget(body.runtime.take());
                if applying != InputNo(0) {
                    self.died_applying(id, applying);
                }
                if !excused {
                    self.flaw("replica", format_args!("replica {id} panicked: {text}"));
                }
                return self.dies(serial);
            }
        };
        self.note("replica", id.0, "steps", values);
        self.stepped(serial);
        self.call_replica(serial, now_us + next);
        self.answer_doorbells();
    }

    /// A replica found that it must stop.
    fn ends_itself(&mut self, serial: u64, fatal: &Fatal) {
        let Some(body) = self.bodies.get(&serial) else { return };
        let id = body.id;
        self.note("replica", id.0, "stops", [serial, 0, 0, 0]);
        self.trace.say(self.clock.now_us(), &format_args!("replica {id}: {fatal}"));
        self.stats.stops += 1;
        self.stop_seen(serial, fatal);
        self.dies(serial);
    }

    /// Those that the host has killed run on for some microseconds.
    pub(super) fn carry_out_kills(&mut self) {
        let killed: Vec<_> = self
            .bodies
            .iter()
            .filter(|(_, body)| body.process.killed.get() && !body.dying)
            .map(|(&serial, _)| serial)
            .collect();
        for serial in killed {
            let delay = self.delay(0, 60);
            self.after(delay, What::Dies(serial));
        }
    }

    /// A process ends, for whatever reason.
    pub(super) fn dies(&mut self, serial: u64) {
        let Some(body) = self.bodies.get_mut(&serial) else { return };
        if std::mem::replace(&mut body.dying, true) {
            return;
        }
        body.alive.end();
        let page = body.runtime.as_ref().map(|runtime| runtime.fabric().page());
        let page = page.filter(|page| page.is_intact(body.id));
        let applying = page.map_or(0, |page| page.applying_input());
        body.runtime = None;
        body.asleep = false;
        body.next_us = u64::MAX;
        body.process.set_activity(Activity::Ended);
        let (id, launched_us) = (body.id, body.launched_us);
        self.note("replica", id.0, "is dead", [serial, 0, 0, 0]);
        let noticed = self.delay(5, 800);
        // Whoever starts a process hears of its start before its end.
        let told = launched_us.saturating_sub(self.now_us()) + 1;
        let gone = (noticed + self.delay(0, 60_000)).max(told);
        self.after(noticed, What::Noticed(serial));
        self.after(gone, What::Gone(serial));
        if applying != 0 {
            self.died_applying(id, InputNo(applying));
        }
        self.answer_doorbells();
    }

    /// The robust futex tells.
    pub(super) fn noticed(&mut self, serial: u64) {
        let Some(body) = self.bodies.get(&serial) else { return };
        body.process.noticed.set(true);
        self.call_host(self.now_us());
    }

    /// The process's memory is gone: its pidfd tells.
    pub(super) fn gone(&mut self, serial: u64) {
        let Some(body) = self.bodies.remove(&serial) else { return };
        body.process.gone.set(true);
        let fuse = Arc::clone(&self.hall.borrow().fuse);
        let left = fuse.pause();
        if let Some(host) = &mut self.host {
            host.ready(Token::Replica(body.id), EventFlags::IN);
        }
        fuse.light(left);
        self.take_orders();
        self.carry_out_kills();
        self.call_host(self.now_us());
    }
}
