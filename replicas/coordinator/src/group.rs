//! One component's replicas: carries out what the decision maker decides, and
//! tells it what happens.

mod adopt;
mod carry_out;
mod look;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::decision::{Cause, Decision, DecisionMaker, Event, Phase, Standing};
use hypervisor::fabric::HostFabric;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::protocol::FromReplica;
use state_machine::{InputNo, OutputNo};

use crate::events::{Events, Tag};
use crate::failover::{Failover, Running};
use crate::holder::Holder;
use crate::journal::Record;
use crate::platform::{Domain as _, Observed, Platform};
use crate::settings::Settings;
use watch::Watch;

/// How many failovers are remembered.
pub const MAX_FAILOVERS: usize = 64;

/// A replica that fails this soon after its start makes the next one wait.
const EARLY_DEATH: Duration = Duration::from_secs(2);
/// The longest such wait.
const RESPAWN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A replica that is not confirmed gone.
struct Member<P: Platform> {
    slot: SlotId,
    ordered: Instant,
    domain: Option<P::Domain>,
    watch: Option<Watch<P::DeathWatch>>,
    /// Killed: its process may still be ending.
    fenced: bool,
    ready: bool,
    /// Bound to the component's core.
    pinned: bool,
    /// The peer that it cannot read, as far as that was believed.
    accused: Option<ReplicaId>,
    /// It runs another program than this process, and is to be replaced.
    outdated: bool,
}

/// See the module.
pub(crate) struct Group<P: Platform> {
    settings: Arc<Settings>,
    events: Arc<Events>,
    platform: P,
    decisions: DecisionMaker,
    /// The same, for the next host.
    record: Record,
    /// Whoever holds what replicas run in for that one.
    holder: Arc<dyn Holder>,
    members: BTreeMap<ReplicaId, Member<P>>,
    running: Option<Running>,
    failovers: VecDeque<Failover>,
    failover_count: u64,
    /// Inputs that were quarantined.
    quarantined: BTreeSet<u64>,
    /// When faults were injected, for the time of detection, and what should come
    /// of them. A flipped bit may do nothing, and its replica end long after for
    /// another reason.
    injected: BTreeMap<ReplicaId, (Instant, Cause)>,
    /// Decisions to spawn that wait because the last replica died early.
    postponed: Vec<(Instant, Decision)>,
    respawn_pause: Duration,
    /// A replica to be recovered once its process is gone.
    recover_wanted: bool,
    /// Since when two replicas show different digests and nobody decides.
    tied_since: Option<Instant>,
    /// The only one that has the state seems to hang.
    last_hangs_since: Option<(ReplicaId, Instant)>,
}

/// What the rest of the host must do after a change of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A primary serves; its log held inputs up to this one.
    Serving {
        /// The last input in the finished log.
        last_input: InputNo,
        /// The last output that it yielded.
        last_output: OutputNo,
    },
    /// The state is gone.
    Lost,
}

