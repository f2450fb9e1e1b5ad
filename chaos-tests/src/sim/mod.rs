//! The deterministic simulator: the production code of a whole host in one
//! thread, under a virtual clock, with every kind of fault drawn from one seed.

pub mod client;
pub mod disk;
pub mod judge;
pub mod mix;
