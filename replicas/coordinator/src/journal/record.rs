//! The decision maker, as the next host is to find it.

use hypervisor::decision::DecisionMaker;
use hypervisor::memory::{ViewMut, WORD_BYTES};

/// The most that is written down, bytes: several times what a group of eight takes.
const ROOM: usize = 128 << 10;
/// The place for it, twice, and the word that says which counts.
pub(super) const BYTES: usize = 2 * ROOM + 4096;

const HALF: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    /// Which half counts, and how many bytes.
    end: ViewMut,
    halves: [ViewMut; 2],
}

impl Record {
    pub(super) fn new(memory: ViewMut) -> Self {
        let half = |index: usize| memory.part_mut(4096 + index * ROOM, ROOM);
        Self { end: memory.part_mut(0, WORD_BYTES), halves: [half(0), half(1)] }
    }

    /// Writes it down instead of what was there; whether it could be.
    pub(crate) fn write(&self, decisions: &DecisionMaker) -> bool {
        let Ok(text) = serde_json::to_vec(decisions) else { return false };
        if text.len() > ROOM {
            return false;
        }
        let half = usize::from(self.end.load(0) & HALF == 0);
        self.halves[half].write(0, &text);
        let which = if half == 1 { HALF } else { 0 };
        self.end.store_release(0, which | text.len() as u64);
        true
    }

    /// What was written down last.
    pub(crate) fn read(&self) -> Option<DecisionMaker> {
        let word = self.end.load(0);
        let len = usize::try_from(word & !HALF).ok().filter(|len| (1..=ROOM).contains(len))?;
        let mut text = Vec::new();
        self.halves[usize::from(word & HALF != 0)].append_to(0, len, &mut text);
        serde_json::from_slice(&text).ok()
    }
}
