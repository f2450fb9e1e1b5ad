//! Reports of fault runs: the records that a run writes line by line, and what
//! is made of them afterwards.

pub mod record;
