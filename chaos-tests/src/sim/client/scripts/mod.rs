//! The sorts of clients.

mod counters;
mod guest;
mod hostile;
mod registers;
mod replayer;
mod toolstack;
mod tree;
mod watcher;

pub(super) use counters::Counters;
pub(super) use guest::Guest;
pub(super) use hostile::Hostile;
pub(super) use registers::Registers;
pub(super) use replayer::Replayer;
pub(super) use toolstack::Toolstack;
pub(super) use tree::Tree;
pub(super) use watcher::Watcher;

use xenstore::wire::Errno;

use crate::rng::Rng;

/// Path and NUL.
fn path(text: &str) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    payload.push(0);
    payload
}

/// Path, NUL and value.
fn pair(text: &str, value: &[u8]) -> Vec<u8> {
    let mut payload = path(text);
    payload.extend_from_slice(value);
    payload
}

/// Path and token, or other strings, each with a NUL.
fn strings(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| text.bytes().chain([0])).collect()
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim_end_matches('\0').parse().ok()
}

/// A pause around `mean_us`, sometimes a long one.
fn think(rng: &mut Rng, mean_us: u64) -> u64 {
    let mean = usize::try_from(mean_us).unwrap_or(usize::MAX / 16);
    let pause = if rng.percent(4) { rng.below(mean * 12) } else { rng.below(mean * 2) };
    pause as u64 + 1
}

/// Whether an answer that should be `OK` may be this error: the request was
/// found to kill whoever executes it.
fn is_quarantine(errno: Errno) -> bool {
    errno == Errno::EIO
}
