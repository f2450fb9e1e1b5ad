//! Whom a fault may hit: what would take more than the configuration can bear is
//! left alone.

use hypervisor::ReplicaId;
use hypervisor::decision::{AckPolicy, Phase, Standing};

use super::machine::Activity;
use super::world::World;
use crate::report::record::Component;
use crate::rng::Rng;

impl World {
    /// Whether one of this standing can always be spared. A learner may have its
    /// vote already, and a majority may need it.
    pub(super) fn is_spare(&self, standing: Standing) -> bool {
        match standing {
            // Founders start, too, and become voters at once.
            Standing::Starting => self.stats.promotions > 0,
            Standing::Learner => self.plan.ack == AckPolicy::AllLive,
            Standing::Voter | Standing::Leaving | Standing::Fenced => false,
        }
    }

    /// Voters that will carry on.
    pub(super) fn healthy_voters(&self) -> Vec<u64> {
        let Some(host) = &self.host else { return Vec::new() };
        host.decisions()
            .members()
            .filter(|(_, _, standing)| *standing == Standing::Voter)
            .filter_map(|(id, ..)| self.serial_of(id))
            .filter(|serial| {
                let body = &self.bodies[serial];
                body.lives()
                    && !body.is_doomed()
                    && body.runtime.is_some()
                    && body.process.activity() == Activity::Well
            })
            .collect()
    }

    /// Whether so many voters may be taken away now.
    pub(super) fn may_take(&self, count: usize) -> Option<()> {
        if self.faults.locked && !self.plan.to_the_end {
            return None;
        }
        let host = self.host.as_ref()?;
        // Those that an operator has asked to do without may be gone any moment.
        let healthy = self.healthy_voters().len().min(self.faults.factor.into());
        let needed = match self.plan.ack {
            AckPolicy::AllLive => 1,
            AckPolicy::Quorum => {
                // Until a lost member is replaced, it counts against the majority.
                let settled = host.decisions().members().all(|(_, _, s)| s == Standing::Voter);
                let members = host.decisions().members().count();
                let members = members.max(usize::from(self.faults.factor));
                if !settled {
                    return None;
                }
                members / 2 + 1
            }
        };
        (healthy >= needed + count).then_some(())
    }

    /// A replica that can be taken away, of which so many are to carry on beside
    /// what must be left; of any standing.
    pub(super) fn victim(&self, rng: &mut Rng, count: usize) -> Option<u64> {
        let host = self.host.as_ref()?;
        let healthy = self.healthy_voters();
        let others: Vec<_> = self
            .bodies
            .iter()
            .filter(|(_, body)| body.lives() && body.runtime.is_some())
            .map(|(&serial, _)| serial)
            .filter(|serial| {
                let id = self.bodies[serial].id;
                let standing = host.decisions().members().find(|(m, ..)| *m == id);
                standing.is_some_and(|(.., standing)| self.is_spare(standing))
            })
            .collect();
        let mut fit = others;
        if self.may_take(count).is_some() {
            fit.extend(&healthy);
            // The primary is the most interesting one.
            if let Some(primary) = host.decisions().primary().and_then(|id| self.serial_of(id))
                && healthy.contains(&primary)
                && rng.percent(40)
            {
                return Some(primary);
            }
        }
        (!fit.is_empty()).then(|| *rng.pick(&fit))
    }

    /// One whose corruption the others can tell: they must be the majority, or
    /// be led by a sound one.
    pub(super) fn outvoted(&self, rng: &mut Rng) -> Option<u64> {
        self.may_take(1)?;
        let primary =
            self.host.as_ref()?.decisions().primary().and_then(|id| self.serial_of(id))?;
        let healthy = self.healthy_voters();
        let fit: Vec<_> =
            healthy.iter().copied().filter(|s| healthy.len() > 2 || *s != primary).collect();
        (healthy.contains(&primary) && !fit.is_empty()).then(|| *rng.pick(&fit))
    }

    pub(super) fn anybody(&self, rng: &mut Rng) -> Option<u64> {
        let living: Vec<_> =
            self.bodies.iter().filter(|(_, body)| body.lives()).map(|(&s, _)| s).collect();
        (!living.is_empty()).then(|| *rng.pick(&living))
    }

    pub(super) fn role_of(&self, serial: u64) -> Component {
        let Some(host) = &self.host else { return Component::Standby };
        let id: ReplicaId = self.bodies[&serial].id;
        match host.decisions().phase() {
            Phase::Serving { primary } | Phase::Draining { primary } if *primary == id => {
                return Component::Primary;
            }
            Phase::Promoting { candidate } if *candidate == id => return Component::Candidate,
            _ => {}
        }
        let standing = host.decisions().members().find(|(member, ..)| *member == id);
        match standing {
            Some((_, _, Standing::Starting | Standing::Learner)) => Component::Learner,
            _ => Component::Standby,
        }
    }
}