impl<P: Platform> Group<P> {
    /// A group without replicas.
    pub(crate) fn new(
        settings: Arc<Settings>,
        decisions: DecisionMaker,
        platform: P,
        record: Record,
        holder: Arc<dyn Holder>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            record,
            holder,
            settings,
            events,
            platform,
            decisions,
            members: BTreeMap::new(),
            running: None,
            failovers: VecDeque::new(),
            failover_count: 0,
            quarantined: BTreeSet::new(),
            injected: BTreeMap::new(),
            postponed: Vec::new(),
            respawn_pause: Duration::ZERO,
            recover_wanted: false,
            tied_since: None,
            last_hangs_since: None,
        }
    }

    /// The machine.
    pub(crate) fn platform(&self) -> &P {
        &self.platform
    }

    /// The machine.
    pub(crate) fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// The decision maker, to look at.
    pub(crate) fn decisions(&self) -> &DecisionMaker {
        &self.decisions
    }

    /// The failovers so far, oldest first; the last [`MAX_FAILOVERS`].
    pub(crate) fn failovers(&self) -> impl Iterator<Item = &Failover> {
        self.failovers.iter()
    }

    /// Failovers since the start.
    pub(crate) fn failover_count(&self) -> u64 {
        self.failover_count
    }

    /// What a replica runs in.
    pub(crate) fn domain(&self, id: ReplicaId) -> Option<&P::Domain> {
        self.members.get(&id).and_then(|member| member.domain.as_ref())
    }

    /// The slot of a replica.
    pub(crate) fn slot(&self, id: ReplicaId) -> Option<SlotId> {
        self.members.get(&id).map(|member| member.slot)
    }

    /// Slot of the replica whose outputs count, if there is one: the primary, or
    /// the candidate that is about to serve.
    pub(crate) fn primary_slot(&self) -> Option<SlotId> {
        self.leader().and_then(|id| self.slot(id))
    }

    /// The generation whose outputs count.
    pub(crate) fn generation(&self) -> Generation {
        self.decisions.generation()
    }

    /// Notes that a fault was just injected, of which this should come.
    pub(crate) fn note_injected(&mut self, id: ReplicaId, expected: Cause) {
        self.injected.insert(id, (self.platform.now(), expected));
    }

    /// Whether nothing is under way: no failover, no start, no rebuild.
    pub(crate) fn is_settled(&self) -> bool {
        self.running.is_none()
            && self.postponed.is_empty()
            && matches!(self.decisions.phase(), Phase::Serving { .. })
            && self.decisions.members().all(|(_, _, standing)| standing == Standing::Voter)
            && self.members.values().all(|member| member.ready && !member.fenced)
    }

    /// Takes an event and carries out what follows from it.
    pub(crate) fn step(&mut self, event: Event, fabric: &mut HostFabric) -> Option<Notice> {
        let mut notice = None;
        let decided = self.decisions.step(event);
        // Before anybody hears of it: what was done is known to the next host.
        if !self.record.write(&self.decisions) {
            self.events.error(&[Tag::Host], "decisions are too long to be written down");
        }
        for decision in decided {
            if let Some(new) = self.carry_out(decision, fabric) {
                notice = Some(new);
            }
        }
        notice
    }

    fn log(&self, tags: &[Tag], text: String) {
        self.events.info(tags, text);
    }

    /// Whether nothing is left and a disk may be tried.
    pub(crate) fn take_recovery(&mut self) -> bool {
        let ready = self.recover_wanted && self.members.is_empty() && self.postponed.is_empty();
        if ready {
            self.recover_wanted = false;
        }
        ready
    }

    /// Takes a message of a replica that concerns the group.
    pub(crate) fn heard(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        message: FromReplica,
        fabric: &mut HostFabric,
    ) -> Option<Notice> {
        match message {
            FromReplica::Promoted { last_input, last_output } => {
                if *self.decisions.phase() != (Phase::Promoting { candidate: id }) {
                    // Said again to a host that knows it already.
                    return None;
                }
                let now = self.platform.now();
                self.respawn_pause = Duration::ZERO;
                let mut notice = self.step(Event::Promoted { id, generation }, fabric);
                self.platform.observe(Observed::Promoted { id, generation, last_input });
                fabric.page().set_primary(id);
                self.log(
                    &[Tag::Monitor, Tag::Xenstore],
                    format!("replica {id} is primary, generation {generation}"),
                );
                if let Some(running) = &mut self.running {
                    running.promoted(now, id, generation);
                }
                if notice.is_none() {
                    notice = Some(Notice::Serving { last_input, last_output });
                }
                notice
            }
            FromReplica::Drained => self.step(Event::Drained { id }, fabric),
            FromReplica::CaughtUp(learner) => self.step(Event::CaughtUp { id: learner }, fabric),
            FromReplica::Membership { voters, learners, logged } => {
                let event = Event::Membership {
                    logged: logged.into_iter().collect(),
                    voters: voters.into_iter().collect(),
                    learners: learners.into_iter().collect(),
                };
                self.step(event, fabric)
            }
            FromReplica::Output(_) | FromReplica::Released(_) | FromReplica::Exported { .. } => {
                None
            }
        }
    }

    /// The first answer after a promotion has come, or there is nothing to
    /// answer.
    pub(crate) fn answered(&mut self) {
        let Some(running) = self.running else { return };
        if let Some(failover) = running.answered(self.platform.now()) {
            self.running = None;
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!(
                    "failover {} -> {} ({}): detect {} us, fence {} us, promote {} us, replay {} \
                     us, total {} us",
                    failover.from,
                    failover.to,
                    failover.cause,
                    failover.detect_us,
                    failover.fence_us,
                    failover.promote_us,
                    failover.replay_us,
                    failover.total_us
                ),
            );
            self.failover_count += 1;
            if self.failovers.len() == MAX_FAILOVERS {
                self.failovers.pop_front();
            }
            self.failovers.push_back(failover);
        }
    }

    /// Inputs quarantined since the start.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = InputNo> {
        self.quarantined.iter().map(|no| InputNo(*no))
    }

    /// The machine, and the decision maker to look at.
    pub(crate) fn platform_and_decisions(&mut self) -> (&mut P, &DecisionMaker) {
        (&mut self.platform, &self.decisions)
    }

    /// The next one that is to be replaced for the program that it runs; the primary
    /// comes last.
    pub(crate) fn outdated(&self) -> Option<ReplicaId> {
        let outdated = self.members.iter().filter(|(_, member)| member.outdated);
        let primary = self.decisions.primary();
        outdated.map(|(&id, _)| id).min_by_key(|id| Some(*id) == primary)
    }

    /// Whether a failover waits for its first answer.
    pub(crate) fn failover_runs(&self) -> bool {
        self.running.is_some()
    }

    /// Binds those that answer clients to the component's core.
    fn pin_voters(&mut self) {
        for (id, _, standing) in self.decisions.members() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(domain) = &member.domain
                && standing == Standing::Voter
                && !std::mem::replace(&mut member.pinned, true)
                && let Err(error) = self.platform.bind(domain)
            {
                self.events.warn(&[Tag::Host], format!("replica {id}: {error}"));
            }
        }
    }

    /// The component has another core now.
    pub(crate) fn move_to_core(&mut self) {
        for member in self.members.values_mut() {
            member.pinned = false;
        }
        self.pin_voters();
    }

    /// CPU time of all replicas so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let live = self.members.values().filter_map(|member| member.domain.as_ref());
        let spent = live.filter_map(|domain| domain.cpu_times()).map(|times| times.on_cpu_ns);
        Duration::from_nanos(spent.sum())
    }

    /// Kills everything, for the end of the host; what was killed, and ends now.
    pub(crate) fn shut_down(&mut self) -> Vec<P::Domain> {
        let mut killed = Vec::new();
        for (id, member) in &mut self.members {
            member.fenced = true;
            let Some(domain) = member.domain.take() else { continue };
            if let Err(error) = domain.kill() {
                self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
            }
            killed.push(domain);
        }
        killed
    }
}
