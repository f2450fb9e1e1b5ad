//! The turn of the crank: store, send, hand out.

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{SnapshotStatus, StateRole};
use teeth::Bug;

use super::{Peer, Role};
use crate::members::{Members, steps_of};
use crate::store::{Batch, Entries, HardState, LogStore, SnapshotRef, StoreError};
use crate::wire;
use crate::{LogIndex, PeerId, Term};

/// Takes the messages that a peer sends.
pub trait Outbox {
    /// Sends `message` to `to`, or drops it; returns whether it was sent. The
    /// peer sends again what was dropped, a heartbeat later.
    fn send(&mut self, to: PeerId, message: &[u8]) -> bool;
}

impl Outbox for Vec<(PeerId, Vec<u8>)> {
    fn send(&mut self, to: PeerId, message: &[u8]) -> bool {
        self.push((to, message.to_vec()));
        true
    }
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// What was proposed; empty for a new leader's first entry and for changes
    /// of members.
    pub data: Vec<u8>,
}

/// A snapshot to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The last entry it includes.
    pub index: LogIndex,
    /// What was given to [`Peer::offer_snapshot`].
    pub data: Vec<u8>,
}

/// What the caller has to do after a poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Restore this first.
    pub install: Option<Install>,
    /// Then apply these: every index once, ascending, without gaps.
    pub committed: Vec<Committed>,
    /// The peer's role, if it has changed.
    pub role: Option<Role>,
    /// Somebody needs a snapshot, or the store's log has grown long: call
    /// [`Peer::offer_snapshot`] with the state as of the last applied entry.
    /// Stays set until that is done.
    pub snapshot_wanted: bool,
}

impl Peer {
    /// Does what the inputs since the last poll call for. What is promised to
    /// others is stored before it is sent; a leader sends its entries before it
    /// stores them.
    ///
    /// # Errors
    /// [`StoreError`]; the peer is then of no further use.
    pub fn poll(
        &mut self,
        store: &mut dyn LogStore,
        outbox: &mut dyn Outbox,
    ) -> Result<Actions, StoreError> {
        if std::mem::replace(&mut self.is_poisoned, true) {
            return Err(StoreError::Poisoned);
        }
        let mut actions = Actions { install: self.install.take(), ..Actions::default() };
        self.save_beginning(store)?;
        self.flush_proposals();
        loop {
            if self.raw.has_ready() {
                self.turn(store, outbox, &mut actions)?;
            } else if std::mem::take(&mut self.wants_campaign) {
                self.start_campaign();
            } else if !self.flush_proposals() && !self.propose_removals() {
                break;
            }
        }
        self.save_members(store)?;
        actions.snapshot_wanted = self.care_for_snapshots(store)?;
        let role = self.current_role();
        if role != self.role {
            self.role = role;
            actions.role = Some(role);
        }
        self.is_poisoned = false;
        Ok(actions)
    }

    fn turn(
        &mut self,
        store: &mut dyn LogStore,
        outbox: &mut dyn Outbox,
        actions: &mut Actions,
    ) -> Result<(), StoreError> {
        // A certificate counts only once it is stored.
        self.save_members(store)?;
        // Moved out here, so that raft does not copy a large state around.
        let pending = self.raw.raft.raft_log.unstable.snapshot.as_mut();
        let state = pending.map(|snapshot| std::mem::take(&mut snapshot.data)).unwrap_or_default();

        let mut ready = self.raw.ready();
        let before = &self.log().hard_state;
        let promises =
            ready.hs().is_some_and(|hs| (hs.term, hs.vote) != (before.term, before.vote));
        let mut messages = ready.take_messages();
        if !promises {
            self.send(std::mem::take(&mut messages), outbox);
        }
        messages.append(&mut ready.take_persisted_messages());

        if let Some(hs) = ready.hs() {
            self.raw.mut_store().hard_state = hs.clone();
        }
        let entries = ready.take_entries();
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata());
        let hard_state = self.hard_state();
        if let Some(metadata) = snapshot {
            let members = Members::from_conf_state(metadata.get_conf_state()).unwrap_or_default();
            let (index, term) = (metadata.index, metadata.term);
            self.membership.replace(members, index);
            let record = self.members_record();
            store.write(&Batch {
                hard_state: Some(hard_state),
                members: Some(&record),
                snapshot: Some(SnapshotRef {
                    index: LogIndex(index),
                    term: Term(term),
                    members: &record.members,
                    data: &state,
                }),
                drop_log: true,
                entries: Entries(&entries),
                compact_to: None,
            })?;
            self.members_unsaved = false;
            self.stored_snapshot = index;
            self.raw.mut_store().restart(index, term);
            self.handed_out = index;
            actions.committed.clear();
            actions.install = Some(super::Install { index: LogIndex(index), data: state });
        } else if promises || !(entries.is_empty() || teeth::bites(Bug::EntriesNotStored)) {
            store.write(&Batch {
                hard_state: Some(hard_state),
                entries: Entries(&entries),
                ..Batch::default()
            })?;
        }
        let is_installed = snapshot.is_some();
        self.raw.mut_store().append(entries);
        self.send(messages, outbox);

