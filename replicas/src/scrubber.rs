//! Checks the state bit by bit, in slices that hold nobody up.

use state_machine::ScrubProgress;

use crate::error::Fatal;
use crate::executor::Execute;

/// Items checked in the smallest and the largest slice of scrubbing.
const SCRUB_BUDGETS: (usize, usize) = (32, 256);
/// Slices in which a pass of scrubbing should be done.
const SCRUB_SLICES: u32 = 20;

/// Checks so fast that a pass takes about [`SCRUB_SLICES`] slices, within bounds.
pub(crate) struct Scrubber {
    budget: usize,
    slices: u32,
}

impl Default for Scrubber {
    fn default() -> Self {
        Self { budget: SCRUB_BUDGETS.0, slices: 0 }
    }
}

impl Scrubber {
    /// Checks a slice; one as long as `stretch` others, when they come as seldom.
    pub(crate) fn slice(&mut self, executor: &mut impl Execute, stretch: u32) -> Result<(), Fatal> {
        self.slices += stretch;
        match executor.scrub(self.budget * stretch as usize)? {
            ScrubProgress::PassDone => {
                if self.slices <= SCRUB_SLICES / 4 {
                    self.budget = (self.budget / 2).max(SCRUB_BUDGETS.0);
                }
                self.slices = 0;
            }
            ScrubProgress::Within if self.slices >= SCRUB_SLICES => {
                self.budget = (self.budget * 2).min(SCRUB_BUDGETS.1);
                self.slices = 0;
            }
            ScrubProgress::Within => {}
        }
        Ok(())
    }
}
