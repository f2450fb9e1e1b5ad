//! Rings in memory of their own, for tests.

use std::sync::Arc;

use super::{Consumer, ConsumerParts, LINE_BYTES, PartyId, Producer, ProducerParts};
use crate::memory::{Fuse, PAGE_BYTES, Segment, ViewMut};

pub(super) const PRODUCER: PartyId = PartyId(7);
pub(super) const CONSUMER: PartyId = PartyId(9);

/// The memory of one ring: a page of lines, then the data.
pub(super) struct RingMemory {
    all: ViewMut,
    capacity: usize,
}

impl RingMemory {
    pub(super) fn new(capacity: usize) -> Self {
        Self::fused(capacity, None)
    }

    pub(super) fn fused(capacity: usize, fuse: Option<Arc<Fuse>>) -> Self {
        let data = capacity.next_multiple_of(PAGE_BYTES);
        let segment = Segment::create("test-ring", PAGE_BYTES + data).unwrap();
        Self { all: segment.map_fused(fuse).unwrap(), capacity }
    }

    pub(super) fn header(&self) -> ViewMut {
        self.all.part_mut(0, LINE_BYTES)
    }

    pub(super) fn position(&self) -> ViewMut {
        self.all.part_mut(LINE_BYTES, LINE_BYTES)
    }

    pub(super) fn data(&self) -> ViewMut {
        self.all.part_mut(PAGE_BYTES, self.capacity)
    }

    pub(super) fn producer(&self, me: PartyId) -> Producer {
        let position = self.position().read_only();
        Producer::new(ProducerParts { header: self.header(), data: self.data(), position }, me)
    }

    pub(super) fn consumer(&self, me: PartyId, producer: PartyId) -> Consumer {
        let header = self.header().read_only();
        let data = self.data().read_only();
        Consumer::new(ConsumerParts { header, data, position: self.position() }, me, producer)
    }

    pub(super) fn pair(&self) -> (Producer, Consumer) {
        let mut producer = self.producer(PRODUCER);
        producer.bind(CONSUMER);
        (producer, self.consumer(CONSUMER, PRODUCER))
    }
}

/// Deterministic bytes that differ from record to record.
pub(super) fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_mul(31) ^ i.wrapping_mul(7)) as u8).collect()
}
