//! stub
use alloc::vec::Vec;
use state_machine::RestoreError;
use crate::state::State;
pub(crate) fn encode(_s: &State, _out: &mut Vec<u8>) {}
pub(crate) fn restore(_b: &[u8]) -> Result<State, RestoreError> { Ok(State::default()) }
