//! The same random requests to two daemons in lock-step: every answer and every
//! watch event is compared, and from time to time the whole store.
//!
//! Differences that are meant to be are [rules](RULES) with names and reasons;
//! anything else is a [`Failure`], which tells the seed and the shortest
//! sequence of steps that still shows it.

mod endpoint;
mod generate;
mod judge;
mod live;
mod machine;
mod minimize;
mod op;
mod report;
mod rules;
mod run;
mod tree;

use std::fmt;

pub use endpoint::{Answer, Endpoint, EndpointError};
pub use generate::Generator;
pub use live::LiveEndpoint;
pub use machine::MachineEndpoint;
pub use minimize::minimize;
pub use op::{Act, ConnAt, Op, TxHandle, TxRef};
pub use report::{Failure, Report};
pub use rules::{RULES, Rule, special};
pub use run::{random_run, replay};

/// Who speaks on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The domain.
    pub domid: u16,
    /// The connection's number among those of the domain.
    pub number: u8,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dom{}.{}", self.domid, self.number)
    }
}

/// A domain that exists, comes and goes, and never says anything.
pub const SPARE_DOMID: u16 = 5;

/// The connections of a run: three tools in the control domain, and two guests,
/// which can have only one connection each.
pub const CONNECTIONS: [Who; 5] = [
    Who { domid: 0, number: 0 },
    Who { domid: 0, number: 1 },
    Who { domid: 0, number: 2 },
    Who { domid: 1, number: 0 },
    Who { domid: 2, number: 0 },
];
