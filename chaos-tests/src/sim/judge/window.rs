//! The black-box judge: linearizability of registers from what clients saw
//! alone, on short windows of a run.
//!
//! A window is about one register. What it held when the window began is not
//! known, but all writes that were under way then are; so whatever else a read
//! sees is the register's first value, and there can be only one.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::check_register;
use crate::history::{Action, Nanos, RegisterOp, Span};
use crate::rng::Rng;
use crate::sim::client::{RegisterCall, RegisterEvent};

/// A history that no register has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowFault {
    /// The register.
    pub key: u32,
    /// The contradiction, in words. Times are places in the order of what the
    /// clients did.
    pub why: String,
    /// The requests of the window.
    pub ops: Vec<RegisterOp>,
}

/// A request, by its client and the client's own number for it.
type OpName = (u32, u64);

#[derive(Debug)]
struct Window {
    key: u32,
    ops: Vec<RegisterOp>,
    /// How many of `ops` were under way when the window began.
    carried: usize,
    open: BTreeMap<OpName, usize>,
    left: usize,
}

/// Takes short windows out of a run and judges each.
#[derive(Debug)]
pub struct Sampler {
    rng: Rng,
    window_ops: usize,
    pause_ops: usize,
    keys: u32,
    clock: Nanos,
    under_way: BTreeMap<OpName, (u32, RegisterCall, Nanos)>,
    window: Option<Window>,
    pause: usize,
    judged: u64,
}

impl Sampler {
    /// Windows of `window_ops` requests on one of `keys` registers, with
    /// `pause_ops` requests on any of them in between.
    #[must_use]
    pub fn new(seed: u64, keys: u32, window_ops: usize, pause_ops: usize) -> Self {
        Self {
            rng: Rng::new(seed),
            window_ops,
            pause_ops,
            keys,
            clock: 0,
            under_way: BTreeMap::new(),
            window: None,
            pause: 0,
            judged: 0,
        }
    }

    /// Windows that were judged.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.judged
    }

    /// Takes in what a client did on a register.
    ///
    /// # Errors
    /// [`WindowFault`] when a window that ended is not linearizable.
    pub fn note(&mut self, client: u32, event: &RegisterEvent) -> Result<(), WindowFault> {
        self.clock += 1;
        match *event {
            RegisterEvent::Invoked { op, key, call } => {
                self.invoked((client, op), key, call);
                Ok(())
            }
            RegisterEvent::Returned { op, seen } => self.returned((client, op), seen),
            RegisterEvent::Unknown { op } => {
                self.under_way.remove(&(client, op));
                if let Some(window) = &mut self.window {
                    window.open.remove(&(client, op));
                }
                Ok(())
            }
        }
    }

    fn invoked(&mut self, name: OpName, key: u32, call: RegisterCall) {
        if self.window.is_none() {
            self.pause = self.pause.saturating_sub(1);
            if self.pause == 0 {
                self.begin();
            }
        }
        self.under_way.insert(name, (key, call, self.clock));
        if let Some(window) = self.window.as_mut().filter(|window| window.key == key) {
            window.add(name, call, self.clock);
        }
    }

    fn begin(&mut self) {
        let key = u32::try_from(self.rng.below(self.keys as usize)).unwrap_or(0);
        let mut window = Window {
            key,
            ops: Vec::new(),
            carried: 0,
            open: BTreeMap::new(),
            left: self.window_ops,
        };
        // A read that began before may have seen an older value.
        for (name, (at, call, invoked)) in &self.under_way {
            if *at == key && matches!(call, RegisterCall::Write(_)) {
                window.add(*name, *call, *invoked);
            }
        }
        window.carried = window.ops.len();
        self.window = Some(window);
    }

    fn returned(&mut self, name: OpName, seen: Option<u64>) -> Result<(), WindowFault> {
        self.under_way.remove(&name);
        let Some(window) = &mut self.window else { return Ok(()) };
        let Some(at) = window.open.remove(&name) else { return Ok(()) };
        let op = &mut window.ops[at];
        op.span.returned = Some(self.clock);
        if matches!(op.action, Action::Read(_)) {
            op.action = Action::Read(seen);
        }
        window.left = window.left.saturating_sub(1);
        if window.left > 0 {
            return Ok(());
        }
        self.end()
    }

    /// Ends the window and judges it.
    ///
    /// # Errors
    /// [`WindowFault`] when it is not linearizable.
    pub fn end(&mut self) -> Result<(), WindowFault> {
        let Some(window) = self.window.take() else { return Ok(()) };
        self.pause = self.pause_ops;
        self.judged += 1;
        check_window(&window.ops, window.carried).map_err(|why| WindowFault {
            key: window.key,
            why,
            ops: window.ops,
        })
    }
}

impl Window {
    fn add(&mut self, name: OpName, call: RegisterCall, invoked: Nanos) {
        let action = match call {
            RegisterCall::Write(value) => Action::Write(value),
            RegisterCall::Read => Action::Read(None),
        };
        self.open.insert(name, self.ops.len());
        let span = Span { invoked, returned: None };
        self.ops.push(RegisterOp { key: self.key, action, span });
    }
}

/// Whether there is a first value with which the history is linearizable; the
/// first `carried` requests are writes that began before the window.
fn check_window(ops: &[RegisterOp], carried: usize) -> Result<(), String> {
    let written: BTreeSet<u64> = ops
        .iter()
        .filter_map(|op| match op.action {
            Action::Write(value) => Some(value),
            Action::Read(_) => None,
        })
        .collect();
    // Of unanswered reads nobody knows what they saw.
    let seen: BTreeSet<Option<u64>> = ops
        .iter()
        .filter(|op| op.span.returned.is_some())
        .filter_map(|op| match op.action {
            Action::Read(seen) => Some(seen),
            Action::Write(_) => None,
        })
        .collect();
    let mut firsts =
        seen.iter().filter(|value| value.is_none_or(|value| !written.contains(&value)));
    let first = firsts.next().copied().flatten();
    if let Some(second) = firsts.next() {
        return Err(format!("reads saw {first:x?} and {second:x?}, neither written in the window"));
    }
    let known: Vec<RegisterOp> = ops
        .iter()
        .enumerate()
        .filter(|(at, op)| match op.action {
            // One that nobody in the window saw may have been over before it.
            Action::Write(value) => *at >= carried || seen.contains(&Some(value)),
            Action::Read(_) => true,
        })
        .map(|(_, op)| match op.action {
            Action::Read(value) if value == first => {
                RegisterOp { action: Action::Read(None), ..*op }
            }
            _ => *op,
        })
        .collect();
    check_register(&known)
}

#[cfg(test)]
mod tests;
