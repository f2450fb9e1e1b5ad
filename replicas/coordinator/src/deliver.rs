//! The way out: what the primary says is delivered, once.

use hypervisor::decision::Cause;
use hypervisor::xen::RemotePort;
use hypervisor::{Generation, SlotId};
use replica::protocol::FromReplica;
use state_machine::{ConnId, Output, OutputNo};
use teeth::Bug;
use xenstore::Effect;

use crate::events::Tag;
use crate::journal::Mark;
use crate::ledger::LedgerError;
use crate::platform::{Observed, Platform};
use crate::service::{Coordinator, News};

/// Outputs taken before sockets are looked at again.
const OUTPUTS_PER_TURN: usize = 1024;

impl<P: Platform> Coordinator<P> {
    /// Delivers what the primary has put out.
    pub(crate) fn take_outputs(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..OUTPUTS_PER_TURN {
            let Some(slot) = self.group.primary_slot() else { break };
            let Some(outputs) = self.inlet.fabric.outputs(slot) else { break };
            match outputs.receive(&mut buffer) {
                Ok(true) => {}
                Ok(false) => {
                    if outputs.release() {
                        // It has more to say than the ring had room for.
                        self.inlet.fabric.ring_doorbell(slot);
                    }
                    break;
                }
                Err(error) => {
                    self.misbehaved(slot, &error.to_string());
                    break;
                }
            }
            moved = true;
            match FromReplica::decode(&buffer) {
                Ok((generation, message)) if generation == self.group.generation() => {
                    if let Err(why) = self.take_message(slot, generation, message) {
                        self.misbehaved(slot, &why.to_string());
                        break;
                    }
                }
                // Said under an older generation: void.
                Ok(_) => self.deliveries.dropped += 1,
                Err(error) => {
                    self.misbehaved(slot, &error.to_string());
                    break;
                }
            }
        }
        self.buffer = buffer;
        moved
    }

    fn take_message(
        &mut self,
        slot: SlotId,
        generation: Generation,
        message: FromReplica,
    ) -> Result<(), LedgerError> {
        match message {
            FromReplica::Output(output) => self.deliver(output)?,
            FromReplica::Released(no) => self.inlet.release(no)?,
            FromReplica::Exported { ticket, snapshot } => {
                self.news.push(News::Exported { ticket, snapshot });
            }
            message => {
                let id = self.inlet.fabric.occupant(slot);
                let notice = self.group.heard(id, generation, message, &mut self.inlet.fabric);
                self.take_notices(notice);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, output: Output) -> Result<(), LedgerError> {
        match output {
            Output::Reply { input, frame, .. } => {
                let Some(answered) = self.inlet.ledger.answer(input)? else {
                    self.deliveries.dropped += 1;
                    return Ok(());
                };
                self.deliveries.delivered += 1;
                if teeth::bites(Bug::FreedWhenAnswered) {
                    // As far as the inputs before it are answered.
                    let _ = self.inlet.release(input);
                }
                if self.group.failover_runs() {
                    self.group.answered();
                }
                if let Some(trace) = &self.inlet.trace {
                    trace.output(answered.conn, &frame);
                }
                if answered.conn == ConnId::HOST {
                    self.inlet.mark(Mark::Reply(input));
                    self.news.push(News::Answered { input, frame });
                } else if self.inner.owns(answered.conn) {
                    self.inlet.mark(Mark::Reply(input));
                    self.inner.answered(&frame, &self.events);
                    self.inner.go_on(&mut self.inlet);
                } else {
                    self.front.answer(input, answered, &frame, &mut self.inlet);
                }
            }
            Output::Event { no, conn, frame } => {
                if self.is_new(no)? {
                    if let Some(trace) = &self.inlet.trace {
                        trace.output(conn, &frame);
                    }
                    self.front.event(no, conn, &frame, &mut self.inlet);
                }
            }
            Output::Effect { no, bytes } => {
                if self.is_new(no)? {
                    // The next host does it once more if this one does not come to say
                    // so: to do it twice is the same as once.
                    self.carry_out(no, &bytes);
                    self.inlet.mark(Mark::Event(no));
                    self.group.platform_mut().observe(Observed::Effect(&bytes));
                }
            }
        }
        Ok(())
    }

    fn is_new(&mut self, no: OutputNo) -> Result<bool, LedgerError> {
        let new = self.inlet.ledger.deliver(no)?;
        if new {
            self.deliveries.delivered += 1;
        } else {
            self.deliveries.dropped += 1;
        }
        Ok(new)
    }

    /// Does what the component wants done in the world.
    fn carry_out(&mut self, no: OutputNo, effect: &[u8]) {
        match Effect::decode(effect) {
            Ok(Effect::DomainIntroduced { domid, evtchn, .. }) => {
                self.front.introduce_ring(domid, RemotePort(evtchn), no, &mut self.inlet);
                if self.settings.guest_sockets
                    && let Err(error) = self.front.listen(domid)
                {
                    let path = self.front.socket_path(domid);
                    self.events.warn(&[Tag::Client], format!("{}: {error}", path.display()));
                }
            }
            Ok(Effect::DomainReleased { domid }) => {
                self.front.remove_ring(domid, &mut self.inlet);
                self.front.unlisten(domid, &mut self.inlet);
            }
            Ok(Effect::Print { text }) => {
                self.events.info(&[Tag::Xenstore], String::from_utf8_lossy(&text).into_owned());
            }
            Ok(Effect::Log { on }) => {
                let state = if on { "on" } else { "off" };
                if let Some(trace) = &mut self.inlet.trace {
                    trace.switch(on);
                    self.events.info(&[Tag::Xenstore], format!("trace {state}"));
                } else {
                    self.events.warn(
                        &[Tag::Xenstore],
                        format!("trace {state}: declined, there is no xenstore.trace_file"),
                    );
                }
            }
            Ok(Effect::LogFile { name }) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                self.events.warn(
                    &[Tag::Xenstore],
                    format!("logfile {name:?} declined: the trace file is xenstore.trace_file"),
                );
            }
            Err(error) => {
                self.events.error(&[Tag::Xenstore], format!("an unknown effect: {error}"));
            }
        }
    }

    /// A primary that says what a correct one cannot say is no primary.
    fn misbehaved(&mut self, slot: SlotId, why: &str) {
        let id = self.inlet.fabric.occupant(slot);
        self.events.error(&[Tag::Monitor, Tag::Xenstore], format!("replica {id}: {why}"));
        self.give_up(id, Cause::Misbehaved);
    }
}
