//! The replicas of a host that has ended are gone on with.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use hypervisor::ReplicaId;
use hypervisor::decision::{Cause, Event, Phase, Standing};
use hypervisor::fabric::HostFabric;
use replica::protocol::ToReplica;

use super::{Group, Member, Notice};
use crate::events::Tag;
use crate::holder::Held;
use crate::platform::{Domain as _, Platform};

impl<P: Platform> Group<P> {
    /// Takes up all members of the group that live, or may live.
    pub(crate) fn adopt(
        &mut self,
        held: &mut BTreeMap<Held, Vec<OwnedFd>>,
        fabric: &mut HostFabric,
    ) {
        let now = self.platform.now();
        self.recover_wanted = matches!(self.decisions.phase(), Phase::Lost { .. });
        fabric.page().set_generation(self.decisions.generation());
        let members: Vec<_> = self.decisions.members().collect();
        for (id, slot, standing) in members {
            let domain = held.remove(&Held::Replica(id));
            let domain = domain.and_then(|fds| match self.platform.adopt(id, fds) {
                Ok(domain) => Some(domain),
                Err(error) => {
                    self.events.warn(&[Tag::Monitor], format!("replica {id}: {error}"));
                    None
                }
            });
            let fenced = standing == Standing::Fenced;
            if domain.is_some() && !fenced {
                fabric.adopt_slot(slot, id);
            }
            let outdated = domain.as_ref().is_some_and(|domain| !domain.runs_this_program());
            let member = Member {
                slot,
                ordered: now,
                domain,
                watch: None,
                fenced: false,
                ready: false,
                pinned: false,
                accused: None,
                outdated,
            };
            self.members.insert(id, member);
        }
        let policy = self.decisions.policy();
        if self.outdated().is_some() && (!policy.rebuild || policy.replication_factor < 2) {
            let text = "replicas go on with the program of before: lost ones are not replaced";
            self.events.warn(&[Tag::Host, Tag::Rebuild], text);
        }
        let live = self.decisions.members().filter(|(_, _, s)| *s != Standing::Fenced);
        for (id, slot, _) in live {
            // Who knows each other already takes no notice.
            self.tell_all(&ToReplica::Introduce { id, slot }, fabric);
        }
        // The last host has not lived to see that they are gone.
        let (replicas, rest) = std::mem::take(held)
            .into_iter()
            .partition(|(name, _)| matches!(name, Held::Replica(_)));
        *held = rest;
        let strangers: BTreeMap<_, _> = replicas;
        for (name, descriptors) in strangers {
            if let Held::Replica(id) = name {
                // Killed as it is dropped.
                drop(self.platform.adopt(id, descriptors));
            }
            self.holder.let_go(name);
        }
    }

    /// Gives up those that nobody has found: the last host has not come to start
    /// them, or to tell of them.
    pub(crate) fn fail_the_missing(&mut self, fabric: &mut HostFabric) -> Vec<Notice> {
        let missing = self.members.iter().filter(|(_, member)| member.domain.is_none());
        let missing: Vec<ReplicaId> = missing.map(|(&id, _)| id).collect();
        let mut notices = Vec::new();
        for id in missing {
            let event = Event::Failed { id, cause: Cause::Retired, applying: None };
            notices.extend(self.step(event, fabric));
            self.forget(id, fabric);
        }
        notices
    }
}
