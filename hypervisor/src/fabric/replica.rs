//! A replica's side of the fabric.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::layout::{DESCRIPTORS, FabricConfig, HostRegion, SlotRegion, page};
use super::pages::{HostPageView, ReplicaPage, ReplicaPageView};
use super::{Doorbell, FabricError, SleepLimit};
use crate::id::{ReplicaId, SLOTS, SlotId};
use crate::memory::{Fuse, Segment, View, ViewMut};
use crate::ring::{
    Consumer, ConsumerParts, IntakeReader, PartyId, Producer, ProducerParts, Receiver, Sender,
};

/// How a [`ReplicaFabric::wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There was work already; it did not sleep.
    Work,
    /// Somebody rang.
    Rung,
    /// The time was over, or a Unix signal came.
    Timeout,
}

/// A replica's side: inputs in, outputs out, and messages to other replicas.
#[derive(Debug)]
pub struct ReplicaFabric {
    config: FabricConfig,
    slot: SlotId,
    replica: ReplicaId,
    region: ViewMut,
    page: ReplicaPage,
    host: HostPageView,
    intake: IntakeReader,
    control: Receiver,
    outputs: Sender,
    host_doorbell: Doorbell,
    doorbells: Vec<Doorbell>,
    /// One a slot; the own one stays unbound.
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    region: View,
    page: ReplicaPageView,
    replica: ReplicaId,
    tx: Sender,
    rx: Option<Receiver>,
}

impl ReplicaFabric {
    /// Attaches to the fabric whose descriptors the host gave out for this slot.
    ///
    /// # Errors
    /// When the descriptors are not those, or the kernel refuses.
    pub fn attach(
        fds: Vec<OwnedFd>,
        slot: SlotId,
        replica: ReplicaId,
    ) -> Result<Self, FabricError> {
        Self::attach_fused(fds, slot, replica, None)
    }

    /// As [`Self::attach`], with memory and doorbells that this replica cannot
    /// use any more when `fuse` blows.
    ///
    /// # Errors
    /// The same.
    pub fn attach_fused(
        fds: Vec<OwnedFd>,
        slot: SlotId,
        replica: ReplicaId,
        fuse: Option<Arc<Fuse>>,
    ) -> Result<Self, FabricError> {
        if !replica.is_some() || PartyId::from(replica) == PartyId::HOST {
            return Err(FabricError::Replica(replica));
        }
        if fds.len() != DESCRIPTORS {
            return Err(FabricError::Descriptors("wrong count"));
        }
        let mut fds = fds.into_iter();
        let mut take = || fds.next().ok_or(FabricError::Descriptors("wrong count"));

        let host_region = Segment::from_fd(take()?)?.map_read_only()?;
        let host = HostPageView::new(page(&host_region));
        let config = host.config().ok_or(FabricError::Descriptors("no sizes"))?;
        config.check()?;
        if host_region.len() != config.host_region_bytes() {
            return Err(FabricError::Descriptors("the host region has another size"));
        }

        let mut own = None;
        let mut regions = Vec::with_capacity(SLOTS);
        for other in SlotId::all() {
            let segment = Segment::from_fd(take()?)?;
            if segment.len() != config.slot_region_bytes() {
                return Err(FabricError::Descriptors("a slot's region has another size"));
            }
            if other == slot {
                own = Some(segment.map_fused(fuse.clone())?);
            }
            regions.push(segment.map_read_only()?);
        }
        let region = own.ok_or(FabricError::Descriptors("no own region"))?;
        let host_doorbell = Doorbell::from_fd(take()?);
        let doorbells =
            (0..SLOTS).map(|_| take().map(Doorbell::from_fd)).collect::<Result<Vec<_>, _>>()?;

        let mine = SlotRegion(&region, &config);
        let hosts = HostRegion(&host_region, &config);
        let intake = IntakeReader::new(hosts.intake_line(), hosts.intake_data());
        let control = Consumer::new(
            ConsumerParts {
                header: hosts.control_line(slot),
                data: hosts.control_data(slot),
                position: mine.control_position(),
            },
            replica.into(),
            PartyId::HOST,
        );
        let mut outputs = Producer::new(
            ProducerParts {
                header: mine.output_line(),
                data: mine.output_data(),
                position: hosts.output_position(slot),
            },
            replica.into(),
        );
        outputs.bind(PartyId::HOST);
        let peers = SlotId::all()
            .zip(regions)
            .map(|(other, other_region)| {
                let tx = Producer::new(
                    ProducerParts {
                        header: mine.peer_line(other),
                        data: mine.peer_data(other),
                        position: SlotRegion(&other_region, &config).peer_position(slot),
                    },
                    replica.into(),
                );
                Peer {
                    page: ReplicaPageView::new(page(&other_region)),
                    region: other_region,
                    replica: ReplicaId::NONE,
                    tx: Sender::new(tx, config.backlog_bytes),
                    rx: None,
                }
            })
            .collect();
        let page = ReplicaPage::new(page(&region));
        page.set_guards();
        page.set_replica(replica);
        Ok(Self {
            control: Receiver::new(control, config.message_bytes),
            outputs: Sender::new(outputs, config.backlog_bytes),
            config,
            slot,
            replica,
            region,
            page,
            host,
            intake,
            host_doorbell,
            doorbells,
            peers,
        })
    }

