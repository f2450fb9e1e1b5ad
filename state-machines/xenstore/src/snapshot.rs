//! The state in portable form: Xen's migration stream, and records of our own
//! after or before those that cannot say everything.
//!
//! The order is quotas, domains, connections with their watches, the nodes, and
//! then the open transactions, each as its operations and as what it made of
//! the nodes.

mod below;
mod difference;
mod reading;
mod writing;

pub(crate) use reading::{PermsPool, quotas_from, restore};
#[cfg(test)]
pub(crate) use writing::BIRTHS;
pub(crate) use writing::{Cursor, encode_part, put_nodes, quotas_to, ring};

/// Our own record types.
mod tag {
    /// Counters and switches.
    pub(super) const CORE: u8 = 1;
    /// What a DOMAIN record cannot say; it follows one.
    pub(super) const DOMAIN: u8 = 2;
    /// What a CONNECTION record cannot say; it follows one.
    pub(super) const CONN: u8 = 3;
    /// What a WATCH record cannot say; it comes before one.
    pub(super) const WATCH: u8 = 4;
    /// Births and generations of the NODE records to come.
    pub(super) const BIRTHS: u8 = 5;
    /// What a TRANSACTION record cannot say; it follows one.
    pub(super) const TRANSACTION: u8 = 6;
    /// An operation of the last transaction.
    pub(super) const OPERATION: u8 = 7;
    /// Who waits for a transaction to succeed.
    pub(super) const FAIR: u8 = 8;
}
