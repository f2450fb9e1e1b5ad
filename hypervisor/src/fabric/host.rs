//! The host's side of the fabric.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::layout::{FabricConfig, HostRegion, SlotRegion, page};
use super::pages::{HostPage, ReplicaPageView};
use super::{Doorbell, FabricError};
use crate::id::{ReplicaId, SlotId};
use crate::memory::{Fuse, Segment, View, ViewMut};
use crate::ring::{
    Consumer, ConsumerParts, IntakeReader, IntakeWriter, PartyId, Producer, ProducerParts,
    Receiver, Sender,
};

/// The host's side: numbers inputs in, outputs out.
#[derive(Debug)]
pub struct HostFabric {
    config: FabricConfig,
    segment: Segment,
    region: ViewMut,
    page: HostPage,
    intake: IntakeWriter,
    doorbell: Doorbell,
    slots: Vec<HostSlot>,
}

#[derive(Debug)]
struct HostSlot {
    segment: Segment,
    region: View,
    page: ReplicaPageView,
    doorbell: Doorbell,
    control: Sender,
    outputs: Option<Receiver>,
    occupant: ReplicaId,
}

impl HostFabric {
    /// Makes the regions and doorbells of a component. Nothing is allocated for
    /// slots until they are used.
    ///
    /// # Errors
    /// When a size is unfit or the kernel refuses.
    pub fn new(config: FabricConfig) -> Result<Self, FabricError> {
        Self::new_fused(config, None)
    }