        let mut committed = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().hard_state.commit = commit;
        }
        self.send(light.take_messages(), outbox);
        committed.append(&mut light.take_committed_entries());
        if is_installed {
            self.follow_membership();
        }
        self.hand_out(committed, store, actions)?;
        self.raw.advance_apply();
        self.report_undelivered();
        Ok(())
    }

    /// Passes committed entries on, and applies the changes of members among
    /// them.
    fn hand_out(
        &mut self,
        committed: Vec<Entry>,
        store: &mut dyn LogStore,
        actions: &mut Actions,
    ) -> Result<(), StoreError> {
        let changed_at = self.membership.changed_at();
        actions.committed.reserve(committed.len());
        for entry in committed {
            self.handed_out = entry.index;
            let is_change = entry.entry_type != 0;
            if is_change {
                self.membership.apply(entry.index, &steps_of(&entry.data));
            }
            actions.committed.push(Committed {
                index: LogIndex(entry.index),
                term: Term(entry.term),
                data: if is_change { Vec::new() } else { entry.data },
            });
        }
        if self.membership.changed_at() != changed_at {
            // Stored before anything is done as the new members: a peer that
            // comes back never acts as older ones again.
            self.members_unsaved = true;
            self.save_members(store)?;
            self.early_voters.retain(|(index, _)| *index > self.handed_out);
            self.follow_membership();
            self.notice_lead();
        }
        Ok(())
    }

    /// A new group's founding entry is in no store yet.
    fn save_beginning(&mut self, store: &mut dyn LogStore) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.log_unsaved) {
            return Ok(());
        }
        let record = self.members_record();
        let entries: Vec<Entry> = self.log().after(0).cloned().collect();
        self.members_unsaved = false;
        store.write(&Batch {
            hard_state: Some(self.hard_state()),
            members: Some(&record),
            entries: Entries(&entries),
            ..Batch::default()
        })
    }

    fn save_members(&mut self, store: &mut dyn LogStore) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.members_unsaved) {
            return Ok(());
        }
        let record = self.members_record();
        store.write(&Batch {
            hard_state: Some(self.hard_state()),
            members: Some(&record),
            ..Batch::default()
        })
    }

    fn hard_state(&self) -> HardState {
        let stored = &self.log().hard_state;
        HardState {
            term: Term(stored.term),
            vote: (stored.vote != raft::INVALID_ID).then_some(PeerId(stored.vote)),
            commit: LogIndex(stored.commit),
        }
    }

    fn send(&mut self, messages: Vec<Message>, outbox: &mut dyn Outbox) {
        let mut frame = std::mem::take(&mut self.frame);
        for message in messages {
            let to = PeerId(message.to);
            let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
            let offer = self.log().offer.as_ref().filter(|_| is_snapshot);
            let is_sent =
                !self.membership.fenced().contains(&to) && is_snapshot == offer.is_some() && {
                    wire::encode(&message, offer.map(|offer| offer.data.as_slice()), &mut frame);
                    outbox.send(to, &frame)
                };
            if !is_sent {
                self.undelivered.push((to.0, is_snapshot));
            }
            if is_snapshot {
                // Tens of megabytes need not be kept for the next message.
                frame = Vec::new();
            }
        }
        self.frame = frame;
    }

    fn report_undelivered(&mut self) {
        for (to, is_snapshot) in std::mem::take(&mut self.undelivered) {
            if self.raw.raft.state != StateRole::Leader {
                continue;
            }
            if is_snapshot {
                self.raw.report_snapshot(to, SnapshotStatus::Failure);
            } else {
                self.raw.report_unreachable(to);
            }
        }
    }
}
