//! How a replica comes to lead: fences, campaigns, the start of a reign.

use consensus::{
    AckPolicy, CampaignError, FenceEpoch, FenceError, LogIndex, PeerId, Role as PeerRole,
};
use hypervisor::{Generation, ReplicaId};
use teeth::Bug;

use super::{Link, Replica, Role, emitter};
use crate::batch::Batch;
use crate::error::Fatal;
use crate::executor::Execute;
use crate::outbox::BatchNo;
use crate::protocol::{FromReplica, peer_id, replica_id};

/// A candidate that misses a majority gives up once it waits so long, in ticks:
/// whoever knew of later members would have stood for election by then, and be
/// believed.
const CAMPAIGN_TICKS_IN_VAIN: u32 = 128;

impl<X: Execute> Replica<X> {
    /// Takes the host's certificate of deaths, and a new generation with it.
    pub(super) fn isolate(
        &mut self,
        generation: Generation,
        certificate: FenceEpoch,
        fenced: &[ReplicaId],
    ) -> Result<(), Fatal> {
        let dead: Vec<PeerId> = fenced.iter().map(|id| peer_id(*id)).collect();
        for id in fenced {
            self.learners_behind.remove(id);
        }
        match self.peer.fence(certificate, &dead) {
            // As far as this replica knows; the host knows whether it is so.
            Ok(()) | Err(FenceError::QuorumLost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.membership_changed = true;
        if generation > self.generation {
            match self.role {
                // It was fenced without being dead: its state is ahead of the log.
                Role::Primary | Role::Draining => return Err(Fatal::Deposed),
                Role::Standby | Role::Campaigning | Role::Finishing { .. } | Role::Drained => {}
            }
            // One that has drained leads still. If it went on to, its log would
            // grow beyond what it acknowledges; and promoted again, it would rely
            // on a term that a candidate before it may have ended.
            self.peer.resign();
            self.role = Role::Standby;
            self.generation = generation;
            self.membership_told = None;
            self.changes.clear();
            self.learners_behind.clear();
        } else if self.role == Role::Campaigning && !teeth::bites(Bug::CampaignNotRepeated) {
            // With the certificate, a campaign begun before it was given up.
            self.campaign()?;
        }
        Ok(())
    }

    pub(super) fn campaign(&mut self) -> Result<(), Fatal> {
        self.campaign_ticks = 0;
        match self.peer.campaign() {
            // See [`Self::tell_of_campaign`].
            Err(CampaignError::NotMember) if self.may_be_out() => Ok(()),
            campaign => Ok(campaign?),
        }
    }

    /// With a quorum, one that is being removed may be needed as candidate.
    fn may_be_out(&self) -> bool {
        self.peer.ack_policy() == AckPolicy::Quorum
    }

    /// Tells the host that a campaign is in vain, so that it decides anew.
    pub(super) fn tell_of_campaign(&mut self, link: &mut dyn Link) {
        if self.role != Role::Campaigning {
            return;
        }
        if self.may_be_out() && self.peer.role() == PeerRole::Outsider {
            // Its removal was in its log. The others have that by now, and lead
            // better; but they may need its vote.
            self.role = Role::Drained;
            self.say(&FromReplica::Drained, link);
        } else if self.campaign_patience >= CAMPAIGN_TICKS_IN_VAIN && self.peer.misses_quorum() {
            let logged = self.peer.status().members.voters;
            let message = FromReplica::Membership {
                voters: Vec::new(),
                learners: Vec::new(),
                logged: logged.into_iter().map(replica_id).collect(),
            };
            self.say_membership(message, link);
        }
    }

    /// Plays its part as the peer leads or does not. The term counts: a peer may
    /// have lost the lead and won it again since the last look.
    pub(super) fn follow_peer(&mut self) -> Result<(), Fatal> {
        let led = self.peer.is_leader().then(|| self.peer.term());
        let changed = std::mem::replace(&mut self.led_term, led) != led;
        match self.role {
            Role::Primary | Role::Draining if changed => return Err(Fatal::Deposed),
            Role::Finishing { .. } if changed => self.role = Role::Campaigning,
            _ => {}
        }
        // It may have led before: it drained, or stood for election by itself.
        if led.is_some() && self.role == Role::Campaigning {
            let (mut barrier, _) = self.peer.log_end();
            if teeth::bites(Bug::ServesBeforeLogApplied) {
                barrier = LogIndex(0);
            }
            self.role = Role::Finishing { barrier };
        }
        Ok(())
    }

    /// Everything in the log is applied and released: say so, emit again what
    /// the host may have missed, and read the intake from its oldest input.
    pub(super) fn begin_primary(&mut self, link: &mut dyn Link) {
        self.role = Role::Primary;
        self.became_primary = true;
        self.batch = Batch::first();
        self.last_command = BatchNo(0);
        self.in_flight.clear();
        self.change_under_way = None;
        self.membership_changed = true;
        self.membership_told = None;
        let state = self.executor.state();
        let promoted =
            FromReplica::Promoted { last_input: state.last_input, last_output: state.last_output };
        self.say(&promoted, link);
        self.promoted = Some(promoted);
        self.outbox.emit_again(&mut emitter(link, self.generation));
    }
}