    /// As [`Self::new`], with memory that this host cannot write any more when
    /// `fuse` blows.
    ///
    /// # Errors
    /// The same.
    pub fn new_fused(config: FabricConfig, fuse: Option<Arc<Fuse>>) -> Result<Self, FabricError> {
        config.check()?;
        let segment = Segment::create("rvmm-host", config.host_region_bytes())?;
        segment.fix_seals()?;
        let region = segment.map_fused(fuse)?;
        let page = HostPage::new(page(&region));
        page.set_config(&config);
        let host = HostRegion(&region, &config);
        let intake = IntakeWriter::new(host.intake_line(), host.intake_data());
        let slots = SlotId::all()
            .map(|slot| {
                let bytes = config.slot_region_bytes();
                let segment = Segment::create(&format!("rvmm-slot-{slot}"), bytes)?;
                segment.fix_seals()?;
                HostSlot::new(slot, segment, new_doorbell()?, &host, &config)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let doorbell = new_doorbell()?;
        Ok(Self { config, segment, region, page, intake, doorbell, slots })
    }

    /// Goes on with the fabric of a host that has ended, whatever it was doing:
    /// `fds` are its [`Self::own_descriptors`]. No slot is occupied before
    /// [`Self::adopt_slot`] says so.
    ///
    /// # Errors
    /// When the descriptors are not those, or what is in the memory is no fabric.
    pub fn adopt(fds: Vec<OwnedFd>, fuse: Option<Arc<Fuse>>) -> Result<Self, FabricError> {
        let mut fds = fds.into_iter();
        let mut take = || fds.next().ok_or(FabricError::Descriptors("wrong count"));
        let segment = Segment::from_fd(take()?)?;
        let region = segment.map_fused(fuse)?;
        let page = HostPage::new(page(&region));
        let config = page.config().ok_or(FabricError::Descriptors("no sizes"))?;
        config.check()?;
        if region.len() != config.host_region_bytes() {
            return Err(FabricError::Descriptors("the host region has another size"));
        }
        let host = HostRegion(&region, &config);
        let intake = IntakeWriter::resume(host.intake_line(), host.intake_data())?;
        let segments = SlotId::all().map(|_| Ok(Segment::from_fd(take()?)?));
        let segments = segments.collect::<Result<Vec<_>, FabricError>>()?;
        if segments.iter().any(|segment| segment.len() != config.slot_region_bytes()) {
            return Err(FabricError::Descriptors("a slot's region has another size"));
        }
        let doorbell = Doorbell::from_fd(take()?);
        let slots = SlotId::all()
            .zip(segments)
            .map(|(slot, segment)| {
                HostSlot::new(slot, segment, Doorbell::from_fd(take()?), &host, &config)
            })
            .collect::<Result<Vec<_>, FabricError>>()?;
        Ok(Self { config, segment, region, page, intake, doorbell, slots })
    }

    /// What a later host needs to [`Self::adopt`] this fabric.
    #[must_use]
    pub fn own_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let segments = self.slots.iter().map(|place| place.segment.fd());
        let doorbells = self.slots.iter().map(|place| place.doorbell.as_fd());
        let own = [self.segment.fd()].into_iter().chain(segments);
        own.chain([self.doorbell.as_fd()]).chain(doorbells).collect()
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &FabricConfig {
        &self.config
    }

    /// What the host publishes.
    #[must_use]
    pub fn page(&self) -> &HostPage {
        &self.page
    }

    /// The inputs.
    pub fn intake(&mut self) -> &mut IntakeWriter {
        &mut self.intake
    }

    /// A reader of all inputs from the oldest on that leaves no trace, for an
    /// observer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn observe_intake(&self) -> Result<IntakeReader, FabricError> {
        let region = self.segment.map_read_only()?;
        let host = HostRegion(&region, &self.config);
        Ok(IntakeReader::new(host.intake_line(), host.intake_data()))
    }

    /// Messages to the occupant of a slot.
    pub fn control(&mut self, slot: SlotId) -> &mut Sender {
        &mut self.slots[slot.index()].control
    }

    /// Messages from the occupant of a slot; `None` when nobody is listened to
    /// there: the slot is free, or isolated.
    pub fn outputs(&mut self, slot: SlotId) -> Option<&mut Receiver> {
        self.slots[slot.index()].outputs.as_mut()
    }

    /// What the occupant of a slot publishes.
    #[must_use]
    pub fn replica_page(&self, slot: SlotId) -> &ReplicaPageView {
        &self.slots[slot.index()].page
    }

    /// The occupant of a slot, as the host decided.
    #[must_use]
    pub fn occupant(&self, slot: SlotId) -> ReplicaId {
        self.slots[slot.index()].occupant
    }

    /// Prepares a slot for a new replica: its region becomes zero, its rings
    /// begin anew. The former occupant must be confirmed gone, for it could still
    /// write otherwise.
    ///
    /// # Errors
    /// When the id is none or the kernel refuses.
    pub fn reset_slot(&mut self, slot: SlotId, replica: ReplicaId) -> Result<(), FabricError> {
        if !replica.is_some() || PartyId::from(replica) == PartyId::HOST {
            return Err(FabricError::Replica(replica));
        }
        let place = &mut self.slots[slot.index()];
        place.segment.discard_contents()?;
        place.doorbell.drain();
        // A replica that comes back from its disk bears the id of the occupant
        // before: it must not hear what that one was told.
        place.control.unbind();
        place.control.bind(replica.into());
        self.listen(slot, replica, ConsumerParts::forgetful, |outputs| outputs);
        Ok(())
    }

    /// Goes on with the occupant that a slot had under the host before this one.
    pub fn adopt_slot(&mut self, slot: SlotId, replica: ReplicaId) {
        let place = &mut self.slots[slot.index()];
        let host = HostRegion(&self.region, &self.config);
        let parts = control_parts(slot, &host, &place.region, &self.config);
        let control = Producer::resume(parts, PartyId::HOST, replica.into());
        place.control = Sender::new(control, self.config.backlog_bytes);
        self.listen(slot, replica, |parts| parts, Receiver::following);
    }

    fn listen(
        &mut self,
        slot: SlotId,
        replica: ReplicaId,
        begin: impl FnOnce(ConsumerParts) -> ConsumerParts,
        receive: impl FnOnce(Receiver) -> Receiver,
    ) {
        let place = &mut self.slots[slot.index()];
        let parts = ConsumerParts {
            header: SlotRegion(&place.region, &self.config).output_line(),
            data: SlotRegion(&place.region, &self.config).output_data(),
            position: HostRegion(&self.region, &self.config).output_position(slot),
        };
        let consumer = Consumer::new(begin(parts), PartyId::HOST, replica.into());
        place.outputs = Some(receive(Receiver::new(consumer, self.config.message_bytes)));
        place.occupant = replica;
    }

    /// Stops listening to the occupant of a slot for good: nothing it writes from
    /// now on has any effect.
    pub fn isolate_slot(&mut self, slot: SlotId) {
        let place = &mut self.slots[slot.index()];
        place.outputs = None;
        place.control.discard_backlog();
    }

    /// Wakes the occupant of a slot if it sleeps. To be called after something was
    /// published for it.
    pub fn ring_doorbell(&self, slot: SlotId) {
        let place = &self.slots[slot.index()];
        if place.page.must_be_woken() {
            place.doorbell.ring();
        }
    }

    /// The host's doorbell, for `epoll`: readable when somebody rang.
    #[must_use]
    pub fn doorbell_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// To be called before blocking. Afterwards look at all rings once more: what
    /// came before is seen then, what comes later rings the doorbell.
    pub fn prepare_sleep(&self) {
        self.page.announce_sleep();
    }

    /// To be called after blocking, or instead of it.
    pub fn cancel_sleep(&self) {
        self.page.end_sleep();
    }

    /// Takes the doorbell's signal away. Says whether it had rung.
    pub fn drain_doorbell(&self) -> bool {
        self.doorbell.drain()
    }

    /// The descriptors that the occupant of a slot needs, in the order that
    /// [`super::ReplicaFabric::attach`] expects.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn descriptors(&self, slot: SlotId) -> Result<Vec<OwnedFd>, FabricError> {
        let system = |source| FabricError::System { call: "dup", source };
        let mut fds = vec![self.segment.read_only_fd()?];
        for (index, place) in self.slots.iter().enumerate() {
            fds.push(if index == slot.index() {
                place.segment.duplicate_fd()?
            } else {
                place.segment.read_only_fd()?
            });
        }
        fds.push(self.doorbell.duplicate_fd().map_err(system)?);
        for place in &self.slots {
            fds.push(place.doorbell.duplicate_fd().map_err(system)?);
        }
        Ok(fds)
    }
}

fn control_parts(
    slot: SlotId,
    host: &HostRegion<'_, ViewMut>,
    region: &View,
    config: &FabricConfig,
) -> ProducerParts {
    ProducerParts {
        header: host.control_line(slot),
        data: host.control_data(slot),
        position: SlotRegion(region, config).control_position(),
    }
}

impl HostSlot {
    fn new(
        slot: SlotId,
        segment: Segment,
        doorbell: Doorbell,
        host: &HostRegion<'_, ViewMut>,
        config: &FabricConfig,
    ) -> Result<Self, FabricError> {
        // The host never writes a replica's memory: it only empties it.
        let region = segment.map_read_only()?;
        let control = Producer::new(control_parts(slot, host, &region, config), PartyId::HOST);
        Ok(Self {
            page: ReplicaPageView::new(page(&region)),
            control: Sender::new(control, config.backlog_bytes),
            doorbell,
            outputs: None,
            occupant: ReplicaId::NONE,
            segment,
            region,
        })
    }
}

fn new_doorbell() -> Result<Doorbell, FabricError> {
    Doorbell::new().map_err(|source| FabricError::System { call: "eventfd", source })
}
