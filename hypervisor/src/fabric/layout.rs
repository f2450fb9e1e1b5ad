//! Where everything lies in the regions, and how large it is.

use super::{FabricError, SLOTS, SlotId};
use crate::memory::{PAGE_BYTES, View, ViewMut};
use crate::ring::LINE_BYTES;

/// How many descriptors a replica inherits: the host region, the slots' regions,
/// the host's doorbell, the slots' doorbells.
pub const DESCRIPTORS: usize = 2 * (1 + SLOTS);

/// Sizes of a fabric, in bytes. Ring sizes are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FabricConfig {
    /// The intake ring: all inputs that are not answered yet.
    pub intake_bytes: usize,
    /// The ring from each replica to the host.
    pub output_bytes: usize,
    /// The ring from each replica to each other.
    pub peer_ring_bytes: usize,
    /// The ring from the host to each replica.
    pub control_bytes: usize,
    /// What may wait for room in each of these rings, beside the ring itself.
    pub backlog_bytes: usize,
    /// The largest message that a receiver accepts.
    pub message_bytes: usize,
}

impl Default for FabricConfig {
    fn default() -> Self {
        Self {
            intake_bytes: 4 << 20,
            output_bytes: 4 << 20,
            peer_ring_bytes: 1 << 20,
            control_bytes: 64 << 10,
            backlog_bytes: 32 << 20,
            message_bytes: 16 << 20,
        }
    }
}

const RING_MAX: usize = 1 << 30;

impl FabricConfig {
    pub(super) fn check(&self) -> Result<(), FabricError> {
        for (what, found) in [
            ("intake_bytes", self.intake_bytes),
            ("output_bytes", self.output_bytes),
            ("peer_ring_bytes", self.peer_ring_bytes),
            ("control_bytes", self.control_bytes),
        ] {
            if !found.is_power_of_two() || !(PAGE_BYTES..=RING_MAX).contains(&found) {
                return Err(FabricError::Size { what, found });
            }
        }
        Ok(())
    }

    pub(super) fn host_region_bytes(&self) -> usize {
        DATA + self.intake_bytes + SLOTS * self.control_bytes
    }

    pub(super) fn slot_region_bytes(&self) -> usize {
        DATA + self.output_bytes + SLOTS * self.peer_ring_bytes
    }
}

/// The first page is the owner's page, the second holds the ring lines.
const LINES: usize = PAGE_BYTES;
const DATA: usize = 2 * PAGE_BYTES;

// Lines of the host region.
const INTAKE_LINE: usize = 0;
const CONTROL_LINES: usize = 1;
const OUTPUT_POSITION_LINES: usize = CONTROL_LINES + SLOTS;

// Lines of a slot's region.
const OUTPUT_LINE: usize = 0;
const PEER_LINES: usize = 1;
const CONTROL_POSITION_LINE: usize = PEER_LINES + SLOTS;
const PEER_POSITION_LINES: usize = CONTROL_POSITION_LINE + 1;

/// A region, mapped for reading or for writing.
pub(super) trait Region {
    type Part;
    fn slice(&self, offset: usize, len: usize) -> Self::Part;
}

impl Region for View {
    type Part = View;
    fn slice(&self, offset: usize, len: usize) -> View {
        self.part(offset, len)
    }
}

impl Region for ViewMut {
    type Part = ViewMut;
    fn slice(&self, offset: usize, len: usize) -> ViewMut {
        self.part_mut(offset, len)
    }
}

fn line<R: Region>(region: &R, index: usize) -> R::Part {
    region.slice(LINES + index * LINE_BYTES, LINE_BYTES)
}

/// The owner's page of either kind of region.
pub(super) fn page<R: Region>(region: &R) -> R::Part {
    region.slice(0, PAGE_BYTES)
}

/// The host region.
pub(super) struct HostRegion<'a, R>(pub(super) &'a R, pub(super) &'a FabricConfig);

impl<R: Region> HostRegion<'_, R> {
    pub(super) fn intake_line(&self) -> R::Part {
        line(self.0, INTAKE_LINE)
    }

    pub(super) fn intake_data(&self) -> R::Part {
        self.0.slice(DATA, self.1.intake_bytes)
    }

    pub(super) fn control_line(&self, slot: SlotId) -> R::Part {
        line(self.0, CONTROL_LINES + slot.index())
    }

    pub(super) fn control_data(&self, slot: SlotId) -> R::Part {
        let bytes = self.1.control_bytes;
        self.0.slice(DATA + self.1.intake_bytes + slot.index() * bytes, bytes)
    }

    pub(super) fn output_position(&self, slot: SlotId) -> R::Part {
        line(self.0, OUTPUT_POSITION_LINES + slot.index())
    }
}

/// The region of a slot.
pub(super) struct SlotRegion<'a, R>(pub(super) &'a R, pub(super) &'a FabricConfig);

impl<R: Region> SlotRegion<'_, R> {
    pub(super) fn output_line(&self) -> R::Part {
        line(self.0, OUTPUT_LINE)
    }

    pub(super) fn output_data(&self) -> R::Part {
        self.0.slice(DATA, self.1.output_bytes)
    }

    pub(super) fn peer_line(&self, to: SlotId) -> R::Part {
        line(self.0, PEER_LINES + to.index())
    }

    pub(super) fn peer_data(&self, to: SlotId) -> R::Part {
        let bytes = self.1.peer_ring_bytes;
        self.0.slice(DATA + self.1.output_bytes + to.index() * bytes, bytes)
    }

    pub(super) fn control_position(&self) -> R::Part {
        line(self.0, CONTROL_POSITION_LINE)
    }

    pub(super) fn peer_position(&self, from: SlotId) -> R::Part {
        line(self.0, PEER_POSITION_LINES + from.index())
    }
}
