//! Whole groups in one process, on a network that does what the test wants.

mod faults;
mod hostile;
mod membership;
mod paths;
#[cfg(feature = "rocksdb")]
mod rocks;
mod store;
mod world;