    /// The slot that the replica occupies.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The replica's own id.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The sizes, as the host chose them.
    #[must_use]
    pub fn config(&self) -> &FabricConfig {
        &self.config
    }

    /// What this replica publishes.
    #[must_use]
    pub fn page(&self) -> &ReplicaPage {
        &self.page
    }

    /// What the host publishes.
    #[must_use]
    pub fn host_page(&self) -> &HostPageView {
        &self.host
    }

    /// The inputs.
    pub fn intake(&mut self) -> &mut IntakeReader {
        &mut self.intake
    }

    /// Messages from the host.
    pub fn control(&mut self) -> &mut Receiver {
        &mut self.control
    }

    /// Messages to the host.
    pub fn outputs(&mut self) -> &mut Sender {
        &mut self.outputs
    }

    /// Bytes that wait for room in the ring to the host.
    #[must_use]
    pub fn output_backlog_bytes(&self) -> usize {
        self.outputs.backlog_bytes()
    }

    /// Bytes that wait for room in the ring to another replica: the most of all.
    #[must_use]
    pub fn peer_backlog_bytes(&self) -> usize {
        self.peers.iter().map(|peer| peer.tx.backlog_bytes()).max().unwrap_or(0)
    }

    /// Begins to talk with the replica that occupies another slot. What the slot's
    /// former occupant sent, or was to get, is forgotten. Binding the same replica
    /// again changes nothing. The own slot cannot be bound.
    pub fn bind_peer(&mut self, slot: SlotId, replica: ReplicaId) {
        let peer = &mut self.peers[slot.index()];
        if slot == self.slot || !replica.is_some() || peer.replica == replica {
            return;
        }
        peer.tx.bind(replica.into());
        let theirs = SlotRegion(&peer.region, &self.config);
        let consumer = Consumer::new(
            ConsumerParts {
                header: theirs.peer_line(self.slot),
                data: theirs.peer_data(self.slot),
                position: SlotRegion(&self.region, &self.config).peer_position(slot),
            },
            self.replica.into(),
            replica.into(),
        );
        peer.rx = Some(Receiver::new(consumer, self.config.message_bytes));
        peer.replica = replica;
    }

    /// Stops talking with the occupant of a slot.
    pub fn unbind_peer(&mut self, slot: SlotId) {
        let peer = &mut self.peers[slot.index()];
        peer.replica = ReplicaId::NONE;
        peer.tx.discard_backlog();
        peer.rx = None;
    }

    /// The replica bound in a slot.
    #[must_use]
    pub fn peer(&self, slot: SlotId) -> ReplicaId {
        self.peers[slot.index()].replica
    }

    /// What the occupant of a slot publishes. It is not trusted.
    #[must_use]
    pub fn peer_page(&self, slot: SlotId) -> &ReplicaPageView {
        &self.peers[slot.index()].page
    }

    /// Messages to the replica bound in a slot.
    pub fn peer_tx(&mut self, slot: SlotId) -> Option<&mut Sender> {
        let peer = &mut self.peers[slot.index()];
        peer.replica.is_some().then_some(&mut peer.tx)
    }

    /// Messages from the replica bound in a slot.
    pub fn peer_rx(&mut self, slot: SlotId) -> Option<&mut Receiver> {
        self.peers[slot.index()].rx.as_mut()
    }

    /// Wakes the host if it sleeps. To be called after something was published for
    /// it.
    pub fn ring_host(&self) {
        if self.host.must_be_woken() && self.lives() {
            self.host_doorbell.ring();
        }
    }

    /// Wakes the occupant of a slot if it sleeps. To be called after something was
    /// published for it.
    pub fn ring_peer(&self, slot: SlotId) {
        if self.peers[slot.index()].page.must_be_woken() && self.lives() {
            self.doorbells[slot.index()].ring();
        }
    }

    /// Sleeps until the doorbell rings or the limit is reached, unless `has_work`
    /// finds something after the others know that this replica sleeps.
    pub fn wait<'a>(
        &mut self,
        limit: impl Into<SleepLimit<'a>>,
        has_work: impl FnOnce(&mut Self) -> bool,
    ) -> Wake {
        self.prepare_sleep();
        let wake = if has_work(self) {
            Wake::Work
        } else if self.doorbells[self.slot.index()].wait(limit) {
            Wake::Rung
        } else {
            Wake::Timeout
        };
        self.wake_up();
        wake
    }

    /// Whether this replica can still act on others.
    fn lives(&self) -> bool {
        self.region.fuse().is_none_or(Fuse::burn)
    }

    /// The parts of [`Self::wait`], for those who block otherwise: the others
    /// ring from here on. What came before has to be looked for.
    pub fn prepare_sleep(&self) {
        self.page.announce_sleep();
    }

    /// The others need not ring any more.
    pub fn wake_up(&self) {
        self.page.end_sleep();
    }

    /// Takes the doorbell's signal away. Says whether it had rung.
    pub fn drain_doorbell(&self) -> bool {
        self.doorbells[self.slot.index()].drain()
    }

    /// The replica's own memory as it is, for those who damage it on purpose.
    #[must_use]
    pub fn memory(&self) -> &ViewMut {
        &self.region
    }

    /// The replica's own doorbell, for those who also wait for something else.
    #[must_use]
    pub fn doorbell_fd(&self) -> BorrowedFd<'_> {
        self.doorbells[self.slot.index()].as_fd()
    }
}
